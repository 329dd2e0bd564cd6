"""Judges of K-Sort Eval: who ranks five images of one prompt.

A judge answers a `Question` with five ranks in the data set's order (0 = best, equal ranks tie),
whatever the order in which it was shown the images. `load_judge` makes one from its name on the
command line; each kind lives in its own module, and imports what it needs only when asked.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

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


KINDS = "recorded:FILE.jsonl, openai:MODEL or scorer:NAME[=SOURCE]"


def load_judge(name: str, cache: Path) -> Judge:
    """Make a judge from `recorded:FILE.jsonl`, `openai:MODEL` or `scorer:NAME[=SOURCE]`.

    cache : folder where answers that cost something are kept.
    """
    kind, _, argument = name.partition(":")
    if not argument or kind not in ("recorded", "openai", "scorer"):
        raise EvaluationError(f"unknown judge {name!r}: expected {KINDS}")
    if kind == "recorded":
        from evaluation.judges.recorded import RecordedJudge

        return RecordedJudge(Path(argument))
    if kind == "openai":
        from evaluation.judges.endpoint import EndpointJudge

        return EndpointJudge(argument, cache)
    from evaluation.judges.scorer import ScorerJudge
    from evaluation.scorers.load import load_scorer

    return ScorerJudge(name, load_scorer(argument))
