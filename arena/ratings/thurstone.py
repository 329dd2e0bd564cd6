"""The batch arena: all votes at once, in whatever order they came.

Thurstone-Mosteller with Glenn and David's (1960) threshold for ties, and the same Gaussian prior as
TrueSkill: with c = sqrt(2) beta and Delta = mu_i - mu_j,

    P(i beats j) = Phi((Delta - epsilon) / c)
    P(tie)       = Phi((epsilon - Delta) / c) - Phi((-epsilon - Delta) / c)
    mu_m         ~ N(mu_0, sigma_0^2)

Only the table of wins and ties per pair of models is needed, so the fit costs the same for a
thousand votes and for a hundred million. The log posterior is concave in (mu, epsilon) together
(Prekopa), so Newton's method finds its one mode; the covariance is Laplace's. The votes tell
differences only: the level of the whole board is the prior's, with variance sigma_0^2 / M for ever,
so two models are compared by the variance of their difference. Models that change as time passes
are `trueskill`'s.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from arena.compiled import compiled
from arena.ratings.comparisons import Comparisons
from arena.ratings.gaussian import (
    INVERSE_SQRT_2PI,
    draw_margin,
    draw_probability,
    log_between,
    log_Phi,
    v_w_draw,
    v_w_strict,
)
from arena.ratings.leaderboards import BETA, MU, SIGMA, refuse_out_of_range
from arena.ratings.table import Ratings, batch_ratings

STEPS = 100
# A Newton step that promises less than this gain of the log posterior is the last one.
GAIN = 1e-11


@compiled
def log_likelihood(wins: np.ndarray, ties: np.ndarray, mu: np.ndarray, epsilon: float) -> float:
    """Log p(votes); wins, ties: (M, M) counts, ties symmetric; mu (M,) and epsilon divided by c."""
    total = 0.0
    for i in range(len(mu)):
        for j in range(len(mu)):
            if wins[i, j] > 0:
                total += wins[i, j] * log_Phi(mu[i] - mu[j] - epsilon)
            if i < j and ties[i, j] > 0:
                total += ties[i, j] * log_between(mu[i] - mu[j], epsilon)
    return total


@compiled
def slopes(
    wins: np.ndarray, ties: np.ndarray, mu: np.ndarray, epsilon: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return gradient (M + 1,) and Hessian (M + 1, M + 1) of `log_likelihood`, epsilon last.

    v and w of the truncations are the first and minus the second derivative in Delta.
    """
    m = len(mu)
    gradient = np.zeros(m + 1)
    hessian = np.zeros((m + 1, m + 1))
    for i in range(m):
        for j in range(m):
            t = mu[i] - mu[j]
            d = dd = e = ee = de = 0.0
            if wins[i, j] > 0:
                v, w = v_w_strict(t - epsilon)
                d += wins[i, j] * v
                dd -= wins[i, j] * w
                e -= wins[i, j] * v
                ee -= wins[i, j] * w
                de += wins[i, j] * w
            if i < j and ties[i, j] > 0:
                v, w = v_w_draw(t, epsilon)
                log_p = log_between(t, epsilon)
                upper = INVERSE_SQRT_2PI * math.exp(-0.5 * (epsilon - t) ** 2 - log_p)
                lower = INVERSE_SQRT_2PI * math.exp(-0.5 * (epsilon + t) ** 2 - log_p)
                q = upper + lower
                d += ties[i, j] * v
                dd -= ties[i, j] * w
                e += ties[i, j] * q
                ee -= ties[i, j] * ((epsilon - t) * upper + (epsilon + t) * lower + q * q)
                de += ties[i, j] * ((epsilon - t) * upper - (epsilon + t) * lower - q * v)
            gradient[i] += d
            gradient[j] -= d
            gradient[m] += e
            hessian[i, i] += dd
            hessian[j, j] += dd
            hessian[i, j] -= dd
            hessian[j, i] -= dd
            hessian[i, m] += de
            hessian[m, i] += de
            hessian[j, m] -= de
            hessian[m, j] -= de
            hessian[m, m] += ee
    return gradient, hessian


