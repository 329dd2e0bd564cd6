"""Images as every part of the room sees them: through the arena's one decoder.

Upright, RGB, 8 bits a channel, transparency over white. What is no image, cut off, animated or too
large is one sentence.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evaluation.errors import EvaluationError
from evaluation.kept import Key, key_of

READERS = ThreadPoolExecutor(min(16, os.cpu_count() or 1))


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


class Light:
    """Brightness and saturation of images."""

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:
        """Float64 (n, 2)."""
        return np.array([*READERS.map(light, images)])


class Embedding:
    """Unit embeddings by a CLIP scorer's image tower, or small pixels where there is none."""

    def __init__(self, scorer: Any = None):
        self.towers = getattr(scorer, "towers", None)

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:
        """Float64 (n, d)."""
        if self.towers is None:
            return np.array([*READERS.map(thumbnail, images)], dtype=float)
        return self.towers.image_features(images).double().cpu().numpy()


class Images:
    """Images with their prompts: what they are known by, and what is wrong with them.

    read : from a row's number to the image's bytes; raises EvaluationError. origins : what each row
    is called in messages.
    """

    def __init__(
        self, prompts: Sequence[str], read: Callable[[int], bytes], origins: Sequence[str]
    ):
        self.prompts, self.read, self.origins = prompts, read, origins
        self.faults: dict[int, str] = {}
        self.keys: list[Key | None] = [*READERS.map(self.key, range(len(prompts)))]

    def key(self, row: int) -> Key | None:
        """Key of a row's image and prompt; None where the file cannot be read."""
        try:
            return key_of(self.read(row), self.prompts[row])
        except EvaluationError as error:
            self.faults[row] = str(error)
            return None

    def open(self, row: int) -> Image.Image | None:
        """The row's image; None where it is none, which is noted."""
        try:
            return decode(self.read(row))
        except EvaluationError as error:
            self.faults[row] = str(error)
            return None

    def rows(self) -> dict[Key, int]:
        """The first row of each different image and prompt."""
        known = [(key, row) for row, key in enumerate(self.keys) if key is not None]
        return dict(reversed(known))

    def all_faults(self) -> list[tuple[int, str]]:
        """(row, what is wrong) of every row that holds no image."""
        whys = {self.keys[row]: why for row, why in self.faults.items() if self.keys[row]}
        found = [(row, self.faults.get(row) or whys.get(key)) for row, key in enumerate(self.keys)]
        return [(row, why) for row, why in found if why]

    def batches(
        self, rows: Sequence[int], size: int
    ) -> Iterator[tuple[list[int], list[Image.Image]]]:
        """Rows whose images opened, with these; the next batch is opened while one is scored."""
        runs = [rows[start : start + size] for start in range(0, len(rows), size)]
        ahead = [READERS.submit(self.open, row) for row in (runs or [[]])[0]]
        for run, following in zip(runs, [*runs[1:], []], strict=False):
            opening = ahead
            ahead = [READERS.submit(self.open, row) for row in following]
            found = [(row, one.result()) for row, one in zip(run, opening, strict=True)]
            whole = [(row, image) for row, image in found if image is not None]
            yield [row for row, _ in whole], [image for _, image in whole]
