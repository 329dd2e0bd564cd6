"""The gaps that the two models tell: how much better the winner of a vote is.

Method 2a. Each image is a sample of its model's capability, x ~ N(mu, r^2), so the difference is
d = x_w - x_l ~ N(delta, s^2) with delta = mu_w - mu_l, s^2 = r_w^2 + r_l^2 and z = delta / s. The
`pairwise` gap (the paper's) is what is expected of d once the vote has truncated it; the
`capability` gap is what was expected before, delta itself, negative where the weaker model won.
Both depend on the two models and the outcome alone: they are computed once for each triple that
occurs and looked up for every vote. Gaps that use the other votes of the same two images are in
`joint`.
"""

import math

import numpy as np
import polars as pl
from numba import njit

from arena.ratings.comparisons import A_WINS, TIE
from arena.ratings.gaussian import Phi, above, absolute_between, between, compiled, log_between
from arena.ratings.table import Ratings
from arena.schema import OUTCOMES

SPREADS = ("posterior", "predictive")


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


@njit(cache=True, nogil=True)
def _look_up(
    a: np.ndarray,
    b: np.ndarray,
    outcome: np.ndarray,
    mu: np.ndarray,
    variance: np.ndarray,
    epsilon: float,
    signed: bool,
    truncated: bool,
    table: np.ndarray,
    out: np.ndarray,
) -> None:
    """Fill out (3, n) from table (2, M, M, 3), computing an entry at its first use (NaN before)."""
    for k in range(len(a)):
        tie = outcome[k] == TIE
        w, l = (a[k], b[k]) if tie or outcome[k] == A_WINS else (b[k], a[k])
        entry = table[1 if tie else 0, w, l]
        if math.isnan(entry[0]):
            delta, s = mu[w] - mu[l], math.sqrt(variance[w] + variance[l])
            if not truncated:
                entry[0], entry[1], entry[2] = capability_gap(delta, s, epsilon, tie, signed)
            elif tie:
                entry[0], entry[1], entry[2] = tie_gap(delta, s, epsilon, signed)
            else:
                entry[0], entry[1], entry[2] = strict_gap(delta, s)
        out[0, k], out[1, k], out[2, k] = entry[0], entry[1], entry[2]


class PairwiseGaps:
    """The gaps between rated models, filled in as votes ask for them.

    spread: "posterior", r = sigma, or "predictive", r^2 = sigma^2 + beta^2: the capability's
    uncertainty and the spread of one model's images. truncated: the vote truncates d (the pairwise
    gap), or it does not (`capability_gap`). signed: see `tie_gap`; a strict vote's pairwise gap is
    positive either way.
    """

    def __init__(
        self,
        ratings: Ratings,
        spread: str = "posterior",
        signed: bool = False,
        truncated: bool = True,
    ):
        if spread not in SPREADS:
            raise ValueError(f"spread must be {' or '.join(SPREADS)}, not {spread!r}")
        table = ratings.table
        self.models = pl.Enum(table["model"])
        self.mu = table["mu"].to_numpy()
        self.variance = table["sigma"].to_numpy() ** 2
        if spread == "predictive":
            self.variance = self.variance + ratings.parameters["beta"] ** 2
        self.epsilon = ratings.parameters["epsilon"]
        self.signed, self.truncated = signed, truncated
        self.table = np.full((2, len(table), len(table), 3), np.nan)

    def of(self, votes: pl.DataFrame) -> pl.DataFrame:
        """Return the columns of `schema.GAPS` for votes, in their order.

        Raises UnratedModelError for a model without a rating, ValueError for ties where the
        ratings give a tie no probability.
        """
        a, b = self._codes(votes["model_a"]), self._codes(votes["model_b"])
        outcome = votes["outcome"].cast(pl.Enum(OUTCOMES)).to_physical().cast(pl.Int8).to_numpy()
        if self.epsilon <= 0.0 and (outcome == TIE).any():
            raise ValueError(
                "the votes have ties but the ratings give a tie no probability: "
                "fit them with a draw probability above 0, or auto"
            )
        gaps = np.empty((3, len(a)))
        _look_up(
            a, b, outcome, self.mu, self.variance, self.epsilon, self.signed, self.truncated,
            self.table, gaps,
        )  # fmt: skip
        lost = pl.col("outcome") == "b"
        return votes.select(
            "vote_id",
            winner=pl.when(lost).then("model_b").otherwise("model_a"),
            loser=pl.when(lost).then("model_a").otherwise("model_b"),
            outcome="outcome",
            gap=pl.Series(gaps[0]),
            gap_sd=pl.Series(gaps[1]),
            probability=pl.Series(gaps[2]),
        )

    def _codes(self, names: pl.Series) -> np.ndarray:
        codes = names.cast(self.models, strict=False)
        if codes.null_count():
            model = names.filter(codes.is_null())[0]
            raise UnratedModelError(
                f"model {model!r} has no rating; fit the ratings on votes that include it"
            )
        return codes.to_physical().cast(pl.Int32).to_numpy()


def pairwise_gaps(
    votes: pl.DataFrame, ratings: Ratings, spread: str = "posterior", signed: bool = False
) -> pl.DataFrame:
    """Return one gap a vote (columns `schema.GAPS`), in input order; see `PairwiseGaps`."""
    return PairwiseGaps(ratings, spread, signed).of(votes)


def capability_gaps(
    votes: pl.DataFrame, ratings: Ratings, spread: str = "posterior", signed: bool = False
) -> pl.DataFrame:
    """Return mu_winner - mu_loser of every vote (columns `schema.GAPS`), in input order."""
    return PairwiseGaps(ratings, spread, signed, truncated=False).of(votes)
