"""Images as every part of the room sees them: through the arena's one decoder.

Upright, RGB, 8 bits a channel, transparency over white. What is no image, cut off, animated or too
large is one sentence.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from evaluation.errors import EvaluationError


def decode(content: bytes) -> Image.Image:
    """The image in some bytes; raises EvaluationError saying why there is none."""
    from arena.votes.image_fault import ImageFault
    from arena.votes.images import decoded

    try:
        return decoded(content)
    except ImageFault as fault:
        raise EvaluationError(str(fault)) from fault


def read_bytes(path: Path) -> bytes:
    """A file's bytes; raises EvaluationError saying why there are none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise EvaluationError("no such file") from None
    except (OSError, ValueError) as error:
        raise EvaluationError(getattr(error, "strerror", None) or str(error)) from error


def read(path: Path) -> Image.Image:
    """The image in a file; raises EvaluationError that names it."""
    try:
        return decode(read_bytes(path))
    except EvaluationError as error:
        raise EvaluationError(f"{path}: not a readable image: {error}") from error


def light(image: Image.Image) -> tuple[float, float]:
    """(brightness, saturation) of an image, each the mean over its pixels, from 0 to 1.

    Brightness is luma (ITU-R BT.601, as Pillow's "L"); saturation is HSV's, (max - min) / max of
    the three channels, 0 for black.
    """
    small = image.reduce(max(1, min(image.size) // 256))
    pixels = np.asarray(small, dtype=np.float32)
    highest, lowest = pixels.max(axis=2), pixels.min(axis=2)
    saturation = (highest - lowest) / np.maximum(highest, 1)
    return float((pixels @ (0.299, 0.587, 0.114)).mean() / 255), float(saturation.mean())


def thumbnail(image: Image.Image, side: int = 16) -> np.ndarray:
    """An image as `side` x `side` RGB values from 0 to 1, for where no vision tower is at hand."""
    small = image.resize((side, side), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32).ravel() / 255
