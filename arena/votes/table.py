"""The votes table: csv, jsonl or parquet, plain or packed with gzip or zstd.

A file without a required column is an error; what is wrong with a row is `check`'s to say.
"""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from arena.schema import REQUIRED, VOTES
from arena.votes.files import (
    head,
    json_lines,
    json_records,
    lines,
    parquet_batches,
    parquet_columns,
    saying,
)
from arena.votes.raw import Broken, Raw, VotesError, as_text, frame, rejections

BATCH = 100_000
PARQUET_BATCH = 1 << 20


def read_parquet(path: Path) -> Iterator[Raw]:
    """Read the known columns of a parquet file, no other byte of it."""
    present = parquet_columns(path)
    require(path, present)
    row = 1
    columns = [name for name in present if name in VOTES]
    for batch in parquet_batches(path, columns, PARQUET_BATCH):
        yield Raw(pl.DataFrame(batch).with_row_index("row", offset=row), rejections([]))
        row += len(batch)


def read_csv(path: Path) -> Iterator[Raw]:
    """Read a csv file with a header; a row with more or fewer fields than it is broken."""
    with saying(path):
        records = csv.reader(lines(path))
        header = next(records, [])
        require(path, header)
        columns = [name for name in header if name in VOTES]
        repeated = {name for name in columns if columns.count(name) > 1}
        if repeated:
            raise VotesError(f"{path}: two columns are called {repeated.pop()}; rename one")
        places = [header.index(name) for name in columns]
        broken: Broken = []
        rows: list[list[Any]] = []
        # csv.reader skips nothing: an empty line is an empty list, and no row.
        for row, fields in enumerate((f for f in records if f), start=1):
            if len(fields) == len(header):
                rows.append([row, *(fields[k] or None for k in places)])
            else:
                reason = f"{len(fields)} fields where the header has {len(header)}"
                broken.append((row, "", reason, ",".join(fields)[:200]))
            if len(rows) + len(broken) == BATCH:
                yield Raw(frame(rows, columns), rejections(broken, path))
                rows, broken = [], []
        yield Raw(frame(rows, columns), rejections(broken, path))


def read_jsonl(path: Path) -> Iterator[Raw]:
    """Read one JSON object a line, or a JSON list of them; what is none is broken."""
    seen: set[str] = set()
    broken: Broken = []
    rows: list[list[Any]] = []
    whole = head(path).lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"[")
    for row, record in (json_records if whole else json_lines)(path, broken):
        seen.update(record)
        rows.append([row, *(as_text(record.get(name)) for name in VOTES)])
        if len(rows) >= BATCH:
            require(path, seen)
            yield Raw(frame(rows, list(VOTES)), rejections(broken, path))
            rows, broken[:] = [], []
    require(path, seen)
    yield Raw(frame(rows, list(VOTES)), rejections(broken, path))


def require(path: Path, columns: Iterable[str]) -> None:
    """Raise VotesError where a column that every votes table needs is missing."""
    columns = list(columns)
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise VotesError(
            f"{path}: no column {', '.join(missing)}; a votes table needs "
            f"{', '.join(REQUIRED)} and this file has {', '.join(columns[:12])[:400] or 'none'}"
        )
