"""The options (defaults.py) and the yaml files that set them for a data set."""
