"""Judges of K-Sort Eval: who ranks five images of one prompt.

A judge answers a `Question` with five ranks in the data set's order (0 = best, equal ranks tie),
whatever the order in which it was shown the images. `load_judge` makes one from its name on the
command line; each kind lives in its own module, and imports what it needs only when asked.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from evaluation.errors import EvaluationError


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


class Judge(Protocol):
    """Whoever ranks images."""

    def rank(self, question: Question) -> list[float]:
        """Five ranks in the order of question.images; 0 is the best, equal ranks tie."""
        ...

    def summary(self) -> dict[str, Any]:
        """What a reader of the result should know: the judge's name, and what it cost."""
        ...


def open_image(path: Path) -> Image.Image:
    """An image as RGB; raises EvaluationError naming a file that is none."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise EvaluationError(f"{path}: not a readable image: {error}") from error


KINDS = "recorded:FILE.jsonl, openai:MODEL, local:FOLDER or scorer:NAME[=SOURCE]"


def load_judge(name: str, cache: Path, orders: int = 1) -> Judge:
    """Make a judge from its name: one of `KINDS`.

    cache : folder where answers that cost something are kept.
    orders : in how many orders a judge that is asked in words sees each question (`asked`).
    """
    kind, _, argument = name.partition(":")
    if not argument or kind not in ("recorded", "openai", "local", "scorer"):
        raise EvaluationError(f"unknown judge {name!r}: expected {KINDS}")
    if kind == "openai":
        from evaluation.judges.endpoint import EndpointJudge

        return EndpointJudge(argument, cache, orders=orders)
    if kind == "local":
        from evaluation.judges.local import LocalJudge

        return LocalJudge(argument, cache, orders=orders)
    if orders != 1:
        raise EvaluationError(f"{name} does not see positions; --orders is for openai and local")
    if kind == "recorded":
        from evaluation.judges.recorded import RecordedJudge

        return RecordedJudge(Path(argument))
    from evaluation.judges.scorer import ScorerJudge
    from evaluation.scorers.load import load_scorer

    return ScorerJudge(name, load_scorer(argument))
