"""Text to recipe: reads, checks and formats what an author wrote; knows nothing of torch."""
