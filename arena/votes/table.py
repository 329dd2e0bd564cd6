"""The votes table: read from csv, jsonl or parquet, checked row by row.

A file without a required column is an error; a row that cannot be used is a row of `REJECTED`.
Which reader a file needs is told in `open`.
"""

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from arena.votes.schema import OUTCOMES, REJECTED, REQUIRED, VOTES

BATCH = 100_000


@dataclass(frozen=True)
class Raw:
    """A file's rows before they are checked.

    rows: the columns of `schema.VOTES` that the file has, of any type, and `row`, the 1-based data
    row. broken: rows that could not even be split into columns, as `schema.REJECTED`. names: what
    the file calls a column of the schema, where it calls it otherwise.
    """

    rows: pl.DataFrame
    broken: pl.DataFrame
    names: dict[str, str] = field(default_factory=dict)


class VotesError(ValueError):
    """A votes file that cannot be read at all, said in one sentence for a person."""


def read_parquet(path: Path) -> Raw:
    """Read the known columns of a parquet file."""
    columns = [name for name in pq.read_schema(path).names if name in VOTES]
    _require(path, columns)
    rows = pl.read_parquet(path, columns=columns)
    return Raw(rows.with_row_index("row", offset=1), rejections([]))


def read_csv(path: Path) -> Raw:
    """Read a csv file with a header; a row with more or fewer fields than it is broken."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        try:
            return _read_csv(path, csv.reader(stream))
        except UnicodeDecodeError as error:
            raise VotesError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from None
        except csv.Error as error:
            raise VotesError(f"{path}: not a readable csv ({error})") from None


def _read_csv(path: Path, lines: Iterator[list[str]]) -> Raw:
    header = next(lines, [])
    _require(path, header)
    broken: list[tuple[int, str, str, str]] = []

    def records() -> Iterator[tuple[int, dict[str, Any]]]:
        # csv.reader skips nothing: an empty line is an empty list, and no row.
        for row, fields in enumerate((f for f in lines if f), start=1):
            if len(fields) == len(header):
                yield row, dict(zip(header, fields, strict=True))
            else:
                reason = f"{len(fields)} fields where the header has {len(header)}"
                broken.append((row, "", reason, ",".join(fields)[:200]))

    return Raw(_frame(records(), header), rejections(broken, path))


def read_jsonl(path: Path) -> Raw:
    """Read one JSON object a line; a line that is none is broken."""
    broken: list[tuple[int, str, str, str]] = []
    seen: dict[str, None] = {}

    def records() -> Iterator[tuple[int, dict[str, Any]]]:
        with path.open(encoding="utf-8") as stream:
            for row, line in enumerate((x for x in stream if x.strip()), start=1):
                try:
                    record = json.loads(line)
                except json.JSONDecodeError as error:
                    broken.append((row, "", f"not JSON ({error.msg})", line.strip()[:200]))
                    continue
                if isinstance(record, dict):
                    seen.update(dict.fromkeys(record))
                    yield row, record
                else:
                    broken.append((row, "", "not a JSON object", line.strip()[:200]))

    try:
        rows = _frame(records(), tuple(VOTES))
    except UnicodeDecodeError as error:
        raise VotesError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from None
    _require(path, seen)
    return Raw(rows.select("row", *(c for c in VOTES if c in seen)), rejections(broken, path))


def _require(path: Path, columns: Iterable[str]) -> None:
    columns = list(columns)
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise VotesError(
            f"{path}: no column {', '.join(missing)}; a votes table needs "
            f"{', '.join(REQUIRED)} and this file has {', '.join(columns[:12]) or 'none'}"
        )


def _frame(records: Iterable[tuple[int, dict[str, Any]]], columns: Iterable[str]) -> pl.DataFrame:
    """Collect (row, record) as text columns, a batch at a time."""
    columns = [name for name in columns if name in VOTES]
    schema = {"row": pl.Int64} | dict.fromkeys(columns, pl.String)
    batches = [pl.DataFrame(schema=schema)]
    batch: list[list[Any]] = []
    for row, record in records:
        batch.append([row, *(as_text(record.get(name)) for name in columns)])
        if len(batch) == BATCH:
            batches.append(pl.DataFrame(batch, schema=schema, orient="row"))
            batch = []
    if batch:
        batches.append(pl.DataFrame(batch, schema=schema, orient="row"))
    return pl.concat(batches)


def as_text(value: Any) -> str | None:
    """Return a JSON or csv value as text; an empty one is null, as in every csv."""
    if value is None or value == "":
        return None
    return value if isinstance(value, str) else json.dumps(value)


def rejections(broken: list[tuple[int, str, str, str]], path: Path | None = None) -> pl.DataFrame:
    """Return (row, column, reason, value) of one file as a table of `schema.REJECTED`."""
    return pl.DataFrame([(str(path), *one) for one in broken], schema=REJECTED, orient="row")


def check(raw: Raw, path: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Split a file's rows into votes and rejections; a row is rejected for its first fault.

    Returns (votes with every column of `schema.VOTES` and `row`, rejections).
    """
    rows = raw.rows
    faults: list[tuple[str, str, pl.Expr]] = []  # column, reason, where it holds
    columns: dict[str, pl.Expr] = {}
    for name, kind in VOTES.items():
        if name not in rows.columns:
            columns[name] = pl.lit(None, dtype=kind)
            continue
        given = rows[name].dtype
        if given.is_nested() or given == pl.Binary:
            raise VotesError(f"{path}: column {name} holds {given}; it must hold text or numbers")
        if name == "created_at":
            columns[name] = _time(pl.col(name), given)
            reason = "not a time (ISO 8601 in UTC, or seconds since 1970)"
            faults.append((name, reason, columns[name].is_null() & pl.col(name).is_not_null()))
        elif name == "confidence":
            columns[name] = pl.col(name).cast(pl.Float64, strict=False)
            good = columns[name].is_between(0, 1).fill_null(False)
            faults.append((name, "not a number from 0 to 1", pl.col(name).is_not_null() & ~good))
        else:
            columns[name] = pl.col(name).cast(pl.String)
            if name in ("model_a", "model_b"):
                empty = columns[name].is_null() | (columns[name].str.strip_chars() == "")
                faults.append((name, "empty", empty))
            elif name == "outcome":
                good = columns[name].is_in(OUTCOMES).fill_null(False)
                faults.append((name, "not a, b or tie", ~good))
    fault = pl.coalesce(
        *(
            pl.when(where).then(
                pl.struct(
                    column=pl.lit(raw.names.get(name, name)),
                    reason=pl.lit(reason),
                    value=pl.col(name).cast(pl.String),
                )
            )
            for name, reason, where in faults
        )
    )
    rows = rows.with_columns(fault.alias("fault"))
    rejected = (
        rows.filter(pl.col("fault").is_not_null())
        .select(pl.lit(str(path)).alias("file"), pl.col("row").cast(pl.Int64), "fault")
        .unnest("fault")
        .select(**{name: pl.col(name).cast(kind) for name, kind in REJECTED.items()})
    )
    usable = rows.filter(pl.col("fault").is_null())
    votes = usable.select(pl.col("row").cast(pl.Int64), **columns)
    return votes, pl.concat([raw.broken, rejected]).sort("row")


