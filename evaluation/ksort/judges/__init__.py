"""Judges of K-Sort Eval: who ranks five images of one prompt.

Recorded judgments and a scorer's scores are judges here; those that are asked in words are in
`asked`, `endpoint` and `local`.

A judge answers a `Question` with five ranks in the data set's order (0 = best, equal ranks tie),
whatever the order in which it was shown the images. `load_judge` makes one from its name on the
command line; what a kind needs is imported only when it is asked for.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from arena.votes.images import ImageFault
from evaluation.errors import EvaluationError
from evaluation.pictures import FILES
from evaluation.score import score_batch
from evaluation.scorers.naming import content, load, parse
from evaluation.tables import read_jsonl


@dataclass(frozen=True)
class Question:
    """Five images of one prompt, to be ranked.

    images : in the data set's order, the new model's last.
    shown : permutation; the judge is shown images[shown[0]] first.
    """

    instance: str
    prompt: str
    images: tuple[Path, ...]
    shown: tuple[int, ...]


class Refused(Exception):
    """A judge will not rank these images, whoever asks: the instance is left out."""


class BudgetSpent(Exception):
    """As many requests as were allowed have been sent."""


class Judge(Protocol):
    """Whoever ranks images."""

    def rank(self, question: Question) -> list[float]:
        """Five ranks in the order of question.images; 0 is the best, equal ranks tie.

        Raises Refused where there is no ranking of these images, BudgetSpent where the question
        may not be asked any more.
        """
        ...

    def summary(self) -> dict[str, Any]:
        """What a reader of the result should know: the judge's name, and what it cost."""
        ...


@dataclass(frozen=True)
class Asking:
    """How a judge that answers in words is asked.

    orders : in how many orders each question, 1 to 5. question : one of `asked.QUESTIONS`. size :
    of the longer side of the images that are shown, pixels. max_requests : None for no limit.
    max_tokens : of an answer.
    """

    orders: int = 1
    question: str = "house"
    size: int = 512
    max_requests: int | None = None
    max_tokens: int = 1024


KINDS = "recorded:FILE.jsonl, openai:MODEL, local:FOLDER or scorer:NAME[=SOURCE]"


def seen(path: Path) -> Image.Image:
    """An image of a question; Refused where there is none to be seen, which costs that question."""
    try:
        return FILES.read(str(path))
    except ImageFault as fault:
        raise Refused(f"{path}: not a readable image: {fault}") from fault


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
        self.scorer = load(named)

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


def load_judge(name: str, cache: Path, asking: Asking | None = None) -> Judge:
    """Make a judge from its name: one of `KINDS`.

    cache : folder where answers that cost something are kept.
    asking : how openai and local are asked; the other judges do not see words or positions.
    """
    kind, _, argument = name.partition(":")
    if not argument or kind not in ("recorded", "openai", "local", "scorer"):
        raise EvaluationError(f"unknown judge {name!r}: expected {KINDS}")
    asking = asking or Asking()
    if kind == "openai":
        from evaluation.ksort.judges.endpoint import EndpointJudge

        return EndpointJudge(argument, cache, asking)
    if kind == "local":
        from evaluation.ksort.judges.local import LocalJudge

        return LocalJudge(argument, cache, asking)
    if asking.orders != 1:
        raise EvaluationError(f"{name} does not see positions; --orders is for openai and local")
    return RecordedJudge(Path(argument)) if kind == "recorded" else ScorerJudge(argument)
