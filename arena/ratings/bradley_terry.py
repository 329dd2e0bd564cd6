"""The arena as leaderboards publish it: Bradley-Terry by maximum likelihood, on the Elo scale.

    P(i beats j) = 1 / (1 + exp(theta_j - theta_i)),  a tie is half a win each way
    elo = 1000 + 400 / ln 10 * (theta - mean theta)

A small ridge, ridge / 2 * sum theta^2 off the log likelihood, makes the maximum finite where models
never lost to the others (Ford, 1957): their rating is far up and its interval wide. Otherwise it
moves a rating by less than its last printed digit. `mu` and `sigma` are theta put on the scale of
the other estimators, so that gaps can be taken from these ratings too; the draw margin, which this
model has none of, is Thurstone's.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from arena.ratings.comparisons import Comparisons, groups
from arena.ratings.gaussian import draw_margin
from arena.ratings.leaderboards import BETA, ELO, MU, SIGMA, mu_per_theta, refuse_out_of_range
from arena.ratings.table import Ratings, batch_ratings
from arena.ratings.thurstone import likely_draw_probability

STEPS = 100
# A Newton step that promises less than this gain of the log likelihood is the last one.
GAIN = 1e-11


def maximum_likelihood(
    wins: np.ndarray, ties: np.ndarray, group: np.ndarray, ridge: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return (theta (M,), covariance (M, M)); theta has mean 0 within each group.

    wins, ties: (M, M) counts, ties symmetric. group: (M,) labels of models linked by votes. The
    covariance is the sandwich (H + ridge)^-1 (J + ridge) (H + ridge)^-1: a tie counted as half a
    win varies less than a coin, so the Hessian alone would be too wide. Raises ArithmeticError
    should Newton's method not arrive.
    """
    score = wins + ties / 2.0
    met = score + score.T
    theta = np.zeros(len(wins))
    # Only the ridge holds the mean of a group; this rank-one term keeps the steps well conditioned.
    level = (group[:, None] == group[None, :]).astype(np.float64)

    def objective(theta: np.ndarray) -> float:
        behind = np.logaddexp(0.0, theta[None, :] - theta[:, None])
        return -float((score * behind).sum() + 0.5 * ridge * theta @ theta)

    value = objective(theta)
    for _ in range(STEPS):
        p = 1.0 / (1.0 + np.exp(np.clip(theta[None, :] - theta[:, None], -700.0, 700.0)))
        gradient = (score - met * p).sum(1) - ridge * theta
        information = met * p * (1.0 - p)
        hessian = np.diag(information.sum(1) + ridge) - information
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
    theta = theta - level @ theta / level.sum(1)
    squares = wins * (1.0 - p) ** 2 + wins.T * p**2 + ties * (0.5 - p) ** 2
    varied = np.diag(squares.sum(1) + ridge) - squares
    # The level's own variance, 1 / ridge, is put back after an inverse that is exact without it.
    size = level.sum(1)
    within = np.linalg.inv(hessian + level) - level / size**2 / (1.0 + ridge / size)
    return theta, within @ varied @ within + level / (ridge * size)


@dataclass(frozen=True)
class BradleyTerry:
    """mu and beta put theta on the scale of the other estimators: the middle, and one performance.

    ridge: the precision of a Gaussian prior on every theta, small: 0.0001 is one of a standard
    deviation of 100, 17,000 points of Elo.
    """

    mu: float = MU
    beta: float = BETA
    ridge: float = 1e-4

    def fit(self, votes: Any = None, *, rankings: Any = None) -> Ratings:
        """Rate the models by all votes at once (see `Comparisons.of`); adds elo and elo_sd.

        A row that sums several raters is that many votes, and a K-wise vote its pairs. Each group
        of models has its own middle (elo 1000): nothing compares two groups. Raises ValueError for
        parameters out of range.
        """
        refuse_out_of_range(asdict(self))
        comparisons = Comparisons.of(votes, rankings)
        wins, ties = comparisons.counts()
        group = groups(wins + wins.T + ties)
        theta, covariance = maximum_likelihood(wins, ties, group, self.ridge)
        scale = mu_per_theta(self.beta)
        p = likely_draw_probability(wins, ties, SIGMA, self.beta)
        ratings = batch_ratings(
            comparisons.models,
            wins,
            ties,
            self.mu + scale * theta,
            scale * scale * covariance,
            estimator="bradley_terry",
            parameters={
                "mu": float(self.mu),
                "sigma": scale / math.sqrt(self.ridge),
                "beta": float(self.beta),
                "draw_probability": p,
                "epsilon": draw_margin(p, self.beta),
            },
            settings=asdict(self),
        )
        mu, sigma = ratings.table["mu"], ratings.table["sigma"]
        elo, elo_sd = 1000.0 + ELO / scale * (mu - self.mu), ELO / scale * sigma
        return replace(ratings, table=ratings.table.with_columns(elo=elo, elo_sd=elo_sd))
