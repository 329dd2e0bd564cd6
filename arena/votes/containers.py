"""A votes file's rows, whatever holds them: csv, JSON, parquet, Arrow or a tar, packed or not.

`open_table` tells the container by the first bytes, never by the name, and gives one interface to
all: the names of the columns, frames of the columns that are asked for, or records. What the
columns mean is for `formats`. Nothing here trusts the file: one that unpacks to far more than it
holds, nests without end or is cut off ends in one sentence.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from arena.votes.columnar import ARROW_FILE, ARROW_STREAM, PARQUET, Arrow, Parquet
from arena.votes.faults import Broken, VotesError, saying
from arena.votes.packed import encoding_of, head
from arena.votes.samples import Samples
from arena.votes.text_tables import Csv, Json

# What people deliver by mistake, by its first bytes, and what to do instead.
NO_TABLES = {
    b"SQLite format 3": "a SQLite database; export its table as csv or parquet",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run `git lfs pull`",
    b"<!doctype html": "a web page, not a file of votes; download the file itself",
    b"<html": "a web page, not a file of votes; download the file itself",
    **dict.fromkeys(
        (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"),
        "a Python pickle, which can run code; save it as csv or parquet",
    ),
    b"%pdf": "a PDF; export the table as csv or parquet",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save the sheet as csv (UTF-8)",
    b"\x89png": "an image, not a file of votes",
    b"\xff\xd8\xff": "an image, not a file of votes",
}


class Table(Protocol):
    """A file's rows. kind: csv, json, parquet, arrow or tar. columns: its columns' names.

    `broken` gathers (row, column, reason, value) of rows that cannot be split into columns; it is
    complete when the rows have been read.
    """

    kind: str
    broken: Broken

    @property
    def columns(self) -> list[str]:
        """Return the names of the file's columns."""

    def frames(self, columns: Sequence[str], coded: Sequence[str] = ()) -> Iterator[pl.DataFrame]:
        """Yield `row` (the first data row is 1) and the named columns that the file has.

        A value is text, or what a typed container says. coded: columns of few distinct texts, which
        come as pl.Enum where the container has them so.
        """

    def records(self, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (row, the named columns that the row has); lists and objects are Python's."""


def open_table(path: Path) -> Table:
    """Return a file's rows. Raises VotesError where it is no table, saying what it is instead."""
    with saying(path):
        start = head(path)
        lowered = start.lstrip()[:32].lower()
        for magic, what in NO_TABLES.items():
            if start.startswith(magic) or lowered.startswith(magic.lower()):
                raise VotesError(f"{path}: this is {what}")
        if (kind := _typed(start)) is not None:
            with path.open("rb") as stream:
                if stream.read(4) != start[: 4]:
                    raise VotesError(f"{path}: a packed {kind.kind} file; unpack it")
            return kind(path)
        text = _decoded(start, path).lstrip("\ufeff \r\n\t")
        if not text:
            raise VotesError(f"{path}: the file is empty; give a file of votes")
        return Json(path) if text[0] in "[{" else Csv(path)


def _typed(start: bytes) -> type[Parquet | Arrow | Samples] | None:
    """Return the reader of a file that is no text, by its first bytes."""
    if start.startswith(PARQUET):
        return Parquet
    if start.startswith((ARROW_FILE, ARROW_STREAM)):
        return Arrow
    return Samples if start[257:262] == b"ustar" else None


def _decoded(start: bytes, path: Path) -> str:
    """Return the beginning as text."""
    encoding = encoding_of(start)
    if encoding == "utf-8-sig" and b"\0" in start[:1024]:
        raise VotesError(f"{path}: neither text nor a known table; give csv, JSON or parquet")
    return start.decode(encoding, "replace")
