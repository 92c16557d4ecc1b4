"""The losses of the paper, one a file, and their weighted total."""
