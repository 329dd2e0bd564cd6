"""What a reader hands on: a file's rows as they are, before anything is checked."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from arena.schema import REJECTED

# A rejection shows this much of what was there; a file of ten-megabyte strings stays readable.
SHOWN = 200

Broken = list[tuple[int, str, str, str | None]]  # row, column, reason, value


class VotesError(ValueError):
    """A votes file that cannot be read at all, said in one sentence for a person."""


@dataclass(frozen=True)
class Raw:
    """Rows of votes between two models.

    rows: the columns of `schema.VOTES` that the file has, of any type, and `row`, the 1-based data
    row. broken: rows that could not even be split into columns, as `schema.REJECTED`. names: what
    the file calls a column of the schema, where it calls it otherwise.
    """

    rows: pl.DataFrame
    broken: pl.DataFrame
    names: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RawRankings:
    """Votes that rank several images at once.

    records: one mapping a vote with `row`, `ranks` and whichever of `schema.RANKINGS` is known, of
    any type. broken: as in `Raw`. duplicates: rows that repeat an earlier one of the file (only a
    reader that gathers several rows into one vote can tell).
    """

    records: list[dict[str, Any]]
    broken: pl.DataFrame
    names: dict[str, str] = field(default_factory=dict)
    duplicates: int = 0


def as_text(value: Any) -> str | None:
    """Return a JSON or csv value as text; an empty one is null, as in every csv."""
    if value is None or value == "":
        return None
    return value if isinstance(value, str) else json.dumps(value)


def shown(value: Any) -> str | None:
    """Return the beginning of a value, for a rejection."""
    text = as_text(value)
    return text if text is None else text[:SHOWN]


def rejections(broken: Broken, path: Path | str | None = None) -> pl.DataFrame:
    """Return (row, column, reason, value) of one file as a table of `schema.REJECTED`."""
    cut = [(str(path), *one[:3], one[3] and one[3][:SHOWN]) for one in broken]
    return pl.DataFrame(cut, schema=REJECTED, orient="row")


def frame(rows: list[list[Any]], columns: list[str]) -> pl.DataFrame:
    """Return `row` and text columns as a frame."""
    schema = {"row": pl.Int64} | dict.fromkeys(columns, pl.String)
    return pl.DataFrame(rows, schema=schema, orient="row")
