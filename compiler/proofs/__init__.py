"""What is proved of a recipe before a weight is loaded, one subject a file."""
