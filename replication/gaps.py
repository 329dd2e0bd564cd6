"""The gaps of a world's votes by every estimator, the oracle's beside them, and how true they are.

One table of training pairs a (world, seed), in which every gap is a column: policies differ by the
column that they read and by nothing else.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from scipy.special import expit

from arena.gaps.joint import joint_gaps
from arena.gaps.pairwise import capability_gaps, pairwise_gaps
from arena.ratings.table import estimator
from replication.world import WORLDS, Arena, World, hold_arena
from training.building import build_pairs
from training.pairs import write_pairs

# clipped: the capability gap cut at 0 where the weaker model won. The oracle's column is the true
# difference where the vote was right, and negative where it was a slip, as a signed joint gap's is.
# models: the true difference of the two models' mean qualities, which knows all about models and
# nothing about images.
GAPS = ("pairwise", "predictive", "capability", "clipped", "joint", "signed", "models", "oracle")
# A capability gap with a share, in %, of what the votes say of the two images beyond their models,
# from 0, `capability`, to 100, `signed`; and the same of the truth, from `models` to `oracle`.
SHARES = (25, 50, 75)
KINDS = {"estimate": ("capability", "signed"), "truth": ("models", "oracle")}
PAIRS = "pairs.parquet"


def all_gaps(arena: Arena) -> pl.DataFrame:
    """Return the columns of `schema.GAPS` for the pairwise gap, and each of `GAPS`.

    Also KIND-SHARE for each of `KINDS` and `SHARES`, and two that are weights and not gaps: of
    `weights` those that pairwise margins of mean 1 give at the start, sigmoid(g / mean), of
    `favourites` 1 where the better rated model won, else 0. Every gap NAME has columns NAME_gap,
    NAME_gap_sd and NAME_probability.
    """
    ratings = estimator("trueskill", draw_probability=0.0).fit(arena.votes)
    posterior = pairwise_gaps(arena.votes, ratings)
    signed, _ = joint_gaps(arena.votes, ratings, signed=True)
    found = {
        "pairwise": posterior,
        "predictive": pairwise_gaps(arena.votes, ratings, spread="predictive"),
        "capability": capability_gaps(arena.votes, ratings, signed=True),
        "clipped": capability_gaps(arena.votes, ratings),
        "joint": signed.with_columns(pl.col("gap").clip(lower_bound=0.0)),
        "signed": signed,
        "models": _given(posterior, arena.model_difference()),
        "oracle": _given(posterior, arena.difference()),
    }
    for kind, ends in KINDS.items():
        low, high = (found[name]["gap"].to_numpy() for name in ends)
        found |= {
            f"{kind}-{share}": _given(posterior, low + share / 100 * (high - low))
            for share in SHARES
        }
    pairwise, capability = (found[name]["gap"].to_numpy() for name in ("pairwise", "capability"))
    found["weights"] = _given(posterior, expit(pairwise / pairwise.mean()))
    found["favourites"] = _given(posterior, (capability > 0) * 1.0)
    numbers = pl.col("gap", "gap_sd", "probability")
    return pl.concat(
        [posterior, *(gaps.select(numbers.name.prefix(f"{n}_")) for n, gaps in found.items())],
        how="horizontal",
    )


def _given(gaps: pl.DataFrame, values: np.ndarray) -> pl.DataFrame:
    """Put differences (n,) that are taken for certain in the place of the gaps."""
    return gaps.with_columns(
        gap=pl.Series(values), gap_sd=pl.lit(0.0), probability=pl.Series((values > 0) * 1.0)
    )


def pairs_of(world: World, seed: int, cache: Path) -> Path:
    """Return the table of training pairs of one drawing of a world, made where it is not there."""
    path = cache / "worlds" / f"{world.name}-{seed}" / PAIRS
    if not path.exists():
        arena = hold_arena(world, seed)
        gaps = all_gaps(arena).to_arrow()
        write_pairs(build_pairs(arena.votes.to_arrow(), gaps, held_out=0.0, seed=0), path)
    return path


def truth_of_gaps(world: World, seed: int, cache: Path) -> list[dict[str, object]]:
    """Return for every gap its Pearson correlation with the latent difference: a row each.

    `right` is the share of votes that the better image won, `spread` the gaps' standard deviation
    over their mean, which is that of margins in units of gamma.
    """
    pairs = pl.read_parquet(pairs_of(world, seed, cache))
    truth = pairs["oracle_gap"].to_numpy()
    return [
        {
            "world": world.name,
            "seed": seed,
            "gap": gap,
            "votes": len(pairs),
            "right": float((truth > 0).mean()),
            "correlation": float(np.corrcoef(values, truth)[0, 1]),
            "spread": float(values.std() / values.mean()),
        }
        for gap in GAPS
        for values in [pairs[f"{gap}_gap"].to_numpy()]
    ]


def every_truth(
    seeds: int, cache: Path, known: Path, worlds: Sequence[str] | None = None
) -> pl.DataFrame:
    """Return `truth_of_gaps` of every world for seeds 0 to `seeds`.

    Where `worlds` are given, of these alone, and of the others what the table `known` holds.
    """
    asked = [world for world in WORLDS.values() if worlds is None or world.name in worlds]
    rows = [
        row for world in asked for seed in range(seeds) for row in truth_of_gaps(world, seed, cache)
    ]
    found = pl.DataFrame(rows)
    if worlds is not None and known.exists():
        others = pl.read_parquet(known).filter(~pl.col("world").is_in(list(worlds)))
        found = pl.concat([others, found], how="diagonal")
    order = list(WORLDS)
    return found.sort(pl.col("world").replace_strict(order, range(len(order))), maintain_order=True)
