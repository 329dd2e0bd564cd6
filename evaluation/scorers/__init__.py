"""Scorers: how good is an image for its prompt?

All of them share one interface, `Scorer`; `evaluation.scorers.load` makes one from its name.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from PIL import Image


class Scorer(Protocol):
    """Anything that scores images against prompts; higher is better."""

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:
        """Scores, float64 (n,), of n images for their n prompts."""
        ...
