"""Metrics, evaluation, checkpoints and what surrounds a run; knows no model, loss or data set."""
