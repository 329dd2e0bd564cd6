"""Ratings, gaps and votes files said in text, for the terminal."""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from arena.escape import printable
from arena.ratings.comparisons import groups, pairs_table
from arena.ratings.table import Ratings
from arena.report import tables
from arena.votes.inspect import lines_of
from arena.votes.open import Reading

if TYPE_CHECKING:  # it loads scipy, which `fit` has no use for
    from arena.prediction.held_out import Evaluation


def leaderboard(ratings: Ratings) -> str:
    """Return the ratings as text, one block for each group of models that were compared."""
    parts = tables.leaderboard_tables(ratings)
    lines = [fit(ratings)]
    for group, votes, table in parts:
        title = f"group {group}: " if len(parts) > 1 else ""
        lines += ["", f"{title}{_count(len(table), 'model')}, {_count(votes, 'vote')}"]
        lines += tables.as_text(table)
    if len(parts) > 1:
        lines += [
            "",
            f"The {len(parts)} groups were never compared with each other: "
            "a rating says nothing about a model of another group.",
        ]
    return "\n".join(lines)


def fit(ratings: Ratings) -> str:
    """Return what made the ratings, such as "trueskill: beta 4.167, epsilon 0.7404"."""
    said = ", ".join(f"{key} {value:.4g}" for key, value in ratings.parameters.items())
    return printable(f"{ratings.estimator}: {said}")


def held_out_table(evaluation: "Evaluation") -> str:
    """Return how well each method predicted later votes, the best first."""
    votes = evaluation.overall()["votes"][0]
    return "\n".join(
        [
            f"prediction of the last {_count(votes, 'vote')} from those before "
            "(frozen: before their block; online: before each)",
            *tables.as_text(tables.held_out_table(evaluation)),
        ]
    )


def describe(reading: Reading) -> str:
    """Return what `python -m arena inspect` prints: what the files hold, what was rejected."""
    votes = reading.votes
    lines = [f"{file}: {kind}" for file, kind in reading.formats.items()]
    lines.append(
        f"{_count(reading.rows, 'row')} = {reading.accepted:,} accepted + "
        f"{reading.rejected.height:,} rejected + {_count(reading.duplicates, 'exact duplicate')}"
    )
    lines += _rejections(reading.rejected)
    if votes.is_empty():
        return "\n".join(lines)
    pairs = pairs_table(votes)
    models = pl.concat([votes["model_a"], votes["model_b"]]).unique()
    ties = (votes["outcome"] == "tie").sum()
    itself = (votes["model_a"] == votes["model_b"]).sum()
    lines.append(f"models: {len(models):,}, {_count(pairs.height, 'pair')} of them compared")
    lines.append(f"ties: {ties:,} ({ties / votes.height:.1%})")
    if itself:
        lines.append(f"a model against itself: {itself:,} (kept for training, not for ratings)")
    raters = votes["rater"].drop_nulls().n_unique()
    lines.append(f"raters: {raters:,}" if raters else "raters: not named")
    images = pl.concat([votes["image_a"], votes["image_b"]]).drop_nulls()
    if len(images):
        lines.append(
            f"images: {images.n_unique():,}, {len(images) / images.n_unique():.2f} votes each"
        )
    prompts = votes["prompt"].fill_null(votes["prompt_id"]).drop_nulls().n_unique()
    lines.append(f"prompts: {prompts:,}" if prompts else "prompts: not named")
    times = votes["created_at"].drop_nulls().sort().dt.strftime("%Y-%m-%d %H:%M")
    if len(times):
        lines.append(f"time: {times[0]} to {times[-1]} UTC")
    lines += lines_of(reading)
    lines.append(_groups(sorted(models), pairs))
    return "\n".join(lines)


def _rejections(rejected: pl.DataFrame) -> list[str]:
    """Say each kind of rejection once, with its first row."""
    kinds = rejected.group_by("file", "column", "reason", maintain_order=True).agg(
        pl.len(), pl.first("row"), pl.first("value")
    )
    return [
        f"rejected: {kind['len']:,} in {kind['file']}, first in row {kind['row']}: "
        f"{(kind['column'] + ' ') if kind['column'] else ''}{kind['reason']}"
        + (f" ({kind['value']!r})" if kind["value"] else "")
        for kind in kinds.iter_rows(named=True)
    ]


def _groups(models: list[str], pairs: pl.DataFrame) -> str:
    place = {name: k for k, name in enumerate(models)}
    compared = np.zeros((len(models), len(models)))
    for a, b, *counts in pairs.iter_rows():
        compared[place[a], place[b]] = sum(counts)
    label = groups(compared)
    sizes = np.bincount(label)
    if len(sizes) == 1:
        return "groups: 1, every model is connected to every other by votes"
    members = [
        ", ".join(m for m, at in zip(models, label, strict=True) if at == k)
        for k in range(len(sizes))
    ]
    return f"groups never compared with each other: {len(sizes)}\n" + "\n".join(
        f"  {k}: {names}" for k, names in enumerate(members)
    )


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("" if n == 1 else "s")
