"""Networks, losses, data and tools put together as a configuration says: what train.py, test.py and scripts/ share."""
