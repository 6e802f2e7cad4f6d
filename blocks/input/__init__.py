"""From pictures, clips and text to a model's inputs; sizes.py and layout.py need no torch."""
