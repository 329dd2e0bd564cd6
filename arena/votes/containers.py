"""A votes file's rows, whatever holds them: csv, JSON, parquet, Arrow or a tar, packed or not.

`open_table` tells the container by the first bytes, never by the name, and gives one interface to
all: the names of the columns, frames of the columns that are asked for, or records. What the
columns mean is for `formats`. Nothing here trusts the file: one that unpacks to far more than it
holds, nests without end or is cut off ends in one sentence.
"""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from arena.votes.faults import Broken, VotesError
from arena.votes.limits import MOST_COLUMNS
from arena.votes.packed import Bounded, opened
from arena.votes.regular import AHEAD
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
    b"{\\rtf": "a document of a word processor; save it as plain text",
    b"<?xml": "an XML file; export the table as csv or parquet",
    b"Obj\x01": "an Avro file; export its table as csv or parquet",
    b"ORC": "an ORC file; export its table as csv or parquet",
    b"\x89HDF": "an HDF5 file; export its table as csv or parquet",
    b"7z\xbc\xaf": "a 7z archive; unpack it and name its files",
    b"Rar!": "a RAR archive; unpack it and name its files",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save the sheet as csv (UTF-8)",
    b"\x89png": "an image, not a file of votes",
    b"\xff\xd8\xff": "an image, not a file of votes",
}
TYPED = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow"}


class Table(Protocol):
    """A file's rows. kind: csv, json, parquet, arrow or tar. columns: its columns' names.

    `broken` gathers (row, column, reason, value) of rows that cannot be split into columns; it is
    complete when the rows have been read, which can be done once.
    """

    kind: str
    broken: Broken

    @property
    def columns(self) -> list[str]:
        """Return the names of the file's columns."""

    def frames(self, columns: Sequence[str], coded: Sequence[str] = ()) -> Iterator[pl.DataFrame]:
        """Yield `row` (the first data row is 1) and the named columns that the file has.

        A value is text, or what a typed container says. coded: columns of few distinct texts, which
        may come as pl.Enum.
        """

    def records(self, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (row, the named columns that the row has); lists and objects are Python's."""


def open_table(path: Path) -> Table:
    """Return a file's rows. Raises VotesError where it is no table, saying what it is instead."""
    stream = opened(path)
    start = stream.peek(AHEAD)
    lowered = start.lstrip()[:32].lower()
    for magic, what in NO_TABLES.items():
        if start.startswith(magic) or lowered.startswith(magic.lower()):
            raise VotesError(f"this is {what}")
    kind = TYPED.get(start[:4]) or TYPED.get(start[:6])
    kind = "tar" if start[257:262] == b"ustar" else kind
    table: Table
    if kind is not None:
        stream.close()
        if isinstance(stream.raw, Bounded):
            raise VotesError(f"a packed {kind} file; unpack it")
        # A text needs none of pyarrow's readers, and a command would start later for them.
        from arena.votes import columnar, samples

        kinds: Any = {"parquet": columnar.Parquet, "arrow": columnar.Arrow, "tar": samples.Samples}
        table = kinds[kind](path)
    else:
        encoding = "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        if encoding == "utf-8-sig" and b"\0" in start[:1024]:
            raise VotesError("neither text nor a known table; give csv, JSON or parquet")
        begins = start.decode(encoding, "replace").lstrip("\ufeff \r\n\t")
        if not begins:
            raise VotesError("the file is empty; give a file of votes")
        if begins[0] in "[{":
            stream.close()
            table = Json(path, encoding)
        else:
            table = Csv(io.TextIOWrapper(stream, encoding, newline=""))
    if not table.columns and not table.broken:
        raise VotesError("it holds no row with named columns; give a file of votes")
    if len(table.columns) > MOST_COLUMNS:
        raise VotesError(f"{len(table.columns):,} columns, more than {MOST_COLUMNS:,}")
    return table
