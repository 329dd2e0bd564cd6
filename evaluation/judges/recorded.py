"""A judge that answers from a file of recorded judgments."""

import json
from pathlib import Path
from typing import Any

from evaluation.errors import EvaluationError
from evaluation.judges import Question


class RecordedJudge:
    """Judgments from a .jsonl file: {"instance": ..., "ranks": [5]}, the data set's four first."""

    def __init__(self, path: Path):
        self.path = path
        self.ranks: dict[str, list[float]] = {}
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise EvaluationError(f"{path}: cannot be read: {reason}") from error
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                instance, ranks = str(row["instance"]), [float(rank) for rank in row["ranks"]]
            except (ValueError, KeyError, TypeError, RecursionError) as error:
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