def posterior(
    wins: np.ndarray, ties: np.ndarray, mu: float, sigma: float, beta: float, epsilon: float | None
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return (mode (M,), covariance (M, M), epsilon) of the models' capabilities.

    wins, ties: (M, M) counts as `Comparisons.counts` gives them. epsilon: the draw margin, or None
    to estimate it with the mode; then the covariance is marginal over it. Without a single tie the
    estimate is 0. Raises ArithmeticError should Newton's method not arrive.
    """
    m = len(wins)
    c = math.sqrt(2.0) * beta
    free = epsilon is None and bool(ties.any())
    tied, total = ties.sum() / 2.0, wins.sum() + ties.sum() / 2.0
    # The margin that would give equals this share of ties: above 0, and never infinite.
    share = (tied + 0.5) / (total + 1.0)
    margin = (draw_margin(share, beta) if free else epsilon or 0.0) / c
    # In units of c the likelihood has no parameter but mu and epsilon.
    weight = (c / sigma) ** 2
    x = np.append(np.zeros(m), margin)

    def objective(x: np.ndarray) -> float:
        if x[m] < 0.0 or (free and x[m] == 0.0):
            return -math.inf
        return float(log_likelihood(wins, ties, x[:m], x[m]) - 0.5 * weight * x[:m] @ x[:m])

    kept = m + 1 if free else m
    value = objective(x)
    for _ in range(STEPS):
        gradient, hessian = slopes(wins, ties, x[:m], x[m])
        gradient[:m] -= weight * x[:m]
        hessian[np.arange(m), np.arange(m)] -= weight
        step = np.zeros(m + 1)
        step[:kept] = np.linalg.solve(-hessian[:kept, :kept], gradient[:kept])
        gain = 0.5 * float(gradient @ step)
        if gain <= GAIN * max(1.0, abs(value)):
            x = x + step
            covariance = np.linalg.inv(-hessian[:kept, :kept])[:m, :m]
            return mu + c * x[:m], c * c * covariance, c * float(x[m])
        length = 1.0
        while (there := objective(x + length * step)) < value:
            length /= 2.0
        x, value = x + length * step, there
    raise ArithmeticError(f"the mode was not found in {STEPS} steps of Newton's method")


def likely_draw_probability(
    wins: np.ndarray, ties: np.ndarray, sigma: float, beta: float
) -> float:
    """Return how often two equals tie, the most likely given all wins and ties.

    The share of ties is not it: most models are not equal, and tie less often. Above 0 and below 1
    whatever the votes are, as if half a tie and half a win were seen besides.
    """
    total = float(wins.sum() + ties.sum() / 2.0)
    *_, epsilon = posterior(wins, ties, 0.0, sigma, beta, None)
    least = 0.5 / (total + 1.0)
    return min(max(draw_probability(epsilon, beta), least), 1.0 - least)


@dataclass(frozen=True)
class Thurstone:
    """Parameters on the scale of mu, with TrueSkill's defaults.

    mu, sigma: the prior of every model. beta: the spread of one performance. draw_probability: how
    often two equals tie, or "auto": estimated from the votes.
    """

    mu: float = MU
    sigma: float = SIGMA
    beta: float = BETA
    draw_probability: float | str = "auto"

    def fit(self, votes: Any = None, *, rankings: Any = None) -> Ratings:
        """Rate the models by all votes at once (see `Comparisons.of`).

        A row that sums several raters is that many votes, and a K-wise vote its pairs. Raises
        ValueError for parameters out of range, and for ties where draws have no probability.
        """
        refuse_out_of_range(asdict(self))
        p = self.draw_probability
        comparisons = Comparisons.of(votes, rankings)
        wins, ties = comparisons.counts()
        if p == 0.0 and ties.any():
            raise ValueError("the votes have ties, so draw_probability must be above 0, or auto")
        given = None if p == "auto" else draw_margin(float(p), self.beta)
        mode, covariance, epsilon = posterior(wins, ties, self.mu, self.sigma, self.beta, given)
        numbers = {name: float(getattr(self, name)) for name in ("mu", "sigma", "beta")}
        p = draw_probability(epsilon, self.beta)
        return batch_ratings(
            comparisons.models,
            wins,
            ties,
            mode,
            covariance,
            estimator="thurstone",
            parameters={**numbers, "draw_probability": p, "epsilon": epsilon},
            settings=asdict(self),
        )
