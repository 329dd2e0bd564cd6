"""The worlds: which images meet in the arena, how often, and how well its raters see.

The images are the miniature's own (14 generators, 360 prompts) with their latent quality. A world
is drawn anew for every seed: other prompts, other votes. The truth stays with `Arena.quality`; what
is learned from sees the votes alone.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from replication.base import MINIATURE

PROMPTS = 120
# Mean qualities from 3.0 to 3.8 of 5, where all 14 models go from 1.2 to 4.1.
CLOSE = ("inkwell-1.0", "quill-mini", "inkwell-1.5", "copperplate-beta", "inkwell-2.0-lightning")
FEW = ("inkwell-0.9", "inkwell-1.5", "copperplate-xl")
OPENING = datetime(2026, 3, 2, tzinfo=UTC)


@dataclass(frozen=True)
class World:
    """An arena's circumstances.

    votes_per_image: in how many votes an image is shown, on average. noise: a rater's, as a share
    of the standard deviation of quality among the arena's images. models: whose images meet; all 14
    where empty. same_model: whether two images of one model may meet.
    renamed: the share of images that bear the name of a model drawn at random, as where a name does
    not tell by which sampler, guidance or prompt an image was made. prompts: how many are drawn.
    The worlds far-V and close-V have V votes an image, and models far apart or close together in
    ability; in `miniature` all images of all prompts meet, and its own base model is trained.
    """

    name: str
    votes_per_image: float
    noise: float = 0.5
    models: tuple[str, ...] = ()
    same_model: bool = False
    renamed: float = 0.0
    prompts: int = PROMPTS


VOTES_PER_IMAGE = (1.0, 1.5, 3.0, 6.0)
WORLDS = {
    world.name: world
    for world in (
        *(World(f"far-{votes:g}", votes) for votes in VOTES_PER_IMAGE),
        *(World(f"close-{votes:g}", votes, models=CLOSE) for votes in VOTES_PER_IMAGE),
        World("sharp-raters", 3.0, noise=0.1),
        World("noisy-raters", 3.0, noise=1.5),
        World("few-models", 3.0, models=FEW),
        World("same-model-pairs", 3.0, models=FEW, same_model=True),
        World("half-renamed", 3.0, renamed=0.5),
        World("all-renamed", 3.0, renamed=1.0),
        World("miniature", 6.0, prompts=360),
    )
}


@dataclass(frozen=True)
class Arena:
    """One drawing of a world: its votes (`arena.schema`), and each image's quality."""

    votes: pl.DataFrame
    quality: dict[str, float]

    def difference(self) -> np.ndarray:
        """Latent quality of each vote's winner minus its loser's, (n,): the oracle's gap."""
        return self._winner_minus_loser(
            *(
                np.array([self.quality[image] for image in self.votes[side]])
                for side in ("image_a", "image_b")
            )
        )

    def model_difference(self) -> np.ndarray:
        """Mean latent quality of the winner's model minus that of the loser's, (n,)."""
        shown = pl.concat(
            [self.votes.select(model=f"model_{s}", image=f"image_{s}") for s in "ab"]
        ).unique()
        worth = shown.with_columns(
            quality=pl.col("image").replace_strict(self.quality, return_dtype=pl.Float64)
        )
        means = dict(worth.group_by("model").agg(pl.col("quality").mean()).iter_rows())
        return self._winner_minus_loser(
            *(
                np.array([means[model] for model in self.votes[side]])
                for side in ("model_a", "model_b")
            )
        )

    def _winner_minus_loser(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.where(self.votes["outcome"].to_numpy() == "b", b - a, a - b)


def hold_arena(world: World, seed: int, prompts: int | None = None) -> Arena:
    """Draw prompts and votes of a world.

    Every vote shows two images of one prompt, drawn evenly over prompts and images, to a rater who
    sees each with noise of his own at every look, and who must choose. `quality + N(0, noise^2)`.
    `prompts`: how many, instead of the world's own number.
    """
    prompts = prompts or world.prompts
    images = pl.read_parquet(MINIATURE / "latent_quality.parquet")
    spread = float(images["quality"].to_numpy().std())
    if world.models:
        images = images.filter(pl.col("model").is_in(world.models))
    if world.renamed:
        images = _renamed(images, world.renamed, seed)
    rng = np.random.default_rng([seed, 8])
    asked = images["prompt_id"].unique().sort()
    chosen = rng.choice(len(asked), prompts, replace=False)
    shown = images.filter(pl.col("prompt_id").is_in(asked.gather(np.sort(chosen)).implode()))
    pools = shown.partition_by("prompt_id", maintain_order=True)
    n = round(sum(map(len, pools)) * world.votes_per_image / 2)
    rows = [_meeting(rng, pools[int(rng.integers(prompts))], world, spread) for _ in range(n)]
    votes = pl.DataFrame(rows).select(
        pl.format("v{}", pl.int_range(pl.len()).cast(pl.String).str.zfill(5)).alias("vote_id"),
        pl.lit("simulated raters").alias("source"),
        pl.all(),
        created_at=pl.Series([OPENING + timedelta(minutes=i) for i in range(n)]),
    )
    return Arena(votes, dict(zip(images["image"], images["quality"], strict=True)))


def _renamed(images: pl.DataFrame, share: float, seed: int) -> pl.DataFrame:
    """Give a share of the images the name of any model, drawn as often as names occur."""
    rng = np.random.default_rng([seed, 9])
    names = images["model"].to_numpy()
    drawn = np.where(rng.random(len(names)) < share, rng.permutation(names), names)
    return images.with_columns(model=pl.Series(drawn))


def _meeting(rng: np.random.Generator, pool: pl.DataFrame, world: World, spread: float) -> dict:
    """Let two images of one prompt meet, and one rater choose between them."""
    models, quality = pool["model"], pool["quality"]
    a, b = rng.choice(len(pool), 2, replace=False).tolist()
    while not world.same_model and models[a] == models[b]:
        a, b = rng.choice(len(pool), 2, replace=False).tolist()
    seen = [quality[i] + spread * world.noise * rng.standard_normal() for i in (a, b)]
    return {
        "model_a": models[a],
        "model_b": models[b],
        "outcome": "a" if seen[0] > seen[1] else "b",
        "prompt_id": pool["prompt_id"][a],
        "prompt": pool["prompt"][a],
        "image_a": pool["image"][a],
        "image_b": pool["image"][b],
    }
