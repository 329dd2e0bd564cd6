"""What the sequential arena says of every vote before it sees it.

The traversal of `trueskill`, with the probability of each outcome taken before each update: with
s_m^2 = sigma_m^2 + tau^2, c^2 = 2 beta^2 + s_a^2 + s_b^2 and delta = mu_a - mu_b,

    P(a wins) = Phi((delta - epsilon) / c)      P(tie) = P(|d| <= epsilon), d ~ N(delta, c^2)

The sum of the logarithms of what happened is the evidence, log p(votes | sigma_0, beta, tau,
epsilon), one step ahead; `tune` maximises it. The same probabilities, vote by vote, are the
sequential prediction that `time_splits` scores.
"""

import math

import numpy as np

from arena.ratings.comparisons import A_WINS, TIE, Comparisons
from arena.ratings.gaussian import Phi, compiled, log_between, log_Phi
from arena.ratings.trueskill import traverse


@compiled
def _log_evidence(
    mu: np.ndarray,
    sigma: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    outcome: np.ndarray,
    beta2: float,
    tau2: float,
    epsilon: float,
) -> float:
    total = 0.0
    for k in range(len(a)):
        i, j = a[k], b[k]
        if i == j:
            continue
        c = math.sqrt(2.0 * (beta2 + tau2) + sigma[i] * sigma[i] + sigma[j] * sigma[j])
        delta = mu[i] - mu[j] if outcome[k] == A_WINS else mu[j] - mu[i]
        if outcome[k] == TIE:
            total += log_between(delta / c, epsilon / c)
        else:
            total += log_Phi((delta - epsilon) / c)
        one = slice(k, k + 1)
        traverse(mu, sigma, a[one], b[one], outcome[one], beta2, tau2, epsilon)
    return total


def log_evidence(
    votes: Comparisons, sigma: float, beta: float, tau: float, epsilon: float
) -> float:
    """Return log p(votes), in nats; every model starts at N(., sigma^2), wherever its middle is.

    A vote between a model and itself says nothing. epsilon must be above 0 where votes tie.
    """
    mean, spread = np.zeros(len(votes.models)), np.full(len(votes.models), sigma)
    return float(
        _log_evidence(mean, spread, votes.a, votes.b, votes.outcome, beta**2, tau**2, epsilon)
    )


@compiled
def _foresee(
    mu: np.ndarray,
    sigma: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    outcome: np.ndarray,
    beta2: float,
    tau2: float,
    epsilon: float,
    probability: np.ndarray,
) -> None:
    for k in range(len(a)):
        i, j = a[k], b[k]
        c = math.sqrt(2.0 * (beta2 + tau2) + sigma[i] * sigma[i] + sigma[j] * sigma[j])
        delta = mu[i] - mu[j]
        probability[k, 0] = Phi((delta - epsilon) / c)
        probability[k, 1] = Phi((-delta - epsilon) / c)
        probability[k, 2] = max(0.0, 1.0 - probability[k, 0] - probability[k, 1])
        one = slice(k, k + 1)
        traverse(mu, sigma, a[one], b[one], outcome[one], beta2, tau2, epsilon)


def foresee(
    votes: Comparisons, sigma: float, beta: float, tau: float, epsilon: float
) -> np.ndarray:
    """Return (n, 3): the probability of a, b and tie of each vote, from the votes before it."""
    mean, spread = np.zeros(len(votes.models)), np.full(len(votes.models), sigma)
    found = np.empty((len(votes), 3))
    _foresee(mean, spread, votes.a, votes.b, votes.outcome, beta**2, tau**2, epsilon, found)
    return found
