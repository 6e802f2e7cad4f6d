"""A compiler for recipes of vision-language models."""
