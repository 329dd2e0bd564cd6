"""What can be wrong with one image."""

from arena.escape import printable


class ImageFault(ValueError):
    """An image that cannot be trained on, and why; its votes stay in the arena."""

    def __init__(self, said: str) -> None:
        super().__init__(printable(said))
