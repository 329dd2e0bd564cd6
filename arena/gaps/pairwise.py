"""The gaps that the two models tell: how much better the winner of a vote is.

Method 2a. Each image is a sample of its model's capability, so the difference of the winner's and
the loser's is d ~ N(delta, s^2) with delta = mu_w - mu_l, s^2 = V_ww + V_ll - 2 V_wl (`posterior`)
or that plus 2 beta^2 (`predictive`), and z = delta / s. The `pairwise` gap (the paper's) is what is
expected of d once the vote has truncated it; the `capability` gap is what was expected before,
delta itself, negative where the weaker model won. Both depend on the two models and the outcome
alone: they are computed once for each triple that occurs and looked up for every vote. Gaps that
use the other votes of the same two images are in `joint`.

    from arena.gaps.pairwise import pairwise_gaps
    gaps = pairwise_gaps(votes, ratings)
"""

import math
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs

from arena.compiled import compiled
from arena.ratings.comparisons import checked
from arena.ratings.gaussian import Phi, above, absolute_between, between, log_between
from arena.ratings.table import Ratings
from arena.schema import OUTCOMES

SPREADS = ("posterior", "predictive")
TIE = OUTCOMES.index("tie")
_TEXTS = ("vote_id", "model_a", "model_b", "image_a", "image_b", "rater")
# How many models without a rating a sentence names.
_NAMED = 5


class UnratedModelError(KeyError):
    """A vote names a model that the ratings do not hold."""

    def __str__(self) -> str:
        return str(self.args[0])


@compiled
def strict_gap(delta: float, s: float) -> tuple[float, float, float]:
    """Return (E[d | d > 0], its standard deviation, P(d > 0)) for d ~ N(delta, s^2).

    E = delta + s lambda(z),  Var = s^2 (1 - lambda(z) (lambda(z) + z)),  P = Phi(z)
    """
    mean, variance = above(delta / s)
    return s * mean, s * math.sqrt(variance), Phi(delta / s)


@compiled
def tie_gap(delta: float, s: float, epsilon: float, signed: bool) -> tuple[float, float, float]:
    """Return (gap, its standard deviation, P(|d| <= epsilon)) of a tie for d ~ N(delta, s^2).

    The gap is E[|d| given |d| <= epsilon], how far apart two images are that a rater could not
    tell apart; signed, it is E[d given |d| <= epsilon], which is near zero.
    """
    t, e = delta / s, epsilon / s
    mean, variance = between(t, e) if signed else absolute_between(t, e)
    return s * mean, s * math.sqrt(variance), math.exp(log_between(t, e))


@compiled
def capability_gap(
    delta: float, s: float, epsilon: float, tie: bool, signed: bool
) -> tuple[float, float, float]:
    """Return (E[d], its standard deviation, probability of the outcome) for d ~ N(delta, s^2).

    E[d] = delta keeps its sign where `signed`; else it is cut at 0, and a tie's is its size.
    """
    probability = math.exp(log_between(delta / s, epsilon / s)) if tie else Phi(delta / s)
    if not signed:
        delta = abs(delta) if tie else max(delta, 0.0)
    return delta, s, probability


@compiled
def _gaps(
    delta: np.ndarray,
    variance: np.ndarray,
    tie: np.ndarray,
    epsilon: float,
    signed: bool,
    truncated: bool,
) -> np.ndarray:
    """Return gap, its standard deviation and the probability: (3, n)."""
    out = np.empty((3, len(delta)))
    for k in range(len(delta)):
        s = math.sqrt(variance[k])
        if not truncated:
            out[:, k] = capability_gap(delta[k], s, epsilon, tie[k], signed)
        elif tie[k]:
            out[:, k] = tie_gap(delta[k], s, epsilon, signed)
        else:
            out[:, k] = strict_gap(delta[k], s)
    return out


