"""The arena as leaderboards publish it: Bradley-Terry by maximum likelihood, on the Elo scale.

    P(i beats j) = 1 / (1 + exp(theta_j - theta_i)),  a tie is half a win each way
    elo = 1000 + 400 / ln 10 * (theta - mean theta)

No prior: a model that never lost would be rated infinitely high, and is refused by name instead.
`thurstone` has a prior, and a probability for ties of their own. `mu` and `sigma` are theta put on
the scale of the other estimators, so that gaps can be taken from these ratings too.
"""

import math
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from arena.ratings.comparisons import Comparisons, groups
from arena.ratings.table import Ratings, ratings_table
from arena.ratings.trueskill import draw_margin

ELO = 400.0 / math.log(10.0)
# The logistic function is within 0.01 of Phi(x / 1.702) everywhere (Haley, 1952).
LOGISTIC = 1.702
STEPS = 100
# A Newton step that promises less than this gain of the log likelihood is the last one.
GAIN = 1e-11


def maximum_likelihood(
    wins: np.ndarray, ties: np.ndarray, group: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (theta (M,), covariance (M, M)); theta has mean 0 within each group.

    wins, ties: (M, M) counts, ties symmetric. group: (M,) labels of models linked by votes. The
    covariance is the sandwich H^+ J H^+: a tie counted as half a win varies less than a coin, so
    the Hessian alone would be too wide. Raises ArithmeticError should Newton's method not arrive.
    """
    score = wins + ties / 2.0
    met = score + score.T
    theta = np.zeros(len(wins))
    # Only differences inside a group are determined; its mean is held by this rank-one term.
    level = (group[:, None] == group[None, :]).astype(np.float64)

    def objective(theta: np.ndarray) -> float:
        return -float((score * np.logaddexp(0.0, theta[None, :] - theta[:, None])).sum())

    value = objective(theta)
    for _ in range(STEPS):
        p = expit(theta[:, None] - theta[None, :])
        gradient = (score - met * p).sum(1)
        information = met * p * (1.0 - p)
        hessian = np.diag(information.sum(1)) - information
        step = np.linalg.solve(hessian + level, gradient)
        if 0.5 * float(gradient @ step) <= GAIN * max(1.0, abs(value)):
            theta = theta + step
            break
        length = 1.0
        while (there := objective(theta + length * step)) < value:
            length /= 2.0
        theta, value = theta + length * step, there
    else:
        raise ArithmeticError(f"no maximum in {STEPS} steps of Newton's method")
    squares = wins * (1.0 - p) ** 2 + wins.T * p**2 + ties * (0.5 - p) ** 2
    spread = np.diag(squares.sum(1)) - squares
    inverse = np.linalg.inv(hessian + level)
    within = inverse - level / level.sum(1) ** 2  # the pseudo-inverse, without the level's term
    return theta, within @ spread @ within


def _refuse_unbounded(models: list[str], wins: np.ndarray, ties: np.ndarray) -> None:
    """Raise ValueError where the likelihood has no maximum (Ford, 1957).

    It has one when, inside every group, each model can be reached from each other along "beat or
    tied".
    """
    beat = (wins + ties) > 0
    strong = connected_components(beat, connection="strong")[1]
    weak = connected_components(beat, connection="weak")[1]
    lone = ~(beat.any(0) | beat.any(1))
    if lone.any():
        name = models[int(np.flatnonzero(lone)[0])]
        raise ValueError(f"bradley_terry cannot rate {name!r}: it met no other model")
    for part in np.unique(strong):
        members = np.flatnonzero(strong == part)
        rest = np.flatnonzero((weak == weak[members[0]]) & (strong != part))
        if rest.size and not beat[np.ix_(rest, members)].any():
            names = ", ".join(repr(models[k]) for k in members[:5])
            raise ValueError(
                f"bradley_terry has no finite rating for {names}: never beaten nor tied by the "
                f"others; use thurstone, which has a prior"
            )


def with_maximum(votes: Comparisons) -> Comparisons:
    """Return the votes whose likelihood has a maximum, with the models among them.

    They are those inside one set of models that beat or tied each other in a circle (`strong`
    above). Votes from such a set to a model that never won tell only that it is weaker, by any
    amount.
    """
    wins, ties = votes.counts()
    strong = connected_components((wins + ties) > 0, connection="strong")[1]
    kept = votes.only((votes.a != votes.b) & (strong[votes.a] == strong[votes.b]))
    met = np.zeros(len(votes.models), bool)
    met[kept.a] = met[kept.b] = True
    place = np.cumsum(met) - 1
    models = [name for name, there in zip(votes.models, met, strict=True) if there]
    return Comparisons(models, place[kept.a], place[kept.b], kept.outcome)


@dataclass(frozen=True)
class BradleyTerry:
    """mu and beta put theta on the scale of the other estimators: the middle, and one performance.

    There is nothing else to choose: theta is the maximum of the likelihood.
    """

    mu: float = 25.0
    beta: float = 25.0 / 6.0

    def fit(self, votes: pl.DataFrame | Comparisons) -> Ratings:
        """Rate the models by all votes at once; adds the columns elo and elo_sd.

        Each group of models has its own middle (elo 1000): nothing compares two groups. Raises
        ValueError for parameters out of range, and where a model's rating is infinite or unknown.
        """
        if not (math.isfinite(self.beta) and self.beta > 0.0):
            raise ValueError(f"beta must be above 0, not {self.beta}")
        if not math.isfinite(self.mu):
            raise ValueError(f"mu must be a number, not {self.mu}")
        comparisons = Comparisons.of(votes)
        wins, ties = comparisons.counts()
        _refuse_unbounded(comparisons.models, wins, ties)
        theta, covariance = maximum_likelihood(wins, ties, groups(wins + wins.T + ties))
        sd = np.sqrt(np.maximum(np.diag(covariance), 0.0))
        scale = math.sqrt(2.0) * self.beta / LOGISTIC
        tie_rate = comparisons.tie_rate()
        return Ratings(
            table=ratings_table(
                comparisons,
                self.mu + scale * theta,
                scale * sd,
                elo=1000.0 + ELO * theta,
                elo_sd=ELO * sd,
            ),
            estimator="bradley_terry",
            parameters={
                "mu": float(self.mu),
                "beta": float(self.beta),
                "draw_probability": tie_rate,
                "epsilon": draw_margin(tie_rate, self.beta),
            },
        )
