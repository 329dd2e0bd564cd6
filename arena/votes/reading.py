"""What is asked of a reader of votes, and what it returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from arena.schema import OUTCOMES, VOTES
from arena.votes.faults import VotesError
from arena.votes.formats import FORMATS


@dataclass(frozen=True)
class Options:
    """How files are read.

    format: a key of `formats.FORMATS` where the columns should not decide. columns: the schema's
    column -> the file's, for a table with names of its own. outcomes: a word of the file -> a, b or
    tie. dimension: which one, where a file has several. salt: raters become keyed hashes under it.
    images: what a path in image_a or image_b becomes. "as written" leaves it, and tells equal paths
    of different folders apart; "resolved" makes one that names a file beside the votes file
    absolute, or relative to `images_from`, so that no table holds a path of this machine; "ids"
    says that they are names in a table of images, and no paths.
    """

    format: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    outcomes: Mapping[str, str] = field(default_factory=dict)
    dimension: str | None = None
    salt: str | None = None
    images: str = "as written"
    images_from: Path | None = None

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in FORMATS:
            known = ", ".join(FORMATS)
            raise VotesError(f"no votes format is called {self.format!r}; there are {known}")
        for name in self.columns:
            if name not in VOTES and name != "count":
                raise VotesError(
                    f"no column of a vote is called {name!r}; there are {', '.join(VOTES)}"
                )
        for word, outcome in self.outcomes.items():
            if outcome not in OUTCOMES:
                raise VotesError(f"the outcome {word!r} is said to be {outcome!r}; say a, b or tie")


AS_THEY_ARE = Options()


@dataclass
class FileReading:
    """What was read of one file: rows == accepted + rejected + duplicates.

    repeats: the name of the file whose content this one has too, then nothing else of it is read.
    columns: the schema's column -> the file's. derived: those that its layout works out. unread:
    the file's columns that were not read. skipped: what held no vote by right -> how often. fault:
    why the file is left out as a whole, where the reader was told to leave such files out.
    """

    name: str
    container: str = ""
    format: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    derived: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    accepted: int = 0
    rejected: int = 0
    duplicates: int = 0
    repeats: str | None = None
    fault: str | None = None


@dataclass(frozen=True)
class Reading:
    """What was read, with nothing lost: rows == accepted + rejected.height + duplicates.

    votes: every column of `schema.VOTES`, in input order; a file's rankings come after its votes,
    as pairs. rankings: `schema.RANKINGS`, the K-wise votes. rejected: `schema.REJECTED`. doubts:
    the same columns, for values that became null while their vote stayed. files: what was read of
    each. folder: where relative image paths count from. A row counts as accepted where it became a
    vote or part of a ranking, and as a duplicate where it is counted once already.
    """

    votes: pl.DataFrame
    rankings: pl.DataFrame
    rejected: pl.DataFrame
    doubts: pl.DataFrame
    files: list[FileReading]
    folder: Path = Path()

    def require(self) -> "Reading":
        """Return the reading. Raises VotesError with the commonest reasons where it has no vote."""
        if self.accepted:
            return self
        names = ", ".join(file.name for file in self.files)
        why = commonest(self.rejected) or "there is no row"
        raise VotesError(f"{names}: no vote can be used: {why}")

    @property
    def rows(self) -> int:
        """Return how many rows the files held."""
        return sum(file.rows for file in self.files)

    @property
    def accepted(self) -> int:
        """Return how many rows became votes or part of a ranking."""
        return sum(file.accepted for file in self.files)

    @property
    def duplicates(self) -> int:
        """Return how many rows are counted once already."""
        return sum(file.duplicates for file in self.files)


def commonest(rejected: pl.DataFrame, most: int = 3) -> str:
    """Return the commonest reasons for rejections, each with its first row."""
    kinds = rejected.group_by("column", "reason").agg(pl.len(), pl.col("row").min())
    kinds = kinds.sort("len", "row", descending=[True, False]).head(most)
    return "; ".join(
        f"{kind['len']:,} x {kind['column']} {kind['reason']}".replace("  ", " ")
        + f" (first in row {kind['row']})"
        for kind in kinds.iter_rows(named=True)
    )