def prepared(
    votes: Any, ratings: Ratings
) -> tuple[pl.DataFrame, np.ndarray, np.ndarray, np.ndarray]:
    """Return the votes as a polars frame, and model_a, model_b and outcome as codes (n,) each.

    votes: a polars or pandas frame with model_a, model_b and outcome. A missing vote_id is the
    row's number, from 0. Codes: rows of the ratings, positions in `schema.OUTCOMES`. Raises
    as `checked`, and UnratedModelError.
    """
    frame = checked(votes)
    if "vote_id" not in frame.columns:
        frame = frame.with_columns(vote_id=pl.int_range(pl.len()))
    # Ids that are numbers are names all the same; categories are fast to look up as they are.
    numbers = cs.numeric() & cs.by_name(_TEXTS, require_all=False)
    frame = frame.with_columns(numbers.cast(pl.String))
    models = pl.Enum(ratings.table["model"])
    a, b = (frame[name].cast(models, strict=False) for name in ("model_a", "model_b"))
    unknown = [frame["model_a"].filter(a.is_null()), frame["model_b"].filter(b.is_null())]
    unrated = sorted(set(pl.concat([names.cast(pl.String) for names in unknown])), key=str)
    if unrated:
        named = ", ".join(repr(name) for name in unrated[:_NAMED])
        more = f" and {len(unrated) - _NAMED} more" if len(unrated) > _NAMED else ""
        one = len(unrated) == 1
        raise UnratedModelError(
            f"{'model' if one else 'models'} {named}{more} {'has' if one else 'have'} no rating; "
            f"fit the ratings on votes that include {'it' if one else 'them'}, "
            "or leave such votes out"
        )
    outcome = frame["outcome"].cast(pl.Enum(OUTCOMES))
    codes = [column.to_physical().to_numpy() for column in (a, b, outcome)]
    return frame, codes[0], codes[1], codes[2]


def described(frame: pl.DataFrame, numbers: Any, votes: Any) -> Any:
    """Return the columns of `schema.GAPS`, as a frame of the kind that the votes came in.

    frame: the prepared votes. numbers: gap, gap_sd and probability, (n,) each.
    """
    lost = pl.col("outcome") == "b"
    names = ("gap", "gap_sd", "probability")
    gaps = frame.select(
        "vote_id",
        winner=pl.when(lost).then("model_b").otherwise("model_a"),
        loser=pl.when(lost).then("model_a").otherwise("model_b"),
        outcome="outcome",
        **{name: pl.Series(row) for name, row in zip(names, numbers, strict=True)},
    )
    return gaps if isinstance(votes, pl.DataFrame | pl.LazyFrame) else gaps.to_pandas()


def pairwise_gaps(
    votes: Any,
    ratings: Ratings,
    spread: str = "posterior",
    signed: bool = False,
    truncated: bool = True,
) -> Any:
    """Return one gap per vote (columns `schema.GAPS`), in input order, as polars or pandas.

    votes: a polars or pandas frame of model_a, model_b, outcome ("a", "b", "tie") and, if known,
    vote_id. ratings: of every model among them; model, mu and sigma alone will do. spread:
    "posterior", s^2 is the variance of the difference of the two capabilities, or "predictive",
    s^2 + 2 beta^2, the spread of each model's images on top. signed: a tie's gap is E[d], not
    E|d|. truncated: the vote truncates d (the pairwise gap), or it does not (the capability gap).

    Raises UnratedModelError for models without a rating; ValueError for an unknown spread, a
    missing column, an outcome that is none, or ties where the ratings give a tie no probability.
    """
    if spread not in SPREADS:
        raise ValueError(f"spread must be {' or '.join(SPREADS)}, not {spread!r}")
    frame, a, b, outcome = prepared(votes, ratings)
    beta, epsilon = ratings.parameters["beta"], ratings.parameters["epsilon"]
    if epsilon <= 0.0 and (outcome == TIE).any():
        raise ValueError(
            "the votes have ties but the ratings give a tie no probability: "
            "fit them with a draw probability above 0, or auto"
        )
    m = len(ratings.table)
    triple = (a.astype(np.int64) * m + b) * len(OUTCOMES) + outcome
    place = np.zeros(len(OUTCOMES) * m * m, np.int32)
    place[triple] = 1
    met = np.flatnonzero(place)
    place[met] = np.arange(len(met))
    pair, kind = np.divmod(met, len(OUTCOMES))
    lost = kind == OUTCOMES.index("b")
    winner, loser = np.where(lost, pair % m, pair // m), np.where(lost, pair // m, pair % m)
    delta, variance = ratings.difference(winner, loser)
    if spread == "predictive":
        variance = variance + 2.0 * beta**2
    gaps = _gaps(delta, variance, kind == TIE, epsilon, signed, truncated)
    return described(frame, gaps[:, place[triple]], votes)


def capability_gaps(
    votes: Any, ratings: Ratings, spread: str = "posterior", signed: bool = False
) -> Any:
    """Return mu_winner - mu_loser of every vote; shapes and errors as in `pairwise_gaps`."""
    return pairwise_gaps(votes, ratings, spread, signed, truncated=False)
