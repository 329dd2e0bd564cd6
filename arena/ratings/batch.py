"""The batch arenas: all votes at once, in whatever order they came, by one penalised likelihood.

Only the table of wins and ties per pair of models is needed, so a fit costs the same for a thousand
votes and for a hundred million. With Delta = mu_i - mu_j in the units of the link,

    thurstone       P(i beats j) = Phi(Delta - epsilon)
                    P(tie)       = Phi(epsilon - Delta) - Phi(-epsilon - Delta)
    bradley_terry   P(i beats j) = 1 / (1 + exp(-Delta)), a tie is half a win each way

`Thurstone` is Thurstone-Mosteller with Glenn and David's (1960) threshold for ties, in units of
c = sqrt(2) beta, and TrueSkill's prior. `BradleyTerry` is what leaderboards publish, on the Elo
scale. Its prior is a small ridge, which makes the maximum finite where models never lost to the
others (Ford, 1957): their rating is far up and its interval wide.

The log posterior is concave in (mu, epsilon) together (Prekopa), so Newton's method finds its one
mode; the covariance is Laplace's. The votes tell differences only: the level of the whole board is
the prior's, with variance sigma_0^2 / M for ever, so two models are compared by the variance of
their difference. Models that change as time passes are `trueskill`'s.
"""

import math
from dataclasses import asdict, dataclass, replace
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
from arena.ratings.leaderboards import BETA, ELO, MU, SIGMA, mu_per_theta, refuse_out_of_range
from arena.ratings.table import Ratings, groups, ratings_table

STEPS = 100
# A Newton step that promises less than this gain of the log posterior is the last one.
GAIN = 1e-11


