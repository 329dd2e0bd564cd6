"""The simulated raters: sessions, chains, ties and slips, from a latent quality to votes.

Nobody voted here, and the votes say so (`source`). A rater perceives an image's latent quality
(`judge`) with noise of their own; numpy and polars alone, so the same seed gives the same votes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import polars as pl

SOURCE = "simulated raters"
OPENING = datetime(2026, 3, 2, tzinfo=UTC)
DAYS = 42
RATERS = 80


@dataclass(frozen=True)
class Rater:
    """How one simulated person votes; `noise` and `indifference` in units of quality."""

    name: str
    noise: float
    indifference: float
    slips: float


@dataclass(frozen=True)
class Entrant:
    """How a model is shown in the arena: from which day, and how often."""

    day: int
    popularity: float


def make_raters(rng: np.random.Generator, spread: float) -> list[Rater]:
    """Draw the raters; `spread` is the standard deviation of quality among all images.

    Noise from a quarter of the spread to more than all of it, a tie within about a fifth of it,
    and 3% slips on average: the other button pressed.
    """
    return [
        Rater(
            name=f"rater-{i:02d}",
            noise=spread * float(rng.lognormal(np.log(0.5), 0.5)),
            indifference=spread * float(rng.uniform(0.05, 0.35)),
            slips=float(rng.beta(1, 32)),
        )
        for i in range(RATERS)
    ]


def vote(
    images: pl.DataFrame, entrants: Mapping[str, Entrant], votes: int, seed: int
) -> pl.DataFrame:
    """Return `votes` votes over images (image, prompt_id, prompt, model, quality), in time order.

    A session is one rater on one prompt. As in Pick-a-Pic it is a chain: the chosen image stays
    for the next round, against one not yet seen; after a tie the left one stays. Models join over
    the weeks and are shown unequally. Two images of one model do meet.
    """
    rng = np.random.default_rng(seed)
    raters = make_raters(rng, float(images["quality"].to_numpy().std()))
    activity = rng.pareto(1.5, len(raters)) + 0.2
    activity /= activity.sum()
    pools = images.partition_by("prompt_id", maintain_order=True)
    days = [np.array([entrants[m].day for m in pool["model"]]) for pool in pools]
    popularity = [np.array([entrants[m].popularity for m in pool["model"]]) for pool in pools]
    contents = [pool.rows(named=True) for pool in pools]

    rows: list[dict] = []
    while len(rows) < votes:
        rater = raters[rng.choice(len(raters), p=activity)]
        prompt = int(rng.integers(len(pools)))
        moment = float(rng.uniform(0, DAYS))
        weight = popularity[prompt] * (days[prompt] <= moment)
        rounds = 1 + min(int(rng.geometric(0.4)), int((weight > 0).sum()) - 1)
        order = rng.choice(len(weight), rounds, replace=False, p=weight / weight.sum())
        rows += _session(rng, rater, [contents[prompt][i] for i in order], moment)
    table = pl.DataFrame(rows[:votes]).sort("created_at", maintain_order=True)
    return table.select(
        pl.format("v{}", pl.int_range(pl.len()).cast(pl.String).str.zfill(5)).alias("vote_id"),
        pl.lit(SOURCE).alias("source"),
        pl.all(),
    )


def _session(
    rng: np.random.Generator, rater: Rater, shown: Sequence[dict], moment: float
) -> list[dict]:
    """Let one rater go through a chain of images of one prompt."""
    rows = []
    when = OPENING + timedelta(days=moment)
    stays = shown[0]
    for comes in shown[1:]:
        left, right = (stays, comes) if rng.random() < 0.5 else (comes, stays)
        outcome = choose(rng, rater, left["quality"], right["quality"])
        when += timedelta(seconds=float(rng.uniform(4, 40)))
        rows.append(
            {
                "model_a": left["model"],
                "model_b": right["model"],
                "outcome": outcome,
                "prompt_id": left["prompt_id"],
                "prompt": left["prompt"],
                "image_a": left["image"],
                "image_b": right["image"],
                "rater": rater.name,
                "created_at": when,
            }
        )
        stays = right if outcome == "b" else left
    return rows


def choose(rng: np.random.Generator, rater: Rater, left: float, right: float) -> str:
    """Return 'a', 'b' or 'tie' for two latent qualities, as this rater perceives them."""
    difference = left - right + rater.noise * np.sqrt(2) * rng.standard_normal()
    slipped = rng.random() < rater.slips
    if abs(difference) < rater.indifference:
        return "tie"
    return "a" if (difference > 0) != slipped else "b"


def rank(rng: np.random.Generator, rater: Rater, qualities: Sequence[float]) -> list[int]:
    """Return a rater's ranks of several images, 0 for the best; perceived equals tie."""
    perceived = np.array(qualities) + rater.noise * rng.standard_normal(len(qualities))
    order = np.argsort(-perceived)
    ranks = np.zeros(len(qualities), dtype=int)
    for place, (better, image) in enumerate(pairwise(order), start=1):
        close = perceived[better] - perceived[image] < rater.indifference
        ranks[image] = ranks[better] if close else place
    return ranks.tolist()
