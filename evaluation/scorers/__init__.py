"""Scorers: how good is an image for its prompt?

All of them share one interface, `Scorer`. `evaluation.scorers.naming` reads what a scorer is called
and `load` makes it; each scorer's module is imported only when it is asked for.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image

from evaluation.errors import EvaluationError
from evaluation.scorers.naming import BUILT_IN, Named, absence, offered, own_object


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


class FunctionScorer:
    """A function of (prompts, images) as scorer."""

    def __init__(self, function: Callable[..., Any]):
        self.score = function


def load(named: Named, **more: Any) -> Scorer:
    """Load a scorer; `more` goes to its loader.

    Raises MissingWeights (where to put them) or EvaluationError (what is not right with them).
    """
    if named.kind == "miniature" and named.source is None:
        raise EvaluationError(str(absence("miniature")))
    source = [named.source] if named.source else []
    try:
        if named.kind in BUILT_IN:
            place, fixed, _ = BUILT_IN[named.kind]
            loader = own_object(place if "." in place else f"evaluation.scorers.{place}")
            return loader(*source, **fixed, **more)
        entry = offered().get(named.kind)
        found: Any = entry.load() if entry is not None else own_object(named.kind)
        if not inspect.isclass(found):
            return FunctionScorer(found)
        made: Any = found
        return made(*source)
    except ImportError as error:
        raise EvaluationError(
            f"{named.label}: needs the package {error.name}, which is not installed here"
        ) from error
    except EvaluationError:
        raise
    except Exception as error:  # the libraries raise whatever a strange file makes of them
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EvaluationError(f"{named.label}: cannot be loaded: {said}") from error
