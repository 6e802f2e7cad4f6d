"""How large a recipe may be: generous for what a person writes, small enough to answer soon."""

LONGEST_TEXT = 65_536
"""Characters of a file (E105)."""
DEEPEST_NESTING = 100
"""Brackets inside one another, and values that operators join in a row (E110)."""
LONGEST_CHAIN = 60
"""References from one value to the next, and recipes each of which needs the next (E111)."""
MOST_BLOCKS = 250
"""Blocks of a recipe, with all that it inherits and imports (E112)."""
MOST_STATEMENTS = 1_000
"""Statements of a block, with those of its bases (E112)."""
MOST_FILES = 60
"""Files that a recipe reads, itself included (E112)."""
MOST_FINDINGS = 100
"""Mistakes that one run reports: more would teach nothing."""
MOST_LAYERS = 512
"""Blocks of one tower, adapter or language model: four times as deep as any that is published."""
MOST_TILES = 1_000
"""Tiles that a picture is cut into."""
HIGHEST_FLOOR = 10_000_000
"""Tokens that a budget may ask of any picture: every height up to its root is looked at."""
