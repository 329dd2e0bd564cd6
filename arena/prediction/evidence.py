"""What the sequential arena says of every vote before it sees it.

The traversal of `trueskill`, with the probability of each outcome taken before each update: with
s_m^2 = sigma_m^2 + tau^2, c^2 = 2 beta^2 + s_a^2 + s_b^2 and delta = mu_a - mu_b,

    P(a wins) = Phi((delta - epsilon) / c)      P(tie) = P(|d| <= epsilon), d ~ N(delta, c^2)

The sum of the logarithms of what happened is the evidence, log p(votes | sigma_0, beta, tau,
epsilon), one step ahead; `tune` maximises it. The same probabilities, vote by vote, are the online
prediction that `held_out` scores. The pairs of a K-wise vote are all predicted before its update.
"""

import math

import numpy as np

from arena.ratings.comparisons import A_WINS, SINGLE, TIE, Comparisons
from arena.ratings.gaussian import Phi, compiled, log_between, log_Phi
from arena.ratings.trueskill import traverse_with_rankings


@compiled
def _follow(
    mu: np.ndarray,
    sigma: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    outcome: np.ndarray,
    ranking: np.ndarray,
    beta2: float,
    tau2: float,
    epsilon: float,
    probability: np.ndarray,
) -> float:
    """Return log p(votes), and fill probability (n, 3) where it has rows."""
    total, start = 0.0, 0
    while start < len(a):
        stop = start + 1
        while stop < len(a) and ranking[start] != SINGLE and ranking[stop] == ranking[start]:
            stop += 1
        for k in range(start, stop):
            i, j = a[k], b[k]
            c = math.sqrt(2.0 * (beta2 + tau2) + sigma[i] * sigma[i] + sigma[j] * sigma[j])
            delta = mu[i] - mu[j]
            if len(probability):
                probability[k, 0] = Phi((delta - epsilon) / c)
                probability[k, 1] = Phi((-delta - epsilon) / c)
                probability[k, 2] = max(0.0, 1.0 - probability[k, 0] - probability[k, 1])
            elif i != j and outcome[k] == TIE:
                total += log_between(delta / c, epsilon / c)
            elif i != j:
                total += log_Phi(((delta if outcome[k] == A_WINS else -delta) - epsilon) / c)
        one = slice(start, stop)
        traverse_with_rankings(
            mu, sigma, a[one], b[one], outcome[one], ranking[one], beta2, tau2, epsilon
        )
        start = stop
    return total


def _run(
    votes: Comparisons, sigma: float, beta: float, tau: float, epsilon: float, out: np.ndarray
) -> float:
    mean, sd = np.zeros(len(votes.models)), np.full(len(votes.models), sigma)
    ranking = votes.ranking
    if ranking is None:
        ranking = np.full(len(votes), SINGLE, np.int32)
    world = beta**2, tau**2, epsilon
    return float(_follow(mean, sd, votes.a, votes.b, votes.outcome, ranking, *world, out))


def log_evidence(
    votes: Comparisons, sigma: float, beta: float, tau: float, epsilon: float
) -> float:
    """Return log p(votes), in nats; every model starts at N(., sigma^2), wherever its middle is.

    A vote between a model and itself says nothing. epsilon must be above 0 where votes tie.
    """
    return _run(votes, sigma, beta, tau, epsilon, np.empty((0, 3)))


def predict_online(
    votes: Comparisons, sigma: float, beta: float, tau: float, epsilon: float
) -> np.ndarray:
    """Return (n, 3): the probability of a, b and tie of each vote, from the votes before it."""
    found = np.empty((len(votes), 3))
    _run(votes, sigma, beta, tau, epsilon, found)
    return found
