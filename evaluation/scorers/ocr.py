"""Is the text that a prompt asks for in the image? Needs the extra `ocr` (the package rapidocr).

The text is what the prompt has in quotation marks. The score is 1 - distance / length, distance
being the least number of letters to change, add or drop between what is asked for and what is read
(Levenshtein), letter case and blanks apart; 1 is right, and no image scores below 0. A prompt
without quotation marks is not scored.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”|«([^»]+)»|„([^“”]+)[“”]|(?<!\w)\'([^\']+)\'(?!\w)')


def asked_text(prompt: str) -> str:
    """Everything that the prompt has in quotation marks; "" where there is nothing."""
    return " ".join(next(filter(None, one)) for one in QUOTED.findall(prompt))


def plain(text: str) -> str:
    """Letters and digits, without case."""
    return "".join(letter for letter in text.casefold() if letter.isalnum())


def distance(a: str, b: str) -> int:
    """Levenshtein's distance of two texts."""
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, start=1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (letter != other))
    return row[-1]


def accuracy(wanted: str, read: str) -> float:
    """1 for the text that was asked for, 0 for one that has nothing of it."""
    wanted, read = plain(wanted), plain(read)
    return max(0.0, 1 - distance(wanted, read) / max(len(wanted), 1))


class OcrScorer:
    """How well an image spells the text that its prompt asks for, 0 to 1."""

    def __init__(self, reader: Any):
        self.reader = reader

    def asks(self, prompt: str) -> bool:
        """Whether the prompt asks for any text."""
        return bool(plain(asked_text(prompt)))

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:
        """Scores, float64 (n,)."""
        read = [self.reader(np.asarray(image)[:, :, ::-1]).txts or () for image in images]
        return np.array(
            [accuracy(asked_text(p), " ".join(r)) for p, r in zip(prompts, read, strict=True)]
        )


def ocr() -> OcrScorer:
    """Load RapidOCR, whose models come with the package."""
    from rapidocr import RapidOCR

    return OcrScorer(RapidOCR())
