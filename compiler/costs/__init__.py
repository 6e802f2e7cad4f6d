"""What a step computes and keeps, found out in shapes alone: no number of a model is touched."""
