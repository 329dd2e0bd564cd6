"""What can be wrong with one image, and how large one may be."""

MOST_BYTES = 1 << 26


class ImageFault(ValueError):
    """An image that cannot be trained on, and why; its votes stay in the arena."""
