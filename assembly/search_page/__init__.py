"""A page in the browser, served on one's own machine, that searches a gallery (docs/search.md, scripts/serve.py)."""
