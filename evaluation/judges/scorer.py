"""A scorer as judge: the image with the highest score is the best."""

from typing import Any

import numpy as np

from evaluation.judges import Question, open_image
from evaluation.scorers import Scorer


class ScorerJudge:
    """Ranks by a scorer's score; equal scores tie."""

    def __init__(self, name: str, scorer: Scorer):
        self.name = name
        self.scorer = scorer

    def rank(self, question: Question) -> list[float]:
        """Number of images that score higher, for each of the five."""
        images = [open_image(path) for path in question.images]
        scores = np.asarray(self.scorer.score([question.prompt] * len(images), images))
        return [float((scores > score).sum()) for score in scores]

    def summary(self) -> dict[str, Any]:
        """Name of the judge."""
        return {"name": self.name}
