"""Search in very large galleries: index, compression, nearest neighbours."""
