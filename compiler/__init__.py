"""Recipe to lowered module: the graph of a recipe, what is proved about it, and what it becomes."""