def _time(column: pl.Expr, given: pl.DataType) -> pl.Expr:
    """Return created_at in UTC from a date, seconds since 1970 or ISO 8601 text."""
    if isinstance(given, pl.Datetime):
        aware = column if given.time_zone else column.dt.replace_time_zone("UTC")
        return aware.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    if given == pl.Date:
        return column.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    seconds = column.cast(pl.Float64, strict=False)
    # Past the year 5000 it is not seconds but milliseconds: a fault, not a guess.
    seconds = pl.when(seconds.abs() < 1e11).then(seconds)
    numeric = (seconds * 1e6).round().cast(pl.Int64).cast(pl.Datetime("us", "UTC"))
    if given.is_numeric():
        return numeric
    text = column.cast(pl.String).str.replace(r"(?i)z$", "+00:00")
    # One pattern a spelling: polars would settle on the first row's and fail the others.
    patterns = [
        f"%Y-%m-%d{t}%H:%M{s}{z}" for t in ("T", " ") for s in (":%S%.f", "") for z in ("%:z", "")
    ]
    spelled = []
    for pattern in patterns:
        parsed = text.str.to_datetime(pattern, time_unit="us", strict=False)
        spelled.append(parsed if pattern.endswith("z") else parsed.dt.replace_time_zone("UTC"))
    day = text.str.to_date("%Y-%m-%d", strict=False)
    spelled.append(day.cast(pl.Datetime("us")).dt.replace_time_zone("UTC"))
    return pl.coalesce(*spelled, numeric)
