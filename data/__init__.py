"""Images on disk -> records -> batches: one reader for each data set, one pipeline for all."""
