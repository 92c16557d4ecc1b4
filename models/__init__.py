"""The network: one file for each module of the paper, and the whole in cmfn.py."""
