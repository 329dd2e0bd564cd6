"""Votes that rank several images of one prompt, and the pairs that they imply.

A K-wise vote is one row of `schema.RANKINGS`. Estimators that know pairs alone get K (K - 1) / 2 of
them, in the votes table; their column `ranking` names the vote that they come from. These share one
rater's noise, so an estimator that can take the whole ranking should.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from math import inf
from typing import Any

import numpy as np
import polars as pl

from arena.schema import RANKINGS, UNNAMED, VOTES
from arena.votes.check import CONTROL
from arena.votes.faults import Broken, shown
from arena.votes.identity import unclaimed
from arena.votes.layout import Record, decided
from arena.votes.limits import LONGEST_NAME, MOST_RANKED
from arena.votes.spellings import LAST_YEAR, NOTHING, in_utc
from arena.votes.text_tables import as_text


def check_rankings(records: Sequence[Record]) -> tuple[pl.DataFrame, Broken, Broken]:
    """Split K-wise votes into (`row` and `schema.RANKINGS`, rejections, doubts).

    records: (row, a mapping with `ranks` and whichever of `schema.RANKINGS` is known). A record
    that was gathered from several rows of the file says so in `rows`.
    """
    good: list[dict[str, Any]] = []
    broken: Broken = []
    for row, record in records:
        fault = _fault(record)
        if fault:
            column, reason = fault
            said = (row, column, reason, shown(record.get(column)))
            broken += [said] * record.get("rows", 1)
        else:
            good.append({"row": row} | _as_row(record))
    kinds = {"row": pl.Int64} | RANKINGS | {"created_at": pl.String}
    table = pl.DataFrame(good, schema=kinds, orient="row")
    told = table["created_at"]
    table = table.with_columns(in_utc(told).alias("created_at"))
    lost = table.select("row", value=told).filter(
        table["created_at"].is_null() & told.is_not_null()
    )
    doubts = [(row, "created_at", f"not a time before {LAST_YEAR}", v) for row, v in lost.rows()]
    return table, broken, doubts


def pairs_of(rankings: pl.DataFrame) -> pl.DataFrame:
    """Return the votes table of every pair of every ranking, in order (columns `schema.VOTES`)."""
    if rankings.is_empty():
        return pl.DataFrame(schema=VOTES)
    sizes = rankings["ranks"].list.len().to_numpy()
    two = {k: np.triu_indices(k, 1) for k in np.unique(sizes)}
    first = np.concatenate([two[k][0] for k in sizes])
    second = np.concatenate([two[k][1] for k in sizes])
    which = np.repeat(np.arange(len(sizes)), sizes * (sizes - 1) // 2)
    # Single items are gathered: a whole list beside each of its pairs would be K^3 of them.
    starts = (np.cumsum(sizes) - sizes)[which]
    lists = {name: rankings[name].explode() for name in ("models", "images", "ranks")}
    a, b = (
        {name: items.gather(starts + place) for name, items in lists.items()}
        for place in (first, second)
    )
    rank_a, rank_b = a["ranks"], b["ranks"]
    pairs = rankings.drop(*lists)[which].with_columns(i=pl.Series(first), j=pl.Series(second))
    made: dict[str, Any] = {
        "vote_id": pl.format("{}#{}-{}", "vote_id", "i", "j"),
        "model_a": a["models"],
        "model_b": b["models"],
        "image_a": a["images"],
        "image_b": b["images"],
        "outcome": decided(rank_a < rank_b, rank_a > rank_b, rank_a == rank_b),
        "ranking": pl.col("vote_id"),
    }
    absent = {
        name: pl.lit(None, kind) for name, kind in VOTES.items() if name not in rankings.columns
    }
    return pairs.with_columns(**(absent | made)).select(*VOTES)


def with_pairs(votes: pl.DataFrame, rankings: pl.DataFrame) -> pl.DataFrame:
    """Return the votes and the pairs of the rankings, a file's after its votes.

    Both have `file`, the number of their file.
    """
    sizes = rankings["ranks"].list.len()
    of_pairs = rankings.select(pl.col("file").repeat_by(sizes * (sizes - 1) // 2).explode())
    pairs = pairs_of(rankings.drop("file", "row")).with_columns(of_pairs.to_series())
    votes = votes.with_columns(unclaimed(votes["vote_id"], pairs["vote_id"]))
    both = pl.concat([votes.select(*VOTES, "file"), pairs])
    return both.sort("file", maintain_order=True)


def ranks_of_scores(scores: Sequence[float]) -> list[int]:
    """Return ranks from 1 = the highest score, equal scores tied."""
    place = {score: rank for rank, score in enumerate(sorted(set(scores), reverse=True), start=1)}
    return [place[score] for score in scores]


def fault_of_name(name: str) -> str | None:
    """Return what is wrong with a model's name, as `check` says it of a column."""
    if name.strip().lower() in NOTHING:
        return "empty"
    if len(name.encode()) > LONGEST_NAME:
        return f"longer than {LONGEST_NAME} bytes"
    return "holds a control character" if re.search(CONTROL, name) else None


def _fault(record: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return (column, reason) of the first thing that makes a K-wise vote unusable."""
    ranks = record.get("ranks")
    if not isinstance(ranks, list) or not all(_is_number(rank) for rank in ranks):
        return "ranks", "not a list of numbers"
    if not 2 <= len(ranks) <= MOST_RANKED:
        return "ranks", f"{len(ranks)} ranks; a vote ranks 2 to {MOST_RANKED} images"
    if record.get("models") is None and record.get("images") is None:
        return "images", "neither models nor images are named"
    for column in ("models", "images"):
        names = record.get(column)
        if names is None:
            continue
        if not isinstance(names, list) or len(names) != len(ranks):
            return column, f"not a list of {len(ranks)}, as ranks is"
        if not all(isinstance(name, str) and name.strip() for name in names):
            return column, "an empty name or one that is no text"
    faults = (fault_of_name(name) for name in record.get("models") or ())
    return next((("models", fault) for fault in faults if fault), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < inf


def _as_row(record: Mapping[str, Any]) -> dict[str, Any]:
    ranks = record["ranks"]
    when = record.get("created_at")
    models = record.get("models") or [UNNAMED] * len(ranks)
    return {
        **{name: _id(record.get(name)) for name in ("vote_id", "source", "prompt_id", "rater")},
        "prompt": _id(record.get("prompt")),
        "models": [name.strip() for name in models],
        "images": [n.strip() for n in record["images"]]
        if record.get("images")
        else [None] * len(ranks),
        "ranks": ranks_of_scores([-rank for rank in ranks]),
        "created_at": when.isoformat() if isinstance(when, date) else as_text(when),
        "rows": record.get("rows", 1),
    }


def _id(value: Any) -> str | None:
    """Return a value as trimmed text; a whole float is the integer that it was."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = as_text(value)
    return None if text is None or text.strip().lower() in NOTHING else text.strip()
