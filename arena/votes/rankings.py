"""Votes that rank several images of one prompt, and the pairs that they imply.

A K-wise vote is one row of `schema.RANKINGS`. Estimators that know pairs alone get K (K - 1) / 2 of
them, in the votes table under the vote_id of the ranking, `#` and the two places: "7f#0-2" is what
ranking 7f says of its first and third image. These share one rater's noise, so an estimator that
can take the whole ranking should.
"""

import re
from collections.abc import Iterator
from datetime import date
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from arena.schema import RANKINGS, UNNAMED, VOTES
from arena.votes.check import CONTROL, LONGEST, time
from arena.votes.files import PARQUET, head, json_records, parquet_batches, parquet_columns
from arena.votes.raw import Broken, RawRankings, VotesError, as_text, rejections, shown

MOST = 100  # images in one vote; their pairs are 4,950
PAIR = r"^(.*)#\d+-\d+$"


def read_rankings(path: Path) -> Iterator[RawRankings]:
    """Read the sibling table: models, images and ranks as lists (parquet or jsonl)."""
    broken: Broken = []
    if head(path).startswith(PARQUET):
        columns = [name for name in parquet_columns(path) if name in RANKINGS and name != "rows"]
        found = (
            row for part in parquet_batches(path, columns, 1 << 16) for row in part.to_pylist()
        )
        records = [{**record, "row": row} for row, record in enumerate(found, start=1)]
    else:
        records = [{**record, "row": row} for row, record in json_records(path, broken)]
    if records and not any("ranks" in record for record in records):
        raise VotesError(
            f"{path}: no column ranks; a K-wise vote needs models (or images) and ranks"
        )
    yield RawRankings(records, rejections(broken, path))


def check_rankings(raw: RawRankings, path: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Split a file's K-wise votes into `schema.RANKINGS` (with `row`) and rejections."""
    good: list[dict[str, Any]] = []
    broken: Broken = []
    for record in raw.records:
        fault = _fault(record)
        if fault:
            column, reason = fault
            value = shown(record.get(column))
            said = (record["row"], raw.names.get(column, column), reason, value)
            broken += [said] * record.get("rows", 1)
        else:
            good.append(_as_row(record))
    kinds = {"row": pl.Int64} | RANKINGS | {"created_at": pl.String}
    table = pl.DataFrame(good, schema=kinds, orient="row")
    given = pl.col("created_at")
    timed = table.with_columns(created_at=time(given, pl.String()), told=given)
    wrong = timed.filter(pl.col("created_at").is_null() & pl.col("told").is_not_null())
    for row, value in wrong.select("row", "told").iter_rows():
        broken.append((row, "created_at", "not a time (ISO 8601 in UTC, or seconds)", value))
    timed = timed.filter(pl.col("created_at").is_not_null() | pl.col("told").is_null())
    return timed.drop("told"), pl.concat([raw.broken, rejections(broken, path)]).sort("row")


def pairs_of(rankings: pl.DataFrame) -> pl.DataFrame:
    """Return the votes table of every pair of every ranking, in order (columns `schema.VOTES`)."""
    if rankings.is_empty():
        return pl.DataFrame(schema=VOTES)
    sizes = rankings["ranks"].list.len().to_numpy()
    two = {k: np.triu_indices(k, 1) for k in np.unique(sizes)}
    first = np.concatenate([two[k][0] for k in sizes])
    second = np.concatenate([two[k][1] for k in sizes])
    which = np.repeat(np.arange(len(sizes)), sizes * (sizes - 1) // 2)
    pairs = rankings[which].with_columns(i=pl.Series(first), j=pl.Series(second))
    a, b = pl.col("ranks").list.get(pl.col("i")), pl.col("ranks").list.get(pl.col("j"))
    known = {
        name: pl.col(name) for name in ("source", "prompt_id", "prompt", "rater", "created_at")
    }
    made = pairs.select(
        vote_id=pl.format("{}#{}-{}", "vote_id", "i", "j"),
        model_a=pl.col("models").list.get(pl.col("i")),
        model_b=pl.col("models").list.get(pl.col("j")),
        image_a=pl.col("images").list.get(pl.col("i")),
        image_b=pl.col("images").list.get(pl.col("j")),
        outcome=pl.when(a < b)
        .then(pl.lit("a"))
        .when(a > b)
        .then(pl.lit("b"))
        .otherwise(pl.lit("tie")),
        confidence=pl.lit(None, pl.Float64),
        split=pl.lit(None, pl.String),
        dimension=pl.lit(None, pl.String),
        votes_a=pl.lit(None, pl.Int64),
        votes_b=pl.lit(None, pl.Int64),
        votes_tie=pl.lit(None, pl.Int64),
        ranking=pl.col("vote_id"),
        **known,
    )
    return made.select(*VOTES)


def of_rankings(votes: pl.DataFrame, rankings: pl.DataFrame) -> pl.Series:
    """Return for every vote whether it is a pair of one of these rankings."""
    ranking = votes["vote_id"].str.extract(PAIR, 1)
    return ranking.is_in(rankings["vote_id"].implode()).fill_null(False)


def as_pair(rankings: pl.DataFrame) -> pl.DataFrame:
    """Return the rankings with what is theirs alone in the columns of a vote, to be hashed."""
    return rankings.with_columns(
        model_a=pl.col("models").list.join("\n"),
        image_a=pl.col("images").list.join("\n", ignore_nulls=True),
        outcome=pl.col("ranks").cast(pl.List(pl.String)).list.join(" "),
    )


def ranks_of_scores(scores: list[float]) -> list[int]:
    """Return ranks from 1 = the highest score, equal scores tied."""
    place = {score: rank for rank, score in enumerate(sorted(set(scores), reverse=True), start=1)}
    return [place[score] for score in scores]


def _fault(record: dict[str, Any]) -> tuple[str, str] | None:
    """Return (column, reason) of the first thing that makes a K-wise vote unusable."""
    ranks = record.get("ranks")
    if not isinstance(ranks, list) or not all(_is_number(rank) for rank in ranks):
        return "ranks", "not a list of numbers"
    if not 2 <= len(ranks) <= MOST:
        return "ranks", f"{len(ranks)} ranks; a vote ranks 2 to {MOST} images"
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


def fault_of_name(name: str) -> str | None:
    """Return what is wrong with a model's name, as `check` says it of a column."""
    if not name.strip():
        return "empty"
    if len(name.encode()) > LONGEST:
        return f"longer than {LONGEST} bytes"
    return "holds a control character" if re.search(CONTROL, name) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < inf


def _as_row(record: dict[str, Any]) -> dict[str, Any]:
    ranks = record["ranks"]
    text = ("vote_id", "source", "prompt_id", "prompt", "rater")
    when = record.get("created_at")
    return {
        "row": record["row"],
        **{name: as_text(record.get(name)) for name in text},
        "models": record.get("models") or [UNNAMED] * len(ranks),
        "images": record.get("images") or [None] * len(ranks),
        "ranks": ranks_of_scores([-rank for rank in ranks]),
        "created_at": when.isoformat() if isinstance(when, date) else as_text(when),
        "rows": record.get("rows", 1),
    }
