"""The votes table while it is written: it only grows, and a vote_id written twice is found after.

Eight bytes a vote are kept in memory for that, whatever the vote weighs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from arena.atomic import replacing
from arena.schema import VOTES
from arena.votes.open import unique


class Table:
    """A parquet file that grows by frames."""

    def __init__(self, path: Path, schema: Mapping[str, Any]) -> None:
        self.path, self.schema = path, schema
        arrow = pl.DataFrame(schema=schema).to_arrow().schema
        self.writer = pq.ParquetWriter(path, arrow, compression="zstd", compression_level=1)
        self.arrow = arrow

    def __enter__(self) -> "Table":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, frame: pl.DataFrame) -> None:
        """Append the frame's columns of the schema."""
        if frame.height:
            self.writer.write_table(frame.select(*self.schema).to_arrow().cast(self.arrow))

    def close(self) -> Path:
        """Finish the file, so that it can be read, and return its path."""
        self.writer.close()
        return self.path


@dataclass
class Places:
    """Where each written vote came from: a hash of its id, its row, and the files' spans."""

    digests: list[np.ndarray] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)
    spans: list[tuple[str, int]] = field(default_factory=list)  # file, votes written of it

    def add(self, name: str, votes: pl.DataFrame) -> None:
        """Remember the votes that were just written; name: their file."""
        self.digests.append(votes["vote_id"].hash().to_numpy())
        self.rows.append(votes["row"].fill_null(0).to_numpy().astype(np.int32))
        self.spans.append((name, votes.height))


def repeated(path: Path, places: Places) -> tuple[np.ndarray, pl.DataFrame, pl.DataFrame]:
    """Find votes whose vote_id was written before: (positions, rejections, exact duplicates)."""
    digest = np.concatenate([np.empty(0, np.uint64), *places.digests])
    sorted_ = np.sort(digest)
    twice = sorted_[1:][sorted_[1:] == sorted_[:-1]]
    position = np.flatnonzero(np.isin(digest, twice)) if len(twice) else np.empty(0, np.int64)
    ends = np.cumsum([n for _, n in places.spans])
    names = [places.spans[k][0] for k in np.searchsorted(ends, position, side="right")]
    row = np.concatenate([np.empty(0, np.int32), *places.rows])[position]
    some = pl.concat(
        [pl.DataFrame(schema=VOTES), *(_taken(frame, position, n) for frame, n in _frames(path))]
        if len(position)
        else [pl.DataFrame(schema=VOTES)]
    ).with_columns(
        row=pl.Series(row, dtype=pl.Int64),
        file=pl.Series(names, dtype=pl.String),
        at=pl.Series(position, dtype=pl.Int64),
    )
    # A source that is the file's own name was not given: see `open.unique`.
    told = pl.col("source") != pl.col("file").str.extract(r"([^/]*)$", 1)
    some = some.with_columns(given=pl.when(told).then("source"), ordinal=pl.lit(0, pl.Int32))
    kept, clashes, same = unique(some)
    dropped = some["at"].filter(~some["at"].is_in(kept["at"].implode())).to_numpy()
    return dropped, clashes, same


def _frames(path: Path) -> Iterator[tuple[pl.DataFrame, int]]:
    """Yield (votes, position of the first one) of a table that was written."""
    position = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(1 << 18):
            yield pl.DataFrame(batch).cast(VOTES), position  # type: ignore[arg-type]
            position += len(batch)


def _taken(frame: pl.DataFrame, position: np.ndarray, start: int) -> pl.DataFrame:
    inside = position[(position >= start) & (position < start + frame.height)] - start
    return frame[inside]


def without(path: Path, dropped: np.ndarray) -> None:
    """Write a table again without the votes at these positions."""
    with replacing(path) as aside, Table(aside, VOTES) as table:
        for frame, start in _frames(path):
            keep = np.ones(frame.height, bool)
            keep[dropped[(dropped >= start) & (dropped < start + frame.height)] - start] = False
            table.write(frame.filter(pl.Series(keep)))
