"""Votes from files of any known layout, with every row of them accounted for.

    reading = read_votes(["votes.csv"])
    reading.votes       # the table of `arena.schema.VOTES`
    reading.rejected    # what cannot be used, with file, row, column and reason

One way leads from files to the table: `sources` finds them, `delivery` reads one, and here their
votes come together: those that came twice are told by `identity`, and the others get their names.
Ten votes and a hundred million go the same way; who needs few columns asks for few
(`read_ballots`).
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from arena.schema import OUTCOMES, RANKINGS, VOTES
from arena.votes.check import NO_OUTCOME, NONE
from arena.votes.delivery import NO_RANKINGS, NO_VOTES, Part, parts_of
from arena.votes.faults import VotesError, rejections
from arena.votes.identity import keys_of, repeated, repeats, with_ids
from arena.votes.limits import MOST_MODELS
from arena.votes.options import AS_THEY_ARE, Options, hashed_raters, with_images_placed
from arena.votes.rankings import with_pairs
from arena.votes.sources import File, staged
from arena.votes.spellings import recoded

# What an estimator needs of a vote.
BALLOT = ("model_a", "model_b", "outcome", "created_at", "votes_a", "votes_b", "votes_tie", "count")
CLASH = "another vote has this vote_id"
CLAIMED = "another file has this vote_id for another vote; both count, this one under its content's"
OUTSIDE = "leads out of the folder of its votes; the vote has no such image then"
TEXTS: Any = dict.fromkeys(("model_a", "model_b", "outcome"), pl.String)


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
        skipped = (f"{n:,} {what}" for file in self.files for what, n in file.skipped.items())
        why = commonest(self.rejected) or "; ".join(skipped) or "there is no row"
        if NO_OUTCOME in why:
            why += "; tell other words by --outcomes, in a study by votes.outcomes"
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


def read_votes(
    paths: Sequence[Path | str] | Path | str, options: Options = AS_THEY_ARE, **how: Any
) -> Reading:
    """Read and check votes: files, folders, patterns and URLs.

    how: the fields of `Options`, instead of options. Raises VotesError where a file cannot be read
    at all; a row that cannot be used is rejected.
    """
    with staged([paths] if isinstance(paths, str | Path) else paths) as files:
        return Gathering(files, replace(options, **how) if how else options).reading()


def read_ballots(
    paths: Sequence[Path | str], options: Options = AS_THEY_ARE
) -> tuple[pl.DataFrame, Reading]:
    """Return (what an estimator needs of every pairwise vote, the reading without its votes).

    The frame has the columns of `BALLOT` that the files have, models and outcome as pl.Enum, so
    that a hundred million votes fit in two gigabytes; the reading has the K-wise votes.
    """
    with staged(paths) as files:
        reading = Gathering(files, options).reading(BALLOT)
    few = reading.votes.select(name for name in BALLOT if name in reading.votes.columns)
    return few, replace(reading, votes=pl.DataFrame(schema=VOTES))


@dataclass
class Gathering:
    """Files whose votes come together; `files`, `rejected` and `doubts` fill up on the way.

    most_rejected: a file of which more than this share of the rows is rejected, or which cannot be
    read at all, is left out and says so in its `fault`; None to refuse an unreadable one.
    """

    sources: Sequence[File]
    options: Options
    most_rejected: float | None = None
    files: list[FileReading] = field(default_factory=list)
    rejected: list[tuple[str, pl.DataFrame]] = field(default_factory=list)  # of a file's name
    doubts: list[tuple[str, pl.DataFrame]] = field(default_factory=list)

    def reading(self, only: Sequence[str] | None = None) -> Reading:
        """Return what was read.

        only: the columns of the votes that are needed, in which models and outcome stay pl.Enum.
        """
        several = len(self.sources) > 1
        again = repeated(self.sources) if several else {}
        found, ranked, keys = [], [NO_RANKINGS], []
        models: set[str] = set()
        for number, source in enumerate(self.sources):
            said = FileReading(source.name)
            self.files.append(said)
            if number in again:
                first = self.files[again[number]]
                said.repeats, said.rows, said.duplicates = first.name, first.rows, first.rows
                continue
            parts = parts_of(source, said, self.options, None if several else only)
            for part in parts if self.most_rejected is None else self._usable(parts):
                of_file = pl.lit(number, pl.Int32).alias("file")
                ranked.append(part.rankings.with_columns(of_file))
                for rows, kept in ((part.rejected, self.rejected), (part.doubts, self.doubts)):
                    kept += [(said.name, rows)] if rows.height else []
                votes = part.votes
                if votes.is_empty():
                    continue
                kinds: Any = (votes.schema["model_a"], votes.schema["model_b"])
                models.update(*(kind.categories for kind in kinds))
                if only is None:
                    votes = votes.cast(TEXTS).with_columns(of_file)
                elif several or "vote_id" in votes.columns:
                    keys.append(keys_of(votes.with_columns(of_file)))
                    votes = votes.select("row", *(n for n in only if n in votes.columns))
                else:
                    votes = votes.select(n for n in only if n in votes.columns)
                found.append(votes)
        parents = [source.path.parent.absolute() for source in self.sources]
        folder = Path(os.path.commonpath(parents)) if parents else Path()
        rankings = self._finished(pl.concat(ranked, how="diagonal"), folder)
        if only is None:
            votes = pl.concat([NO_VOTES.select(*TEXTS), *found], how="diagonal")
            # A column that no file has takes no memory as long as it is one null for all rows.
            others = NO_VOTES.drop(votes.columns, strict=False).schema
            absent = {name: pl.lit(None, kind) for name, kind in others.items()}
            votes = self._finished(votes.with_columns(**absent), folder)
        else:
            votes = stacked(found, pl.Enum(sorted(models)))
            votes = self._kept(votes, pl.concat(keys)) if keys else votes
        if len(models) > MOST_MODELS:
            raise VotesError(f"{len(models):,} models, more than {MOST_MODELS:,}")
        if rankings.height and only is None:
            votes = with_pairs(votes, rankings)
        rejected, doubts = (merged(x) if x else NONE for x in (self.rejected, self.doubts))
        if self.options.salt is not None:
            # One comma too many, and the rater stands in any column.
            nothing = pl.lit(None, pl.String)
            rejected, doubts = (x.with_columns(value=nothing) for x in (rejected, doubts))
        votes = votes.select(*VOTES) if only is None else votes
        return Reading(votes, rankings.select(*RANKINGS), rejected, doubts, self.files, folder)

    def _usable(self, parts: Iterator[Part]) -> list[Part]:
        """Return the parts of the last file, none where it is left out as a whole."""
        assert self.most_rejected is not None
        said = self.files[-1]
        try:
            found = list(parts)
            if said.rejected <= self.most_rejected * said.rows:
                return found
            why = commonest(pl.concat([part.rejected for part in found]))
            said.fault = (
                f"{said.rejected:,} of {said.rows:,} rows cannot be used, more than "
                f"{self.most_rejected:.0%}: {why}"
            )
        except VotesError as error:
            said.fault = str(error)
        self.files[-1] = FileReading(said.name, format=said.format, fault=said.fault)
        return []

    def _finished(self, table: pl.DataFrame, folder: Path) -> pl.DataFrame:
        """Return votes or rankings without repeats, each with its name, source and images."""
        several = len(self.sources) > 1
        if table.is_empty():
            return table
        if self.options.salt is not None:
            # Before ids are made: an id that hashed a name could be guessed back to it.
            table = hashed_raters(table, self.options.salt)
        if several or table["vote_id"].null_count() < table.height:
            table = self._kept(table, keys_of(table))
        # Names of files and places of images come last, as no vote_id depends on them.
        names = pl.Series([Path(file.name).name for file in self.sources], dtype=pl.String)
        table = with_ids(table)
        table = table.with_columns(pl.col("source").fill_null(names.gather(table["file"])))
        if self.options.images == "ids" or not (several or self.options.images == "resolved"):
            return table
        placed = []
        for part in table.partition_by("file", maintain_order=True):
            source = self.sources[part["file"][0]]
            beside = source.path.parent.absolute()
            placed.append(with_images_placed(part, beside, folder, self.options))
            for name in [n for n in ("image_a", "image_b") if n in part.columns]:
                lost = part["row"].filter(placed[-1][name].is_null() & part[name].is_not_null())
                noted = rejections([(row, name, OUTSIDE, None) for row in lost])
                self.doubts.append((source.name, noted))
        return pl.concat(placed)

    def _kept(self, table: pl.DataFrame, keys: pl.DataFrame) -> pl.DataFrame:
        """Return the votes that came first, and count or reject the others; keys: theirs, in order.

        A row of a ranking stands for all rows of the file that it was gathered from.
        """
        same, clash, claimed = repeats(keys)
        table = table.with_columns(keys["file"])
        rows = "rows" if "rows" in table.columns else pl.lit(1, pl.Int64)
        for why, which in (("", same), (CLASH, clash), (CLAIMED, claimed)):
            few = table.filter(which).select("file", pl.col("row").repeat_by(rows).explode())
            for (number,), some in few.group_by("file", maintain_order=True):
                said = self.files[int(number)]
                noted = rejections([(row, "vote_id", why, None) for row in some["row"]])
                if why == CLAIMED:
                    self.doubts.append((said.name, noted))
                    continue
                said.accepted -= some.height
                if why == CLASH:
                    said.rejected += some.height
                    self.rejected.append((said.name, noted))
                else:
                    said.duplicates += some.height
        if claimed.any() and "vote_id" in table.columns:
            table = table.with_columns(vote_id=pl.when(~claimed).then("vote_id"))
        return table.filter(~(same | clash))


def stacked(parts: Sequence[pl.DataFrame], models: pl.Enum) -> pl.DataFrame:
    """Return ballots in one frame, whose models are positions among all of them."""
    schema = {"model_a": models, "model_b": models, "outcome": pl.Enum(OUTCOMES)}
    alike = []
    for part in parts:
        kinds: Any = {side: part.schema[side] for side in ("model_a", "model_b")}
        codes = {side: recoded(side, kind.categories, models) for side, kind in kinds.items()}
        alike.append(part.with_columns(**codes))
    return pl.concat([pl.DataFrame(schema=schema), *alike], how="diagonal")


def merged(parts: Sequence[tuple[str, pl.DataFrame]]) -> pl.DataFrame:
    """Return rejections (of a file's name, without it) in one table, in the order of the rows."""
    named = [rows.with_columns(file=pl.lit(name)) for name, rows in parts]
    whole = pl.concat([NONE, *named])
    order = pl.col("file").cast(pl.Enum(whole["file"].unique(maintain_order=True)))
    return whole.sort(order, "row", maintain_order=True)
