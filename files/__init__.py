"""Files at the bottom of the house: their checksums, and what others wrote; it imports nothing of the project."""
