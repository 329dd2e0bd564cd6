"""Whether the arena can be believed: it predicts votes that it has not seen.

The votes are split in time, an estimator is fitted to the earlier ones and its probability of
each later outcome is scored. A vote has three outcomes (a, b, tie), so log-loss, Brier score
and accuracy are those of three classes; a prediction that ignores ties cannot win by it.
Every estimator is judged beside the same baselines, so that a number means something.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.special import ndtr

from arena.gaussian import compiled
from arena.ratings import Estimator, Ratings
from arena.votes.comparisons import A_WINS, B_WINS, TIE, Comparisons

# A probability is never taken below this: one impossible outcome must not decide everything.
FLOOR = 1e-6


@dataclass(frozen=True)
class Score:
    """How well probabilities met outcomes; log_loss in nats, brier the sum over three classes."""

    log_loss: float
    brier: float
    accuracy: float


@dataclass(frozen=True)
class HeldOut:
    """An estimator's score on votes after its time, and those of the baselines on the same votes.

    votes: how many were predicted; a vote between a model and itself is not. probability: (n, 3),
    what the estimator gave to a, b and tie. outcome: (n,).
    """

    score: Score
    baselines: dict[str, Score]
    votes: int
    probability: np.ndarray
    outcome: np.ndarray

    @property
    def log_loss(self) -> float:
        """The estimator's log-loss a vote, in nats."""
        return self.score.log_loss

    @property
    def baseline_log_loss(self) -> float:
        """The best baseline's log-loss."""
        return min(score.log_loss for score in self.baselines.values())


def held_out(
    votes: pl.DataFrame | Comparisons, estimator: Estimator, share: float = 0.2
) -> HeldOut:
    """Fit to the earlier votes and score the last `share` of them in time.

    The ratings stay as they were at the split: this asks whether they hold for what comes. A model
    first seen after the split has the prior. Raises ValueError where either part would be empty.
    """
    comparisons = Comparisons.of(votes)
    different = comparisons.a != comparisons.b
    comparisons = Comparisons(
        comparisons.models,
        comparisons.a[different],
        comparisons.b[different],
        comparisons.outcome[different],
    )
    split = round(len(comparisons) * (1.0 - share))
    if not 0 < split < len(comparisons):
        raise ValueError(
            f"{len(comparisons)} votes between different models cannot be split at {share:.0%}"
        )
    past, future = comparisons.part(0, split), comparisons.part(split, len(comparisons))
    probability = predict(estimator.fit(past), future)
    baselines = {
        "constant": score(constant(past, len(future)), future.outcome),
        "elo, K=24": score(elo(past, future), future.outcome),
    }
    return HeldOut(
        score=score(probability, future.outcome),
        baselines=baselines,
        votes=len(future),
        probability=probability,
        outcome=future.outcome,
    )


def predict(ratings: Ratings, votes: Comparisons) -> np.ndarray:
    """Return (n, 3): the probability of a, b and tie for every comparison.

    With c^2 = 2 beta^2 + sigma_a^2 + sigma_b^2 the performances differ by N(mu_a - mu_b, c^2), and
    a difference within epsilon is a tie.
    """
    beta, epsilon = ratings.parameters["beta"], ratings.parameters["epsilon"]
    known = dict(zip(ratings.table["model"], ratings.table["mu"], strict=True))
    spread = dict(zip(ratings.table["model"], ratings.table["sigma"], strict=True))
    # A model that the ratings do not hold: the prior they started from.
    mean = np.array([known.get(name, ratings.parameters["mu"]) for name in votes.models])
    sigma = np.array([spread.get(name, ratings.parameters["sigma"]) for name in votes.models])
    delta = mean[votes.a] - mean[votes.b]
    c = np.sqrt(2.0 * beta**2 + sigma[votes.a] ** 2 + sigma[votes.b] ** 2)
    wins, losses = ndtr((delta - epsilon) / c), ndtr((-delta - epsilon) / c)
    return np.stack([wins, losses, np.maximum(1.0 - wins - losses, 0.0)], axis=1)


def constant(past: Comparisons, n: int) -> np.ndarray:
    """Return (n, 3): the past shares of wins, losses and ties, whoever plays."""
    share = np.bincount(past.outcome, minlength=3) + 1.0  # one more of each: none is impossible
    return np.tile(share / share.sum(), (n, 1))


def elo(past: Comparisons, future: Comparisons, k: float = 24.0) -> np.ndarray:
    """Return (n, 3) by Elo ratings of the past votes, K = 24 as on the early leaderboards.

    Elo gives an expected score and no ties: the past share of ties is taken from both sides alike.
    """
    rating = np.zeros(len(past.models))
    _elo(rating, past.a, past.b, past.outcome, k)
    expected = 1.0 / (1.0 + 10.0 ** ((rating[future.b] - rating[future.a]) / 400.0))
    tie = constant(past, 1)[0, TIE]
    return np.stack(
        [(1 - tie) * expected, (1 - tie) * (1 - expected), np.full(len(expected), tie)], axis=1
    )


@compiled
def _elo(rating: np.ndarray, a: np.ndarray, b: np.ndarray, outcome: np.ndarray, k: float) -> None:
    for n in range(len(a)):
        i, j = a[n], b[n]
        expected = 1.0 / (1.0 + 10.0 ** ((rating[j] - rating[i]) / 400.0))
        scored = 1.0 if outcome[n] == A_WINS else (0.5 if outcome[n] == TIE else 0.0)
        rating[i] += k * (scored - expected)
        rating[j] -= k * (scored - expected)


def score(probability: np.ndarray, outcome: np.ndarray) -> Score:
    """Score (n, 3) probabilities against (n,) outcomes."""
    n = np.arange(len(outcome))
    kept = np.maximum(probability, FLOOR)
    kept = kept / kept.sum(1, keepdims=True)
    truth = np.zeros_like(kept)
    truth[n, outcome] = 1.0
    return Score(
        log_loss=float(-np.log(kept[n, outcome]).mean()),
        brier=float(((kept - truth) ** 2).sum(1).mean()),
        accuracy=float((kept.argmax(1) == outcome).mean()),
    )


def reliability(
    probability: np.ndarray, outcome: np.ndarray, bins: int = 10
) -> Sequence[tuple[float, float, float, int]]:
    """Return (predicted, observed, half width of its 95% interval, votes) in bins of equal count.

    The prediction is P(a wins) among votes that are no tie, P(a) / (P(a) + P(b)); which side a
    model stands on is arbitrary, so every vote counts from both sides.
    """
    strict = outcome != TIE
    p = probability[strict, A_WINS] / probability[strict][:, [A_WINS, B_WINS]].sum(1)
    won = outcome[strict] == A_WINS
    p, won = np.concatenate([p, 1.0 - p]), np.concatenate([won, ~won])
    points = []
    order = np.argsort(p, kind="stable")
    for part in np.array_split(order, min(bins, max(1, len(order) // 20))):
        if len(part):
            rate = float(won[part].mean())
            half = 1.96 * math.sqrt(max(rate * (1 - rate), 1e-12) / len(part))
            points.append((float(p[part].mean()), rate, half, len(part)))
    return points
