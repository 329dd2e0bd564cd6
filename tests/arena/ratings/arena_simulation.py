"""Arenas whose truth is known: models from the prior, votes by the method's own likelihood."""

import numpy as np


def simulated_arena(rng, models, votes, mu, sigma, beta, epsilon):
    """Return (wins (M, M), ties (M, M), true capabilities (M,)) of one random arena."""
    truth = rng.normal(mu, sigma, models)
    a = rng.integers(0, models, votes)
    b = (a + rng.integers(1, models, votes)) % models
    d = truth[a] - truth[b] + rng.normal(0.0, np.sqrt(2.0) * beta, votes)
    wins = np.zeros((models, models), np.int64)
    ties = np.zeros((models, models), np.int64)
    np.add.at(wins, (a[d > epsilon], b[d > epsilon]), 1)
    np.add.at(wins, (b[d < -epsilon], a[d < -epsilon]), 1)
    tied = np.abs(d) <= epsilon
    np.add.at(ties, (a[tied], b[tied]), 1)
    np.add.at(ties, (b[tied], a[tied]), 1)
    return wins, ties, truth