@compiled
def likelihood(
    wins: np.ndarray, ties: np.ndarray, mu: np.ndarray, epsilon: float, logistic: bool
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return log p(votes), its gradient (M + 1,) and Hessian (M + 1, M + 1), epsilon last.

    wins, ties: (M, M) float64 counts, ties symmetric. mu (M,) and epsilon in units of the link. v
    and w of the truncations are the first and minus the second derivative in Delta.
    """
    m, total = len(mu), 0.0
    gradient, hessian = np.zeros(m + 1), np.zeros((m + 1, m + 1))
    for i in range(m):
        for j in range(m):
            t = mu[i] - mu[j]
            d = dd = e = ee = de = 0.0
            if wins[i, j] > 0:
                x = t - epsilon
                if logistic:
                    rest = math.exp(-abs(x))
                    log_p = min(x, 0.0) - math.log1p(rest)
                    v = (rest if x > 0.0 else 1.0) / (1.0 + rest)
                    w = v * (1.0 - v)
                else:
                    log_p = log_Phi(x)
                    v, w = v_w_strict(x)
                total += wins[i, j] * log_p
                d, e = wins[i, j] * v, -wins[i, j] * v
                dd = ee = -wins[i, j] * w
                de = wins[i, j] * w
            if i < j and ties[i, j] > 0:
                v, w = v_w_draw(t, epsilon)
                log_p = log_between(t, epsilon)
                upper = INVERSE_SQRT_2PI * math.exp(-0.5 * (epsilon - t) ** 2 - log_p)
                lower = INVERSE_SQRT_2PI * math.exp(-0.5 * (epsilon + t) ** 2 - log_p)
                q = upper + lower
                total += ties[i, j] * log_p
                d += ties[i, j] * v
                dd -= ties[i, j] * w
                e += ties[i, j] * q
                ee -= ties[i, j] * ((epsilon - t) * upper + (epsilon + t) * lower + q * q)
                de += ties[i, j] * ((epsilon - t) * upper - (epsilon + t) * lower - q * v)
            for k, sign in ((i, 1.0), (j, -1.0)):
                gradient[k] += sign * d
                hessian[k, m] += sign * de
                hessian[m, k] += sign * de
                hessian[k, i] += sign * dd
                hessian[k, j] -= sign * dd
            gradient[m] += e
            hessian[m, m] += ee
    return total, gradient, hessian


def mode(
    wins: np.ndarray,
    ties: np.ndarray,
    precision: float,
    epsilon: float | None = 0.0,
    logistic: bool = False,
) -> tuple[np.ndarray, float, np.ndarray, np.ndarray]:
    """Return (mode (M,), epsilon, covariance (M, M) within groups, that of the groups' levels).

    The prior is N(0, 1 / precision) for each model, everything in units of the link. The covariance
    is the sum of both: the votes tell what is within a group, the prior its level. epsilon: the
    draw margin, or None to estimate it with the mode; then the covariance is marginal over it.
    Without a single tie the estimate is 0. Raises ArithmeticError should Newton's method not
    arrive.
    """
    m, wins, ties = len(wins), wins.astype(np.float64), ties.astype(np.float64)
    free = epsilon is None and bool(ties.any())
    tied = ties.sum() / 2.0
    # The margin that would give equals this share of ties: above 0, and never infinite.
    share = (tied + 0.5) / (wins.sum() + tied + 1.0)
    x = np.append(np.zeros(m), draw_margin(share, math.sqrt(0.5)) if free else epsilon or 0.0)
    kept = slice(m + 1 if free else m)
    group = groups(wins + wins.T + ties)
    # No vote holds a group's mean. It is 0 throughout, so this rank-one term changes no step, and
    # keeps the steps well conditioned.
    level = (group[:, None] == group[None, :]).astype(np.float64)
    size = level.sum(1)
    held = np.pad(level, (0, 1))

    def at(x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        if x[m] < 0.0 or (free and x[m] == 0.0):
            return -math.inf, x, held
        value, gradient, hessian = likelihood(wins, ties, x[:m], x[m], logistic)
        gradient[:m] -= precision * x[:m]
        hessian[np.arange(m), np.arange(m)] -= precision
        return value - 0.5 * precision * float(x[:m] @ x[:m]), gradient, hessian

    value, gradient, hessian = at(x)
    for _ in range(STEPS):
        curvature = (held - hessian)[kept, kept]
        step = np.zeros(m + 1)
        step[kept] = np.linalg.solve(curvature, gradient[kept])
        if 0.5 * float(gradient @ step) <= GAIN * max(1.0, abs(value)):
            x = x + step
            # The term's own part is taken out of the inverse again.
            within = np.linalg.inv(curvature)[:m, :m] - level / size / (size + precision)
            return x[:m], float(x[m]), within, level / size / precision
        length = 1.0
        while not (there := at(x + length * step))[0] >= value:
            length /= 2.0
        x, (value, gradient, hessian) = x + length * step, there
    raise ArithmeticError(f"the mode was not found in {STEPS} steps of Newton's method")


def likely_draw_probability(wins: np.ndarray, ties: np.ndarray, sigma: float, beta: float) -> float:
    """Return how often two equals tie, the most likely given all wins and ties.

    The share of ties is not it: most models are not equal, and tie less often. Above 0 and below 1
    whatever the votes are, as if half a tie and half a win were seen besides.
    """
    epsilon = mode(wins, ties, 2.0 * (beta / sigma) ** 2, None)[1]
    least = 0.5 / (float(wins.sum() + ties.sum() / 2.0) + 1.0)
    return min(max(draw_probability(epsilon, math.sqrt(0.5)), least), 1.0 - least)


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
        comparisons = Comparisons.of(votes, rankings)
        wins, ties = comparisons.counts()
        p, c = self.draw_probability, math.sqrt(2.0) * self.beta
        if p == 0.0 and ties.any():
            raise ValueError("the votes have ties, so draw_probability must be above 0, or auto")
        given = None if p == "auto" else draw_margin(float(p), self.beta) / c
        x, epsilon, within, level = mode(wins, ties, (c / self.sigma) ** 2, given)
        parameters = {name: float(getattr(self, name)) for name in ("mu", "sigma", "beta")}
        parameters["draw_probability"] = draw_probability(c * epsilon, self.beta)
        return _ratings(
            comparisons.models,
            wins,
            ties,
            self.mu + c * x,
            c * c * (within + level),
            estimator="thurstone",
            parameters={**parameters, "epsilon": c * epsilon},
            settings=asdict(self),
        )


@dataclass(frozen=True)
class BradleyTerry:
    """mu and beta put theta on the scale of the other estimators: the middle, and one performance.

    ridge: the precision of a Gaussian prior on every theta, small: 0.0001 is one of a standard
    deviation of 100, 17,000 points of Elo. It moves a rating by less than its last printed digit.
    """

    mu: float = MU
    beta: float = BETA
    ridge: float = 1e-4

    def fit(self, votes: Any = None, *, rankings: Any = None) -> Ratings:
        """Rate the models by all votes at once (see `Comparisons.of`); adds elo and elo_sd.

            elo = 1000 + 400 / ln 10 * theta,  the mean of theta is 0 in each group

        A row that sums several raters is that many votes, and a K-wise vote its pairs. Each group
        of models has its own middle (elo 1000): nothing compares two groups. The draw margin, which
        this model has none of, is Thurstone's. Raises ValueError for parameters out of range.
        """
        refuse_out_of_range(asdict(self))
        comparisons = Comparisons.of(votes, rankings)
        wins, ties = comparisons.counts()
        theta, covariance = maximum_likelihood(wins, ties, self.ridge)
        scale = mu_per_theta(self.beta)
        p = likely_draw_probability(wins, ties, SIGMA, self.beta)
        ratings = _ratings(
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


def maximum_likelihood(
    wins: np.ndarray, ties: np.ndarray, ridge: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return Bradley-Terry's (theta (M,), covariance (M, M)); theta has mean 0 within each group.

    The covariance is the sandwich (H + ridge)^-1 (J + ridge) (H + ridge)^-1: a tie counted as half
    a win varies less than a coin, so the Hessian alone would be too wide.
    """
    theta, _, within, level = mode(wins + ties / 2.0, np.zeros_like(ties), ridge, logistic=True)
    p = 0.5 + 0.5 * np.tanh(0.5 * (theta[:, None] - theta[None, :]))
    squares = wins * (1.0 - p) ** 2 + wins.T * p**2 + ties * (0.5 - p) ** 2
    varied = np.diag(squares.sum(1) + ridge) - squares
    return theta, within @ varied @ within + level


def _ratings(
    models: list[str],
    wins: np.ndarray,
    ties: np.ndarray,
    mu: np.ndarray,
    covariance: np.ndarray,
    **about: Any,
) -> Ratings:
    """Return the ratings of a batch fit, with sigma relative to the mean of each model's group.

    mu (M,) and covariance (M, M) in the order of models. about: estimator, parameters, settings.
    """
    group = groups(wins + wins.T + ties)
    together = (group[:, None] == group[None, :]).astype(np.float64)
    centred = np.eye(len(models)) - together / together.sum(1, keepdims=True)
    variance = np.einsum("ij,jk,ik->i", centred, covariance, centred, optimize=True)
    sigma = np.sqrt(np.maximum(variance, 0.0))
    alone = together.sum(1) == 1  # nobody to be relative to
    sigma = np.where(alone, np.sqrt(np.diag(covariance)), sigma)
    table = ratings_table(models, wins, ties, mu, sigma)
    order = np.searchsorted(models, table["model"].to_list())
    return Ratings(table, covariance=covariance[np.ix_(order, order)], **about)
