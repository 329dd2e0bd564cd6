"""Whether the arena can be believed: it predicts votes that it has not seen.

A vote has three outcomes (a, b, tie), so log-loss, Brier score and accuracy are those of three
classes; a prediction that ignores ties cannot win by it. `held_out` splits the votes once in time
and judges an estimator beside the same baselines, so that a number means something; `time_splits`
does so several times, for several estimators, and vote by vote.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.special import ndtr

from arena.prediction.baselines import constant, elo
from arena.ratings.bradley_terry import BradleyTerry, with_maximum
from arena.ratings.comparisons import A_WINS, B_WINS, TIE, Comparisons
from arena.ratings.table import Estimator, Ratings

# A probability is never taken below this: one impossible outcome must not decide everything.
FLOOR = 1e-6


@dataclass(frozen=True)
class Score:
    """How well probabilities met outcomes.

    log_loss: nats a vote. brier: the sum over three classes. accuracy: how often the likeliest
    outcome happened. calibration_error: the mean distance between predicted and observed win rates,
    over bins of equal count (`reliability`).
    """

    log_loss: float
    brier: float
    accuracy: float
    calibration_error: float


@dataclass(frozen=True)
class HeldOut:
    """An estimator's score on votes after its time, and those of the baselines on the same votes.

    votes: how many were predicted; a vote between a model and itself is not. probability: (n, 3),
    what was given to a, b and tie. outcome: (n,).
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

    The ratings stay as they were at the split: this asks whether they hold for what comes. Raises
    ValueError where either part would be empty.
    """
    comparisons = between_models(votes)
    split = round(len(comparisons) * (1.0 - share))
    if not 0 < split < len(comparisons):
        raise ValueError(
            f"{len(comparisons)} votes between different models cannot be split at {share:.0%}"
        )
    past, future = comparisons.part(0, split), comparisons.part(split, len(comparisons))
    probability, _ = foretell(estimator, past, future)
    return HeldOut(
        score=score(probability, future.outcome),
        baselines={
            "constant": score(constant(past, len(future)), future.outcome),
            "elo, K=24": score(elo(past, future), future.outcome),
        },
        votes=len(future),
        probability=probability,
        outcome=future.outcome,
    )


def between_models(votes: pl.DataFrame | Comparisons) -> Comparisons:
    """Return the votes between two different models, in time order."""
    comparisons = Comparisons.of(votes)
    return comparisons.only(comparisons.a != comparisons.b)


def foretell(
    estimator: Estimator, past: Comparisons, future: Comparisons
) -> tuple[np.ndarray, np.ndarray]:
    """Return (the probabilities (n, 3) of future votes by ratings of the past, unrated (n,)).

    A model first seen in the future has the prior. Bradley-Terry has none: it rates the models for
    which the past has a finite maximum, and a vote with any other, or between two parts that it
    cannot compare, is unrated. Such a vote gets the past shares of outcomes, as if nobody were
    known, so that every method is scored on the same votes.
    """
    if isinstance(estimator, BradleyTerry):
        known = with_maximum(past)
        if not len(known):
            return constant(past, len(future)), np.ones(len(future), bool)
        ratings = estimator.fit(known)
    else:
        ratings = estimator.fit(past)
    probability = predict(ratings, future)
    unrated = np.isnan(probability).any(1)
    probability[unrated] = constant(past, int(unrated.sum()))
    return probability, unrated


def predict(ratings: Ratings, votes: Comparisons) -> np.ndarray:
    """Return (n, 3): the probability of a, b and tie for every comparison.

    With c^2 = 2 beta^2 + sigma_a^2 + sigma_b^2 the performances differ by N(mu_a - mu_b, c^2), and
    a difference within epsilon is a tie. A model that the ratings do not hold has the prior that
    they started from. Ratings without a prior (bradley_terry) say nothing of such a model, nor of
    two models that no chain of votes links: NaN.
    """
    beta, epsilon = ratings.parameters["beta"], ratings.parameters["epsilon"]
    prior = ratings.parameters["mu"], ratings.parameters.get("sigma", math.nan), -1
    known = {
        name: values
        for name, *values in ratings.table.select("model", "mu", "sigma", "group").iter_rows()
    }
    mu, sigma, group = np.array([known.get(name, prior) for name in votes.models]).reshape(-1, 3).T
    delta = mu[votes.a] - mu[votes.b]
    c = np.sqrt(2.0 * beta**2 + sigma[votes.a] ** 2 + sigma[votes.b] ** 2)
    wins, losses = ndtr((delta - epsilon) / c), ndtr((-delta - epsilon) / c)
    probability = np.stack([wins, losses, np.maximum(1.0 - wins - losses, 0.0)], axis=1)
    if "sigma" not in ratings.parameters:
        probability[group[votes.a] != group[votes.b]] = math.nan
    return probability


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
            half = 1.96 * math.sqrt(max(rate * (1 - rate), 0.25 / len(part)) / len(part))
            points.append((float(p[part].mean()), rate, half, len(part)))
    return points
