"""Where mean quality and win rate part: the images themselves, and what each is worth.

A policy with the higher mean and the lower win rate must gain more where it gains, or lose less
where it loses. Policies are trained again at the one setting, their images kept and drawn beside
the base's of the same prompt and noise, and each image's difference from the base's is a row.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL.Image import Image

from arena.report.figures import INK, png
from replication.base import base_model
from replication.markdown import cell_name, table
from replication.matrix import Policy, equal_runs
from replication.runs import HELD_OUT, Scale, drawn, qualities, trained_images

WORLD, GAMMA, BETA_DPO = "close-6", 1.0, 250.0
POLICIES = (
    Policy("fixed_margin", "one"),
    Policy("arenapo", "pairwise"),
    Policy("arenapo", "joint"),
    Policy("arenapo", "oracle"),
)
SHOWN = 14  # images a policy in the picture: the largest differences between the last and the first
Drawn = list[tuple[str, Image]]
Judged = tuple[Drawn, np.ndarray]
SCHEMA = {
    "objective": pl.String,
    "gap": pl.String,
    "seed": pl.Int64,
    "prompt": pl.String,
    "base_quality": pl.Float64,
    "quality": pl.Float64,
}


def every_image(seeds: Sequence[int], cache: Path, picture: Path) -> pl.DataFrame:
    """Return a row for each image of every policy and seed; draw those of the first seed."""
    scale = Scale()
    base = base_model(cache, print)
    before = drawn(base, None, HELD_OUT, scale)
    base_quality = qualities(before, scale, cache)
    rows: list[tuple[object, ...]] = []
    first: dict[str, Judged] = {}
    for run in equal_runs(WORLD, POLICIES, seeds, GAMMA, BETA_DPO):
        images, _ = trained_images(run, scale, cache)
        quality = qualities(images, scale, cache)
        rows += [
            (run.objective, run.gap, run.seed, prompt, float(was), float(now))
            for (prompt, _), was, now in zip(images, base_quality, quality, strict=True)
        ]
        if run.seed == seeds[0]:
            first[Policy(run.objective, run.gap).name] = (images, quality)
    picture.write_bytes(png(_side_by_side(before, base_quality, first), dpi=110))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def parts(images: pl.DataFrame) -> pl.DataFrame:
    """Return what makes a policy's mean difference from the base, by policy, mean over seeds.

    share_better, share_worse of the images; gain, the mean rise of those that are better; loss, the
    mean fall of those that are worse. Mean = share_better x gain - share_worse x loss.
    """
    rise = pl.col("quality") - pl.col("base_quality")
    seeds = images.group_by("objective", "gap", "seed", maintain_order=True).agg(
        mean=rise.mean(),
        share_better=(rise > 0).mean(),
        gain=rise.filter(rise > 0).mean(),
        share_worse=(rise < 0).mean(),
        loss=-rise.filter(rise < 0).mean(),
        base_of_better=pl.col("base_quality").filter(rise > 0).mean(),
        base_of_worse=pl.col("base_quality").filter(rise < 0).mean(),
    )
    means = seeds.group_by("objective", "gap", maintain_order=True)
    return means.agg(pl.len().alias("seeds"), pl.exclude("seed").mean())


def tabulated(images: pl.DataFrame) -> str:
    """Tabulate `parts`."""
    head = ("policy", "seeds", "mean rise", "better", "rise of those", "the base's there", "worse")
    rows = [
        (cell_name(row), row["seeds"], f"{row['mean']:+.3f}", f"{row['share_better']:.1%}",
         f"{row['gain']:.3f}", f"{row['base_of_better']:.2f}", f"{row['share_worse']:.1%}",
         f"{row['loss']:.3f}", f"{row['base_of_worse']:.2f}")
        for row in parts(images).rows(named=True)
    ]  # fmt: skip
    return table((*head, "fall of those", "the base's there"), rows)


def _side_by_side(before: Drawn, base_quality: np.ndarray, policies: dict[str, Judged]) -> Figure:
    """Draw the base's images and each policy's, a row each, with their qualities."""
    names = list(policies)
    spread = policies[names[-1]][1] - policies[names[0]][1]
    order = spread.argsort()
    places = [*order[: SHOWN // 2], *order[-SHOWN // 2 :]]
    rows = {"base": (before, base_quality)} | policies
    figure = Figure(figsize=(0.75 * SHOWN + 1.6, 0.95 * len(rows) + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), SHOWN, squeeze=False)
    for axes, (name, (images, quality)) in zip(grid, rows.items(), strict=True):
        for place, cell in zip(places, axes, strict=True):
            cell.imshow(images[place][1], interpolation="nearest")
            cell.set_title(f"{quality[place]:.1f}", fontsize=8, color=INK, pad=2)
            cell.set_xticks([])
            cell.set_yticks([])
        axes[0].set_ylabel(name.removeprefix("arenapo "), fontsize=8, color=INK)
    return figure
