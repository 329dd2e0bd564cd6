"""A complete small text-to-image world made from real handwriting."""
