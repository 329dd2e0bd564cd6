"""Ratings, held-out scores and votes files said in text, for the terminal."""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from arena.ratings.comparisons import groups, pairs_table
from arena.ratings.table import Ratings
from arena.report import tables
from arena.report.escape import printable
from arena.report.summary import summary
from arena.votes.inspect import lines_of
from arena.votes.open import Reading

if TYPE_CHECKING:  # it loads scipy, which `fit` has no use for
    from arena.prediction.held_out import Evaluation


def leaderboard(ratings: Ratings) -> str:
    """Return the ratings as text, one block for each group of models that were compared."""
    parts = tables.leaderboard_tables(ratings)
    lines = [f"{ratings.estimator}: {parameters(ratings)}"]
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


def parameters(ratings: Ratings) -> str:
    """Return the parameters of a fit, such as "beta 4.167, epsilon 0.74"."""
    return ", ".join(f"{printable(key)} {value:.4g}" for key, value in ratings.parameters.items())


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
    lines = [f"{printable(file)}: {kind}" for file, kind in reading.formats.items()]
    lines.append(
        f"{_count(reading.rows, 'row')} = {reading.accepted:,} accepted + "
        f"{reading.rejected.height:,} rejected + {_count(reading.duplicates, 'exact duplicate')}"
    )
    lines += _rejections(reading.rejected)
    if votes.is_empty():
        return "\n".join(lines)
    found = summary(votes)
    lines.append(f"models: {found.models:,}, {_count(found.pairs, 'pair')} of them compared")
    lines.append(f"ties: {found.ties:,} ({found.ties / found.votes:.1%})")
    if found.same_model:
        lines.append(
            f"a model against itself: {found.same_model:,} (kept for training, not for ratings)"
        )
    lines.append(f"raters: {found.raters:,}" if found.raters else "raters: not named")
    if found.images:
        lines.append(f"images: {found.images:,}, {found.shown / found.images:.2f} votes each")
    lines.append(f"prompts: {found.prompts:,}" if found.prompts else "prompts: not named")
    if found.first and found.last:
        lines.append(f"time: {found.first:%Y-%m-%d %H:%M} to {found.last:%Y-%m-%d %H:%M} UTC")
    lines += [printable(line) for line in lines_of(reading)]
    lines.append(_groups(pairs_table(votes), votes))
    return "\n".join(lines)


def _rejections(rejected: pl.DataFrame) -> list[str]:
    """Say each kind of rejection once, with its first row."""
    kinds = rejected.group_by("file", "column", "reason", maintain_order=True).agg(
        pl.len(), pl.first("row"), pl.first("value")
    )
    return [
        printable(
            f"rejected: {kind['len']:,} in {kind['file']}, first in row {kind['row']}: "
            f"{(kind['column'] + ' ') if kind['column'] else ''}{kind['reason']}"
            + (f" ({kind['value']!r})" if kind["value"] else "")
        )
        for kind in kinds.iter_rows(named=True)
    ]


def _groups(pairs: pl.DataFrame, votes: pl.DataFrame) -> str:
    models = pl.concat([votes["model_a"], votes["model_b"]]).unique().sort().to_list()
    place = {name: k for k, name in enumerate(models)}
    compared = np.zeros((len(models), len(models)))
    for a, b, *counts in pairs.iter_rows():
        compared[place[a], place[b]] = sum(counts)
    label = groups(compared)
    apart = int(label.max()) + 1
    if apart == 1:
        return "groups: 1, every model is connected to every other by votes"
    lines = [f"groups never compared with each other: {apart}"]
    for k in range(apart):
        members = (printable(m) for m, at in zip(models, label, strict=True) if at == k)
        lines.append(f"  {k}: {', '.join(members)}")
    return "\n".join(lines)


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("" if n == 1 else "s")
