"""Scorers: how good is an image for its prompt?

All of them share one interface, `Scorer`. Which there are, what they are called and what they are
made of is declared in `evaluation.scorers.naming`; each one's module is imported only when it is
asked for.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from PIL import Image


class Scorer(Protocol):
    """Anything that scores images against prompts; higher is better.

    A scorer may have further attributes:

    also : names of further numbers that it gives for each image, beside the score.
    asks(prompt) : False where the scorer has nothing to say about a prompt, which is no failure.
    towers : the `ClipTowers` whose image embeddings measure how alike the images of a prompt are.
    """

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:
        """Scores of n images for their n prompts: float64 (n,), or (n, 1 + len(also))."""
        ...
