"""Images as every part of the room sees them: through the arena's one reader.

Upright, RGB, 8 bits a channel, transparency over white. What is no image, cut off, animated, too
large or no regular file is one sentence.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from arena.votes.images import ImageFault, Images
from evaluation.kept import Key

READERS = ThreadPoolExecutor(min(16, os.cpu_count() or 1))
FILES = Images()  # names are paths


def light(image: Image.Image) -> np.ndarray:
    """(brightness, saturation) of an image (2,), each the mean over its pixels, from 0 to 1.

    Brightness is luma (ITU-R BT.601, as Pillow's "L"); saturation is HSV's, (max - min) / max of
    the three channels, 0 for black.
    """
    small = image.reduce(max(1, min(image.size) // 256))
    pixels = np.asarray(small, dtype=np.float32)
    highest, lowest = pixels.max(axis=2), pixels.min(axis=2)
    saturation = (highest - lowest) / np.maximum(highest, 1)
    luma = pixels @ (0.299, 0.587, 0.114)
    return np.array([luma.mean() / 255, saturation.mean()], dtype=float)


def tiny(image: Image.Image) -> np.ndarray:
    """An image as 16 x 16 RGB values from 0 to 1, for where no vision tower is at hand."""
    small = image.resize((16, 16), Image.Resampling.BOX)
    return np.asarray(small, dtype=float).ravel() / 255


class Pictures:
    """Images with their prompts: what they are known by, and what is wrong with them.

    names : of the images, as `source` knows them. origins : what each row is called in messages.
    first : the first row of each different image and prompt. faults : row -> why there is no image.
    """

    def __init__(
        self, prompts: Sequence[str], names: Sequence[str], source: Images, origins: Sequence[str]
    ):
        self.prompts, self.names, self.source, self.origins = prompts, names, source, origins
        self.faults: dict[int, str] = {}
        self.keys: list[Key | None] = [*READERS.map(self.key, range(len(prompts)))]
        self.first: dict[Key, int] = {}
        for row, key in enumerate(self.keys):
            if key is not None:
                self.first.setdefault(key, row)

    def key(self, row: int) -> Key | None:
        """Key of a row's image and prompt; None where there are no bytes, which is noted."""
        said = self.prompts[row].encode("utf-8", "surrogatepass")
        try:
            content = self.source.content(self.names[row])
        except ImageFault as fault:
            self.faults[row] = str(fault)
            return None
        return hashlib.sha256(content).hexdigest(), hashlib.sha256(said).hexdigest()

    def batches(
        self, rows: Sequence[int], size: int
    ) -> Iterator[tuple[list[int], list[Image.Image]]]:
        """Rows whose images opened, with these; the next batch is opened while one is scored."""
        runs = [rows[start : start + size] for start in range(0, len(rows), size)]
        opening: list[Any] = []
        for run in [*runs, []]:
            ahead = [(row, READERS.submit(self.source.read, self.names[row])) for row in run]
            whole = []
            for row, image in opening:
                try:
                    whole.append((row, image.result()))
                except ImageFault as fault:
                    self.faults[row] = str(fault)
            if opening:
                yield [row for row, _ in whole], [image for _, image in whole]
            opening = ahead

    def problems(self) -> list[str]:
        """A sentence for every row that holds no image."""
        whys = {self.keys[row]: why for row, why in self.faults.items() if self.keys[row]}
        found = [self.faults.get(row) or whys.get(key) for row, key in enumerate(self.keys)]
        rows = zip(self.origins, self.names, found, strict=True)
        return [
            f"{origin}: {why}" if origin == name else f"{origin}: image {name}: {why}"
            for origin, name, why in rows
            if why
        ]
