"""How large a recipe may be: generous for what a person writes, small enough to answer soon."""

LONGEST_TEXT = 65_536
"""Characters of a file."""
DEEPEST_NESTING = 100
"""Brackets inside one another, and operators that a value joins."""
LONGEST_CHAIN = 60
"""References from one value through others, and recipes that need one another."""
