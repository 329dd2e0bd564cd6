"""What is measured on an image of a digit: its ink, its slant, and how far they fit a caption.

An image is an array (32, 32) of light strokes on a dark ground, 0 to 1. Numpy alone, because the
scorer runs where nothing but torch is installed. Recognising the digit is in `classifier`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 32  # pixels
Array = NDArray[np.float64]


def grey(image: Image.Image) -> Array:
    """Return a picture as (32, 32) brightness between 0 and 1."""
    if image.size != (SIDE, SIDE):
        image = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(image.convert("L"), dtype=np.float64) / 255


def ink(images: Array) -> Array:
    """Return the mean brightness of each image, (n, 32, 32) -> (n,)."""
    return np.asarray(images, dtype=np.float64).mean(axis=(1, 2))


def slant(images: Array) -> Array:
    """Return the shear of each image, (n, 32, 32) -> (n,); positive leans right.

    The second central moments give it: -mu11 / mu02 is the sideways shift for each pixel upwards
    (rows count downwards, hence the sign). An empty image has slant 0.
    """
    images = np.asarray(images, dtype=np.float64)
    row, column = np.mgrid[: images.shape[1], : images.shape[2]]
    mass = images.sum(axis=(1, 2)) + 1e-9
    down = row - ((images * row).sum(axis=(1, 2)) / mass)[:, None, None]
    right = column - ((images * column).sum(axis=(1, 2)) / mass)[:, None, None]
    mu11 = (images * down * right).sum(axis=(1, 2))
    mu02 = (images * down * down).sum(axis=(1, 2))
    return -mu11 / (mu02 + 1e-9)


@dataclass(frozen=True)
class Thirds:
    """The two values that cut each digit's real examples into three equal parts.

    The cut is made within each digit, because an eight holds more ink than a one and a seven leans
    more than a six: a "bold one" is bold for a one.
    """

    lower: Array  # (10,)
    upper: Array  # (10,)

    @classmethod
    def of(cls, values: Array, labels: NDArray[np.int64]) -> "Thirds":
        """Cut the measured `values` (n,) of real digits with `labels` (n,)."""
        lower, upper = zip(
            *(np.quantile(values[labels == digit], (1 / 3, 2 / 3)) for digit in range(10)),
            strict=True,
        )
        return cls(np.array(lower), np.array(upper))

    def part(self, values: Array, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return 0, 1 or 2 for each value: the lower, the middle or the upper third."""
        return (values > self.lower[labels]).astype(np.int64) + (values > self.upper[labels])

    def agreement(self, value: float, digit: int, part: int) -> float:
        """Return how far a value belongs to a third, between 0 and 1; over the three it sums to 1.

        The edges are soft (a quarter of the middle third's width), as nobody sees a hard one.
        """
        lower, upper = self.lower[digit], self.upper[digit]
        softness = (upper - lower) / 4
        below = _sigmoid((lower - value) / softness)
        above = _sigmoid((value - upper) / softness)
        return float((below, 1 - below - above, above)[part])

    def as_lists(self) -> dict[str, list[float]]:
        """Return the cuts as plain numbers, for a JSON file."""
        return {"lower": self.lower.tolist(), "upper": self.upper.tolist()}

    @classmethod
    def from_lists(cls, lists: Mapping[str, list[float]]) -> "Thirds":
        """Read what `as_lists` wrote."""
        return cls(np.array(lists["lower"]), np.array(lists["upper"]))


def _sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-np.clip(x, -60, 60))))
