"""Judges that are not asked in words: judgments from a file, and a scorer's scores."""

from pathlib import Path
from typing import Any

import numpy as np

from evaluation import scorers
from evaluation.errors import EvaluationError
from evaluation.judges import Question, Refused, seen
from evaluation.score import score_batch
from evaluation.scorers.naming import content, parse
from evaluation.tables import read_jsonl


class RecordedJudge:
    """Judgments from a .jsonl file: {"instance": ..., "ranks": [5]}, the data set's four first."""

    def __init__(self, path: Path):
        self.path = path
        self.ranks: dict[str, list[float]] = {}
        for number, row in read_jsonl(path):
            try:
                instance, ranks = str(row["instance"]), [float(rank) for rank in row["ranks"]]
            except (ValueError, KeyError, TypeError) as error:
                raise EvaluationError(
                    f'{path}: line {number}: expected {{"instance": ..., "ranks": [5 numbers]}}'
                ) from error
            if len(ranks) != 5:
                raise EvaluationError(f"{path}: line {number}: {len(ranks)} ranks, expected 5")
            self.ranks[instance] = ranks

    def rank(self, question: Question) -> list[float]:
        """Ranks recorded for the instance; raises EvaluationError when there are none."""
        if question.instance not in self.ranks:
            raise EvaluationError(f"{self.path}: no judgment of instance {question.instance!r}")
        return self.ranks[question.instance]

    def summary(self) -> dict[str, Any]:
        """Name of the judge."""
        return {"name": f"recorded:{self.path.name}"}


class ScorerJudge:
    """Ranks by a scorer's score, the highest first; equal scores tie."""

    def __init__(self, scorer: str):
        named = parse(scorer)
        self.name, self.weights = f"scorer:{scorer}", content(named)
        self.scorer = scorers.load(named)

    def rank(self, question: Question) -> list[float]:
        """Number of images that score higher, for each of the five."""
        images = [seen(path) for path in question.images]
        numbers, reasons = score_batch(self.scorer, [question.prompt] * len(images), images)
        if reasons:
            place, why = next(iter(reasons.items()))
            raise Refused(f"{question.images[place]}: {self.name} {why}")
        scores = numbers[:, 0]
        return [float(np.sum(scores > score)) for score in scores]

    def summary(self) -> dict[str, Any]:
        """Name of the judge, and the hash of its weights."""
        return {"name": self.name, "weights": self.weights}
