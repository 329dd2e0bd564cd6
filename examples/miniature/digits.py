"""The real handwriting: the 1,797 UCI digits that ship inside scikit-learn, enlarged to 32 x 32.

Here: loading, three disjoint splits, and the attributes measured on each digit. What is measured,
and how, is in `measures`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from examples.miniature.measures import SIDE, Array, Thirds, ink, slant

SHARES = {"training": 0.5, "scorer": 0.25, "held_out": 0.25}


@dataclass(frozen=True)
class Digits:
    """Real digits: images (n, 32, 32) from 0 to 1, labels (n,), and their measured thirds (n,)."""

    images: Array
    labels: NDArray[np.int64]
    weight: NDArray[np.int64]  # 0 thin, 1 regular, 2 bold
    slant: NDArray[np.int64]  # 0 left, 1 upright, 2 right
    weight_thirds: Thirds
    slant_thirds: Thirds


def load_splits(seed: int) -> dict[str, Digits]:
    """Return the splits `training`, `scorer` and `held_out`, disjoint, each with every digit.

    Weight and slant are cut into thirds within each digit of the same split, so the generators, the
    scorer and the raters each know the words from their own real examples.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.stack([_enlarge(image) for image in bunch.images])
    labels = bunch.target.astype(np.int64)
    rng = np.random.default_rng(seed)
    members: dict[str, list[NDArray[np.int64]]] = {name: [] for name in SHARES}
    for digit in range(10):
        order = rng.permutation(np.flatnonzero(labels == digit))
        ends = np.round(np.cumsum(list(SHARES.values())) * len(order)).astype(int)
        for name, part in zip(SHARES, np.split(order, ends[:-1]), strict=True):
            members[name].append(part)
    return {
        name: _measured(images, labels, np.concatenate(parts)) for name, parts in members.items()
    }


def _enlarge(image: Array) -> Array:
    """Enlarge 8 x 8 values from 0 to 16 to 32 x 32 from 0 to 1."""
    small = Image.fromarray(np.round(image * 255 / 16).astype(np.uint8))
    return np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float64) / 255


def _measured(images: Array, labels: NDArray[np.int64], chosen: NDArray[np.int64]) -> Digits:
    images, labels = images[chosen], labels[chosen]
    inks, slants = ink(images), slant(images)
    weight_thirds, slant_thirds = Thirds.of(inks, labels), Thirds.of(slants, labels)
    return Digits(
        images=images,
        labels=labels,
        weight=weight_thirds.part(inks, labels),
        slant=slant_thirds.part(slants, labels),
        weight_thirds=weight_thirds,
        slant_thirds=slant_thirds,
    )
