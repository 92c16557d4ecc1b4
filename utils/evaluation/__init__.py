"""From embeddings to figures: each image once, metrics, protocols, re-ranking, distances."""
