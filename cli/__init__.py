"""The command line: one file a command, and main.py that prints every error."""
