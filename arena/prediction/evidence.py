"""What the sequential arena says of every vote before it sees it.

The traversal of `trueskill`, with the probability of each outcome taken before each update: with
s_m^2 = sigma_m^2 + tau^2, c^2 = 2 beta^2 + s_a^2 + s_b^2 and delta = mu_a - mu_b,

    P(a wins) = Phi((delta - epsilon) / c)      P(tie) = P(|d| <= epsilon), d ~ N(delta, c^2)

The sum of the logarithms of what happened is the evidence, log p(votes | sigma_0, beta, tau,
epsilon), one step ahead; `tune` maximises it. The same probabilities, vote by vote, are the online
prediction that `held_out` scores. The pairs of a K-wise vote are all predicted before its update.
"""

import math
from itertools import pairwise

import numpy as np

from arena.compiled import compiled
from arena.ratings.comparisons import A_WINS, SINGLE, TIE, Comparisons
from arena.ratings.gaussian import Phi, log_between, log_Phi
from arena.ratings.trueskill import rate, traverse


@compiled
def _log_ahead(
    mu: np.ndarray,
    sigma: np.ndarray,
    i: int,
    j: int,
    outcome: int,
    world: tuple[float, float, float],
    probability: np.ndarray,
) -> float:
    """Return log p of the outcome of i against j, and fill probability (3,) unless it is empty."""
    beta2, tau2, epsilon = world
    c = math.sqrt(2.0 * (beta2 + tau2) + sigma[i] * sigma[i] + sigma[j] * sigma[j])
    delta = mu[i] - mu[j]
    if len(probability):
        probability[0] = Phi((delta - epsilon) / c)
        probability[1] = Phi((-delta - epsilon) / c)
        probability[2] = max(0.0, 1.0 - probability[0] - probability[1])
        return 0.0
    if i == j:
        return 0.0
    if outcome == TIE:
        return log_between(delta / c, epsilon / c)
    return log_Phi(((delta if outcome == A_WINS else -delta) - epsilon) / c)


@compiled
def _follow(
    mu: np.ndarray,
    sigma: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    outcome: np.ndarray,
    world: tuple[float, float, float],
    learn: bool,
    probability: np.ndarray,
) -> float:
    """Return log p(votes), and fill probability (n, 3) unless it has no columns.

    learn: every vote changes the ratings that the next one is predicted by.
    """
    total = 0.0
    for k in range(len(a)):
        total += _log_ahead(mu, sigma, a[k], b[k], outcome[k], world, probability[k])
        if learn:
            one = slice(k, k + 1)
            traverse(mu, sigma, a[one], b[one], outcome[one], world[0], world[1], world[2])
    return total


def _run(
    votes: Comparisons, sigma: float, beta: float, tau: float, epsilon: float, out: np.ndarray
) -> float:
    mu, sd = np.zeros(len(votes.models)), np.full(len(votes.models), sigma)
    world = beta**2, tau**2, epsilon
    edges = np.array([0, len(votes)])
    if votes.ranking is not None:
        edges = np.append(np.flatnonzero(np.diff(votes.ranking, prepend=-2)), len(votes))
    total = 0.0
    for start, stop in pairwise(edges.tolist()):
        some = votes.part(start, stop)
        single = some.ranking is None or some.ranking[0] == SINGLE
        codes = some.a, some.b, some.outcome
        total += _follow(mu, sd, *codes, world, single, out[start:stop])
        if not single:
            rate(mu, sd, some, beta, tau, epsilon)
    return total


def log_evidence(
    votes: Comparisons, sigma: float, beta: float, tau: float, epsilon: float
) -> float:
    """Return log p(votes), in nats; every model starts at N(., sigma^2), wherever its middle is.

    A vote between a model and itself says nothing. epsilon must be above 0 where votes tie.
    """
    return _run(votes, sigma, beta, tau, epsilon, np.empty((len(votes), 0)))


def predict_online(
    votes: Comparisons, sigma: float, beta: float, tau: float, epsilon: float
) -> np.ndarray:
    """Return (n, 3): the probability of a, b and tie of each vote, from the votes before it."""
    found = np.empty((len(votes), 3))
    _run(votes, sigma, beta, tau, epsilon, found)
    return found
