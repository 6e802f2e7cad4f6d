"""From the width of a tower to the width of the language model."""
