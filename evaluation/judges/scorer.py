"""A scorer as judge: the image with the highest score is the best."""

from typing import Any

import numpy as np

from evaluation import pictures
from evaluation.judges import Question, Refused
from evaluation.score import score_batch
from evaluation.scorers import Scorer


class ScorerJudge:
    """Ranks by a scorer's score; equal scores tie."""

    def __init__(self, name: str, scorer: Scorer, weights: str):
        self.name = name
        self.scorer = scorer
        self.weights = weights

    def rank(self, question: Question) -> list[float]:
        """Number of images that score higher, for each of the five."""
        images = [pictures.read(path) for path in question.images]
        numbers, reasons = score_batch(self.scorer, [question.prompt] * len(images), images)
        if reasons:
            place, why = next(iter(reasons.items()))
            raise Refused(f"{question.images[place]}: {self.name} {why}")
        scores = numbers[:, 0]
        return [float(np.sum(scores > score)) for score in scores]

    def summary(self) -> dict[str, Any]:
        """Name of the judge, and the hash of its weights."""
        return {"name": self.name, "weights": self.weights}
