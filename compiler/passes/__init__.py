"""One pass a file: from one valid graph to another, the old one left as it was."""
