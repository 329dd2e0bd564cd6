"""From a scorer's name on the command line to the scorer.

NAME[=SOURCE], SOURCE being a local folder (or file) or a hub name; without it the weights that
the scorer's authors published are taken from the hub. Each scorer's module is imported only when
it is asked for.
"""

from collections.abc import Callable, Sequence

from evaluation.errors import EvaluationError, MissingWeights
from evaluation.scorers import Scorer


def _clip(source: str | None) -> Scorer:
    from evaluation.scorers.clip_towers import clip_score

    return clip_score(source or "openai/clip-vit-large-patch14")


def _pickscore(source: str | None) -> Scorer:
    from evaluation.scorers.clip_towers import pickscore

    return pickscore(source or "yuvalkirstain/PickScore_v1")


def _hps(name: str) -> Callable[[str | None], Scorer]:
    def load(source: str | None) -> Scorer:
        from evaluation.scorers.hps import HUB, hps

        return hps(name, source or HUB)

    return load


def _hps_v3(source: str | None) -> Scorer:
    from evaluation.scorers.hps_v3 import HUB, hps_v3

    return hps_v3(source or HUB)


def _aesthetic(source: str | None) -> Scorer:
    from evaluation.scorers.aesthetic import aesthetic

    if source is None:
        raise MissingWeights("aesthetic: give the folder of LAION's head: aesthetic=FOLDER")
    return aesthetic(source)


def _imagereward(source: str | None) -> Scorer:
    from evaluation.scorers.imagereward import HUB, imagereward

    return imagereward(source or HUB)


def _miniature(source: str | None) -> Scorer:
    from examples.miniature.scorer import MiniatureScorer

    if source is None:
        raise EvaluationError(
            "miniature: give its folder: miniature=examples/miniature/world/scorer"
        )
    return MiniatureScorer(source)


LOADERS: dict[str, Callable[[str | None], Scorer]] = {
    "pickscore": _pickscore,
    "hps_v2": _hps("hps_v2"),
    "hps_v2.1": _hps("hps_v2.1"),
    "hps_v3": _hps_v3,
    "clip": _clip,
    "aesthetic": _aesthetic,
    "imagereward": _imagereward,
    "miniature": _miniature,
}


def split_name(scorer: str) -> tuple[str, str | None]:
    """(NAME, SOURCE or None) of "NAME[=SOURCE]"; raises EvaluationError for an unknown NAME."""
    name, _, source = scorer.partition("=")
    if name not in LOADERS:
        raise EvaluationError(f"unknown scorer {name!r}; known scorers: {', '.join(LOADERS)}")
    return name, source or None


def load_scorer(scorer: str) -> Scorer:
    """Load a scorer from "NAME[=SOURCE]".

    Raises MissingWeights (where to put them) or EvaluationError (what is not right with them).
    """
    name, source = split_name(scorer)
    try:
        return LOADERS[name](source)
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{scorer}: cannot be loaded: {error}") from error


def load_scorers(names: Sequence[str]) -> tuple[dict[str, Scorer], list[str]]:
    """Load several: those that load, by name, and one sentence for each that does not.

    Raises EvaluationError for a name that is unknown or given twice, or when none loads.
    """
    wanted = {split_name(name)[0]: name for name in names}
    if len(wanted) < len(names):
        raise EvaluationError("each scorer once: two columns cannot have one name")
    scorers: dict[str, Scorer] = {}
    problems: list[str] = []
    for short, name in wanted.items():
        try:
            scorers[short] = load_scorer(name)
        except EvaluationError as error:
            problems.append(str(error))
    if not scorers:
        raise EvaluationError("; ".join(problems))
    return scorers, problems
