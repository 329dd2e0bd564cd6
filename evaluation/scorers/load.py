"""From a scorer's name to the scorer; each scorer's module is imported only when asked for."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from evaluation.errors import EvaluationError
from evaluation.scorers import Scorer
from evaluation.scorers.naming import BUILT_IN, Named, absence, offered, own_object, parse


class FunctionScorer:
    """A function of (prompts, images) as scorer."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:
        """What the function gives, as float64."""
        return np.asarray(self.function(prompts, images), dtype=float)


def load_named(named: Named, **more: Any) -> Scorer:
    """Load a scorer; `more` goes to its loader.

    Raises MissingWeights (where to put them) or EvaluationError (what is not right with them).
    """
    if named.kind == "miniature" and named.source is None:
        raise EvaluationError(str(absence("miniature")))
    arguments = [named.source] if named.source else []
    try:
        if named.kind in BUILT_IN:
            place, fixed, _ = BUILT_IN[named.kind]
            loader = own_object(place if "." in place else f"evaluation.scorers.{place}")
            if fixed:
                fixed = {**fixed, **({"source": named.source} if named.source else {})}
                return loader(**fixed, **more)
            return loader(*arguments, **more)
        entry = offered().get(named.kind)
        found: Any = entry.load() if entry is not None else own_object(named.kind)
        if not inspect.isclass(found):
            return FunctionScorer(found)
        made: Any = found
        return made(*arguments)
    except ImportError as error:
        raise EvaluationError(
            f"{named.label}: needs the package {error.name}, which is not installed here"
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise EvaluationError(f"{named.label}: cannot be loaded: {error}") from error


def load_scorer(scorer: str) -> Scorer:
    """Load a scorer from its name, see `naming`."""
    return load_named(parse(scorer))
