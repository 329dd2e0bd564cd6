"""K-Sort Eval: rate a new model against an arena's leaderboard, one judged instance at a time.

The algorithm of arXiv 2602.09411 (docs: evaluation), in the reading of its published code; where
the paper reads otherwise, that reading is a named option:

    variance="code"   sigma^2 = lam2 sigma_new^2 + (1 - lam2) sigma_old^2,
                      lam2 = lam^2 / (lam^2 + (1 - lam)^2)
    variance="paper"  sigma^2 = lam^2 sigma_new^2 + (1 - lam)^2 sigma_old^2
    score="code"      mu - 3 x (mean sigma of the leaderboard)
    score="paper"     mu - 3 x (the model's own sigma)

Who ranks the images is a `Judge` (`evaluation.ksort.judges`). Nothing here reads an image.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import trueskill
from scipy.stats import rankdata

from evaluation.errors import EvaluationError
from evaluation.ksort.dataset import Dataset, Instance, find_image
from evaluation.ksort.judges import BudgetSpent, Judge, Question, Refused
from evaluation.tables import provenance

Reading = Literal["code", "paper"]

ALPHA = 0.5  # weight of the overlap against the distance in capability
SHARPNESS = 5.0  # slope of the sigmoid that turns agreement into trust
ENOUGH = 0.75  # sigma below which the rating is settled
MOST_ROUNDS = 150
MOST_REFUSALS = 10  # instances that the judge may refuse before the evaluation stops


class Environment(trueskill.TrueSkill):
    """TrueSkill's default world, which also answers where the package runs out of digits.

    The package, not `arena.ratings.free_for_all`: the published ratings come of its message
    passing, which stops early, and `free_for_all` goes on to the fixed point, 2e-6 away.

    The package raises FloatingPointError when a result was so surprising that 1 - w is lost to
    rounding. There w = 1 - 1/x^2 to leading order, x being the distance from the truncation.
    """

    def w_win(self, diff: float, draw_margin: float) -> float:
        """Multiplicative correction of the variance after a win."""
        try:
            return super().w_win(diff, draw_margin)
        except FloatingPointError:
            return 1.0 - 1.0 / max((diff - draw_margin) ** 2, 2.0)

    def w_draw(self, diff: float, draw_margin: float) -> float:
        """Multiplicative correction of the variance after a draw."""
        try:
            return super().w_draw(diff, draw_margin)
        except FloatingPointError:
            return 1.0 - 1.0 / max((abs(diff) - draw_margin) ** 2, 2.0)


@dataclass(frozen=True)
class Round:
    """One judged instance: the judge's five ranks (data set's order, new image last), their
    agreement with people, and the rating after it."""

    instance: str
    ranks: list[float]
    rho: float
    mu: float
    sigma: float


@dataclass(frozen=True)
class Result:
    """The rating of a new model and how it came about.

    stopped : "sigma" (settled), "rounds" (150 were not enough), "instances" (none left), "refusals"
        (the judge refused too many) or "budget" (no request is left; the same command goes on).
    skipped : instances that the judge refused, and why.
    """

    mu: float
    sigma: float
    score: float
    stopped: str
    variance: Reading
    score_reading: Reading
    rounds: list[Round]
    skipped: list[dict[str, str]] = field(default_factory=list)
    judge: dict[str, Any] = field(default_factory=dict)
    made_by: dict[str, Any] = field(default_factory=provenance)


def spearman(a: Any, b: Any) -> float:
    """Spearman's correlation of two short rankings; 0 where one of them does not rank at all.

    (The correlation is then undefined. 0 means: this says neither that judge and people agree
    nor that they do not, so the update is half trusted.)
    """
    if len({*a}) < 2 or len({*b}) < 2:
        return 0.0
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def next_instance(dataset: Dataset, mu: float, used: list[int], alpha: float = ALPHA) -> int:
    """Dynamic matching: the unused instance of least |capacity - mu| + alpha overlap."""
    cost = np.abs(dataset.capacity - mu) + alpha * dataset.overlap
    cost[used] = np.inf
    return int(np.argmin(cost))


def nearest(dataset: Dataset, mu: float, used: list[int]) -> Iterator[Instance]:
    """Yield the instance that was matched last, then those that would be matched next at this mu.

    What is drawn is drawn in batches, which a GPU and a CPU do several times as fast as one by one.
    """
    yield dataset.instance(used[-1])
    ahead = used.copy()
    while len(ahead) < len(dataset.names):
        ahead.append(next_instance(dataset, mu, ahead))
        yield dataset.instance(ahead[-1])


def correct(
    rho: float,
    old: tuple[float, float],
    new: tuple[float, float],
    variance: Reading = "code",
) -> tuple[float, float]:
    """Posterior correction of (mu, sigma): trust an update as far as the judge agrees with people.

    rho is the agreement on the four known images; lam = sigmoid(5 rho).
    """
    lam = 1.0 / (1.0 + math.exp(-SHARPNESS * rho))
    weight_new, weight_old = lam**2, (1.0 - lam) ** 2
    if variance == "code":
        total = weight_new + weight_old
        weight_new, weight_old = weight_new / total, 1.0 - weight_new / total
    mu = lam * new[0] + (1.0 - lam) * old[0]
    return mu, math.sqrt(weight_new * new[1] ** 2 + weight_old * old[1] ** 2)


def evaluate(
    dataset: Dataset,
    images: Path,
    judge: Judge,
    *,
    seed: int = 0,
    variance: Reading = "code",
    score: Reading = "code",
    draw: Callable[[Iterator[Instance]], None] | None = None,
    most_refusals: int = MOST_REFUSALS,
    on_round: Callable[[Round], None] | None = None,
) -> Result:
    """Rate the model whose images are images/<instance>.(png|jpg).

    Opponents keep their leaderboard ratings; the new model starts at TrueSkill's default. The
    judge sees the five images in an order drawn from (seed, instance), so a repeat asks the very
    same questions. draw : makes the image of the first of these, where it is not there yet,
    and may make those of the next.
    Raises EvaluationError when an image or a judgment is missing.
    """
    environment = Environment()
    rating = environment.create_rating()
    rounds: list[Round] = []
    skipped: list[dict[str, str]] = []
    used: list[int] = []
    while (stopped := ending(rating.sigma, rounds, skipped, dataset, most_refusals)) is None:
        used.append(next_instance(dataset, rating.mu, used))
        instance = dataset.instance(used[-1])
        if draw is not None:
            draw(nearest(dataset, rating.mu, used))
        try:
            ranks = judged_ranks(judge, instance, find_image(images, instance.name), seed)
        except Refused as refusal:
            skipped.append({"instance": instance.name, "reason": str(refusal)})
            continue
        except BudgetSpent:
            stopped = "budget"
            break
        rho = spearman(instance.human_ranks, ranks[:-1])
        opponents = [environment.create_rating(*dataset.leaderboard[m]) for m in instance.models]
        players = [(opponent,) for opponent in opponents] + [(rating,)]
        updated = environment.rate(players, ranks)[-1][0]
        mu, sigma = correct(rho, (rating.mu, rating.sigma), (updated.mu, updated.sigma), variance)
        rating = environment.create_rating(mu=mu, sigma=sigma)
        rounds.append(Round(instance.name, ranks, rho, rating.mu, rating.sigma))
        if on_round is not None:
            on_round(rounds[-1])
    spread = np.mean([sigma for _, sigma in dataset.leaderboard.values()])
    return Result(
        mu=rating.mu,
        sigma=rating.sigma,
        score=rating.mu - 3 * float(spread if score == "code" else rating.sigma),
        stopped=stopped,
        variance=variance,
        score_reading=score,
        rounds=rounds,
        skipped=skipped,
        judge=judge.summary(),
    )


def ending(
    sigma: float,
    rounds: Sequence[Any],
    skipped: Sequence[Any],
    dataset: Dataset,
    most_refusals: int,
) -> str | None:
    """Why an evaluation is over; None while it goes on."""
    if sigma < ENOUGH:
        return "sigma"
    if len(rounds) >= MOST_ROUNDS:
        return "rounds"
    if len(skipped) >= most_refusals:
        return "refusals"
    return "instances" if len(rounds) + len(skipped) == len(dataset.names) else None


def judged_ranks(judge: Judge, instance: Instance, image: Path, seed: int) -> list[float]:
    """Ask the judge for the ranks of five images, in the data set's order, the new one last."""
    shown = list(range(5))
    random.Random(f"{seed}/{instance.name}").shuffle(shown)
    question = Question(instance.name, instance.prompt, (*instance.images, image), tuple(shown))
    ranks = judge.rank(question)
    if len(ranks) != 5 or not all(math.isfinite(rank) for rank in ranks):
        raise EvaluationError(f"the judge gave {ranks} for {instance.name}, not five ranks")
    return cast("list[float]", [int(rank) if rank == int(rank) else rank for rank in ranks])
