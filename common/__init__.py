"""What every room may import: checksums, files of weights, how options are declared."""
