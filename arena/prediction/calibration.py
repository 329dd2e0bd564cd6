"""What ratings say of a vote before they see it, and how well it met the outcomes.

With c^2 = 2 beta^2 + Var(difference) the performances of a and b differ by N(delta, c^2), and a
difference within epsilon is a tie:

    P(a wins) = Phi((delta - epsilon) / c)      P(tie) = P(|d| <= epsilon), d ~ N(delta, c^2)

`predict` takes ratings as they are. `predict_online` follows the traversal of `trueskill` and
predicts each vote before its update, the pairs of a K-wise vote all together. The sum of the
logarithms of what happened is the evidence, log p(votes | sigma_0, beta, tau, epsilon), one step
ahead; `tune` maximises it. A vote has three outcomes (a, b, tie), so log-loss, Brier score and
accuracy are those of three classes; a prediction that ignores ties cannot win by it. What is
predicted from what is the work of `held_out`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.special import ndtr

from arena.compiled import compiled
from arena.ratings.comparisons import A_WINS, B_WINS, SINGLE, TIE, Comparisons
from arena.ratings.gaussian import Phi, log_between, log_Phi
from arena.ratings.table import HALF, Ratings
from arena.ratings.trueskill import World, traverse, traverse_with_rankings

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

    A model that the ratings do not hold has the prior that they started from.
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


@compiled
def _follow(
    mu: np.ndarray,
    sigma: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    outcome: np.ndarray,
    world: World,
    learn: bool,
    probability: np.ndarray,
) -> float:
    """Return log p(votes), or 0 and fill probability (n, 3) where it has columns.

    learn: every vote changes the ratings that the next one is predicted by.
    """
    total, (beta2, tau2, epsilon) = 0.0, world
    for k in range(len(a)):
        i, j = a[k], b[k]
        delta = mu[i] - mu[j]
        c = math.sqrt(2.0 * (beta2 + tau2) + sigma[i] * sigma[i] + sigma[j] * sigma[j])
        if probability.shape[1]:
            probability[k, A_WINS] = won = Phi((delta - epsilon) / c)
            probability[k, B_WINS] = lost = Phi((-delta - epsilon) / c)
            probability[k, TIE] = max(0.0, 1.0 - won - lost)
        elif i != j and outcome[k] == TIE:
            total += log_between(delta / c, epsilon / c)
        elif i != j:
            total += log_Phi(((delta if outcome[k] == A_WINS else -delta) - epsilon) / c)
        if learn:
            one = slice(k, k + 1)
            traverse(mu, sigma, a[one], b[one], outcome[one], world)
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
            traverse_with_rankings(mu, sd, *codes, some.ranking, world)
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
