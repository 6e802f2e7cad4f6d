"""The recipes that ship, found by name."""
