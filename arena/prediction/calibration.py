"""How well probabilities met outcomes, and what ratings say of a vote.

A vote has three outcomes (a, b, tie), so log-loss, Brier score and accuracy are those of three
classes; a prediction that ignores ties cannot win by it. What is predicted from what is the work of
`held_out`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr

from arena.ratings.comparisons import A_WINS, B_WINS, TIE, Comparisons
from arena.ratings.table import HALF, Ratings

# A probability is never taken below this: one impossible outcome must not decide everything.
FLOOR = 1e-6


@dataclass(frozen=True)
class Score:
    """How well probabilities met outcomes.

    log_loss: nats per vote. brier: the sum over three classes. accuracy: how often the likeliest
    outcome happened. calibration_error: the mean distance between predicted and observed win rates,
    over bins of equal count (`reliability`).
    """

    log_loss: float
    brier: float
    accuracy: float
    calibration_error: float


def predict(ratings: Ratings, votes: Any) -> np.ndarray:
    """Return (n, 3): the probability of a, b and tie for every comparison.

    With c^2 = 2 beta^2 + Var(difference) the performances differ by N(mu_a - mu_b, c^2), and a
    difference within epsilon is a tie. A model that the ratings do not hold has the prior that they
    started from.
    """
    votes = Comparisons.of(votes)
    beta, epsilon, mu, sigma = (ratings.parameters[n] for n in ("beta", "epsilon", "mu", "sigma"))
    place = {name: k for k, name in enumerate(ratings.table["model"])}
    row = np.array([place.get(name, -1) for name in votes.models], np.int64)
    own_mu = np.append(ratings.table["mu"].to_numpy(), mu)  # row -1: a model never seen
    own_variance = np.append(ratings.table["sigma"].to_numpy() ** 2, sigma**2)
    a, b = row[votes.a], row[votes.b]
    delta, variance = own_mu[a] - own_mu[b], own_variance[a] + own_variance[b]
    rated = (a >= 0) & (b >= 0)
    variance[rated] = ratings.difference(a[rated], b[rated])[1]
    c = np.sqrt(2.0 * beta**2 + variance)
    wins, losses = ndtr((delta - epsilon) / c), ndtr((-delta - epsilon) / c)
    return np.stack([wins, losses, np.maximum(1.0 - wins - losses, 0.0)], axis=1)


def log_losses(probability: np.ndarray, outcome: np.ndarray) -> np.ndarray:
    """Return -log of what (n, 3) probabilities gave to (n,) outcomes, at most -log `FLOOR`."""
    return -np.log(_bounded(probability)[np.arange(len(outcome)), outcome])


def score(probability: np.ndarray, outcome: np.ndarray) -> Score:
    """Score (n, 3) probabilities against (n,) outcomes, n at least 1."""
    kept = _bounded(probability)
    points = reliability(kept, outcome)
    counted = sum(n for *_, n in points)
    return Score(
        log_loss=float(log_losses(probability, outcome).mean()),
        brier=float(((kept - np.eye(3)[outcome]) ** 2).sum(1).mean()),
        accuracy=float((kept.argmax(1) == outcome).mean()),
        calibration_error=sum(n * abs(p - rate) for p, rate, _, n in points) / max(counted, 1),
    )


def _bounded(probability: np.ndarray) -> np.ndarray:
    kept = np.maximum(probability, FLOOR)
    return kept / kept.sum(1, keepdims=True)


def reliability(
    probability: np.ndarray, outcome: np.ndarray, bins: int = 10
) -> Sequence[tuple[float, float, float, int]]:
    """Return (predicted, observed, half width of its 95% interval, votes) in bins of equal count.

    Of votes that are no tie, from the favourite's side (which side a model stands on is arbitrary):
    how often it was given the win, P(a) / (P(a) + P(b)) or its complement, and how often it won.
    """
    strict = outcome != TIE
    p = probability[strict, A_WINS] / probability[strict][:, [A_WINS, B_WINS]].sum(1)
    won = outcome[strict] == A_WINS
    p, won = np.maximum(p, 1.0 - p), np.where(p < 0.5, ~won, won)
    points = []
    order = np.argsort(p, kind="stable")
    for part in np.array_split(order, min(bins, max(1, len(order) // 20))):
        if len(part):
            rate = float(won[part].mean())
            half = HALF * math.sqrt(max(rate * (1 - rate), 0.25 / len(part)) / len(part))
            points.append((float(p[part].mean()), rate, half, len(part)))
    return points
