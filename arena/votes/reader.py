"""How files become checked votes: one after another, with what was noted of each."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from arena.schema import OUTCOMES, RANKINGS, REJECTED, VOTES
from arena.votes.check import Checked, check
from arena.votes.coding import stacked
from arena.votes.containers import Table, open_table
from arena.votes.deliveries import repeated
from arena.votes.faults import VotesError, named, rejections, saying
from arena.votes.formats import FORMATS
from arena.votes.identity import KEYS, keys_of, repeats, with_ids
from arena.votes.layout import Format, Found
from arena.votes.outcomes import plain
from arena.votes.placing import hashed_raters, with_images_placed
from arena.votes.rankings import check_rankings
from arena.votes.reading import FileReading, Options, commonest
from arena.votes.sources import File
from arena.votes.text_tables import ROWS, batched, frame_of

# What an estimator needs of a vote.
BALLOT = ("model_a", "model_b", "outcome", "created_at", "votes_a", "votes_b", "votes_tie", "count")
# The names of columns that some format knows: a header without any may be the first row.
KNOWN = {
    name for one in FORMATS.values() for names in one.columns.values() for name in names
} | VOTES.keys()
CLASH = "another vote has this vote_id"
MODELS: dict[str, Any] = {
    "model_a": pl.Enum([]),
    "model_b": pl.Enum([]),
    "outcome": pl.Enum(OUTCOMES),
}
ROW: dict[str, Any] = {"row": pl.Int64}
NO_RANKINGS = pl.DataFrame(schema=ROW | RANKINGS)
NO_VOTES = pl.DataFrame(schema=ROW | MODELS)


@dataclass
class Part:
    """Some checked rows of one file: votes have `row` and columns of `schema.VOTES`."""

    votes: pl.DataFrame
    rankings: pl.DataFrame


class Reader:
    """The files while they are read; `files`, `rejected` and `doubts` fill up on the way."""

    def __init__(
        self, files: Sequence[File], options: Options, most_rejected: float | None = None
    ) -> None:
        """Read these files.

        most_rejected: a file of which more than this share of the rows is rejected, or which cannot
        be read at all, is left out and says so in its `fault`; None to refuse an unreadable one.
        """
        self.options, self.most_rejected = options, most_rejected
        self.sources = files
        self.again = repeated(files)
        self.files = [FileReading(file.name) for file in files]
        self.rejected: list[pl.DataFrame] = []
        self.doubts: list[pl.DataFrame] = []
        parents = [file.path.parent.absolute() for file in files]
        self.folder = Path(os.path.commonpath(parents)) if parents else Path()

    def whole(self) -> tuple[pl.DataFrame, pl.DataFrame, pl.Series]:
        """Return (votes, rankings with `file`, the number of each vote's file), all with ids."""
        parts = [(k, part) for k in range(len(self.sources)) for part in self._whole_file(k)]
        votes = self._joined([(k, part.votes) for k, part in parts], VOTES)
        rankings = self._joined([(k, part.rankings) for k, part in parts], RANKINGS)
        if self.options.salt is not None:
            # Before ids are made: an id that hashed a name could be guessed back to it.
            votes, rankings = (hashed_raters(t, self.options.salt) for t in (votes, rankings))
        votes, rankings = (self._without_repeats(table) for table in (votes, rankings))
        votes, rankings = (self._finished(with_ids(table)) for table in (votes, rankings))
        return votes.select(*VOTES), rankings.select(*RANKINGS, "file"), votes["file"]

    def all_rejected(self) -> pl.DataFrame:
        """Return the rejections of all files (`schema.REJECTED`), a file's by row."""
        return merged(self.rejected)

    def _whole_file(self, number: int) -> list[Part]:
        """Return a file's parts, none of one that is left out as a whole."""
        if self.most_rejected is None:
            return list(self.parts(number))
        noted = len(self.rejected), len(self.doubts)
        said = self.files[number]
        try:
            found = list(self.parts(number))
            if said.rejected <= self.most_rejected * said.rows:
                return found
            why = commonest(pl.concat(self.rejected[noted[0] :]))
            said.fault = (
                f"{said.rejected:,} of {said.rows:,} rows cannot be used, more than "
                f"{self.most_rejected:.0%}: {why}"
            )
        except VotesError as error:
            said.fault = str(error)
        del self.rejected[noted[0] :], self.doubts[noted[1] :]
        self.files[number] = FileReading(said.name, format=said.format, fault=said.fault)
        return []

    def few(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return (the columns of `BALLOT` of all pairwise votes, rankings with ids)."""
        parts: list[pl.DataFrame] = []
        keys = [pl.DataFrame(schema=KEYS)]
        rankings = []
        for number in range(len(self.sources)):
            for part in self.parts(number, BALLOT):
                votes = part.votes
                rankings.append((number, part.rankings))
                if len(self.sources) > 1 or "vote_id" in votes.columns:
                    keys.append(keys_of(votes, number))
                    parts.append(votes.select("row", *(n for n in BALLOT if n in votes.columns)))
                else:
                    parts.append(votes.drop("row"))
        ballots = stacked(parts, {"outcome": pl.Enum(OUTCOMES)})
        if len(keys) > 1:
            ballots = self._kept(ballots, pl.concat(keys)).drop("row", "file")
        ranked = with_ids(self._without_repeats(self._joined(rankings, RANKINGS)))
        return ballots, ranked.select(*RANKINGS)

    def _joined(
        self, tables: list[tuple[int, pl.DataFrame]], schema: Mapping[str, Any]
    ) -> pl.DataFrame:
        """Return the tables in one, with `row`, `file` and every column of the schema."""
        kinds: dict[str, Any] = {"row": pl.Int64, "file": pl.Int32, **schema}
        whole = [pl.DataFrame(schema=kinds)]
        for number, table in tables:
            table = table.with_columns(file=pl.lit(number, pl.Int32))
            whole.append(
                table.select(
                    pl.col(n).cast(k) if n in table.columns else pl.lit(None, k).alias(n)
                    for n, k in kinds.items()
                )
            )
        return pl.concat(whole)

    def _without_repeats(self, table: pl.DataFrame) -> pl.DataFrame:
        """Leave out votes that came before, and count or reject them."""
        if table["vote_id"].null_count() == table.height and len(self.sources) == 1:
            return table
        parts = table.partition_by("file", maintain_order=True)
        keys = [pl.DataFrame(schema=KEYS), *(keys_of(p, p["file"][0]) for p in parts)]
        return self._kept(pl.concat([table.clear(), *parts]), pl.concat(keys))

    def _kept(self, table: pl.DataFrame, keys: pl.DataFrame) -> pl.DataFrame:
        """Return the rows that came first; the keys are theirs, in order."""
        same, clash = repeats(keys)
        table = table.with_columns(keys["file"])
        for number, rows in self._by_file(table.filter(same)):
            self.files[number].duplicates += rows
            self.files[number].accepted -= rows
        clashing = table.filter(clash)
        for number, rows in self._by_file(clashing):
            self.files[number].rejected += rows
            self.files[number].accepted -= rows
            rejected = [(row, "vote_id", CLASH, None) for row in _rows(clashing, number)]
            self.rejected.append(rejections(rejected, self.files[number].name))
        return table.filter(~(same | clash))

    @staticmethod
    def _by_file(table: pl.DataFrame) -> list[tuple[int, int]]:
        count = pl.col("rows").sum() if "rows" in table.columns else pl.len()
        return table.group_by("file").agg(count.alias("n")).select("file", "n").rows()

    def _finished(self, table: pl.DataFrame) -> pl.DataFrame:
        """Name sources and place images: what no vote_id depends on."""
        names = pl.Series([file.base for file in self.sources], dtype=pl.String)
        table = table.with_columns(pl.col("source").fill_null(names.gather(table["file"])))
        if self.options.images == "ids":
            return table
        placed = [table.clear()]
        for part in table.partition_by("file", maintain_order=True):
            beside = self.sources[part["file"][0]].path.parent.absolute()
            placed.append(with_images_placed(part, beside, self.folder, self.options))
        return pl.concat(placed)

    def parts(self, number: int, only: Sequence[str] | None = None) -> Iterator[Part]:
        """Yield a file's checked rows; none of one whose content another file has.

        only: the schema's columns that are needed, None for all. Raises VotesError, naming the
        file, where it cannot be read.
        """
        file, said = self.sources[number], self.files[number]
        if number in self.again:
            first = self.files[self.again[number]]
            said.repeats, said.rows, said.duplicates = first.name, first.rows, first.rows
            return
        with file.named(), saying(file.path):
            table = open_table(file.path)
            layout = self.options.format_of(table)
            said.container, said.format = table.kind, layout.name
            if layout.records is not None:
                yield from self._gathered(table, layout, said)
            else:
                yield from self._mapped(table, layout, said, only)
            self._refuse(said, rejections(table.broken))

    def _mapped(
        self, table: Table, layout: Format, said: FileReading, only: Sequence[str] | None
    ) -> Iterator[Part]:
        """Read a format with one vote a row."""
        given = self.options.columns
        absent = [name for name in given.values() if name not in table.columns]
        if absent:
            there = named(table.columns, KNOWN)
            raise VotesError(f"{said.name}: no column {absent[0]}; it has {there}")
        names = layout.resolve(table.columns, given)
        also = list(layout.also(table.columns))
        missing = [n for n in layout.needs if n not in names and n not in also]
        if missing:
            called = {n: layout.columns.get(n, (n,))[0] for n in layout.needs}
            raise VotesError(
                f"{said.name}: no column {', '.join(called[n] for n in missing)}; {layout.name} "
                f"needs {', '.join(called.values())} and this file has "
                f"{named(table.columns, KNOWN)} (other names are told by --columns, in a study "
                "by votes.columns)"
            )
        said.columns = names
        said.unread = [n for n in table.columns if n not in (*names.values(), *also)]
        if only is not None and len(self.sources) == 1 and "vote_id" not in names:
            names = {ours: n for ours, n in names.items() if ours in only or ours in layout.needs}
        coded = [] if layout.frame else [names[n] for n in ("model_a", "model_b", "outcome")]
        for frame in table.frames([*names.values(), *also], coded):
            frame = frame.rename({n: ours for ours, n in names.items() if n in frame.columns})
            if layout.frame is not None:
                frame = layout.frame(frame, self.options.dimension)
            known = [name for name in frame.columns if name in VOTES or name in ("row", "count")]
            said.derived = [name for name in known if name not in names and name != "row"]
            said.rows += frame.height
            yield Part(self._accepted(said, frame.select(known), names), NO_RANKINGS)

    def _gathered(self, table: Table, layout: Format, said: FileReading) -> Iterator[Part]:
        """Read a format that gathers votes from records."""
        assert layout.records is not None
        found = Found()
        records = table.records(layout.also(table.columns))
        for some in batched(layout.records(records, found), ROWS):
            pairs = [(row, record) for row, record in some if "ranks" not in record]
            ranked = [(row, record) for row, record in some if "ranks" in record]
            there = dict.fromkeys(key for _, record in pairs for key in record)
            votes = self._accepted(said, frame_of(pairs, list(there)), {}) if pairs else NO_VOTES
            rankings, broken, doubts = check_rankings(ranked, {})
            said.rows += len(pairs) + int(rankings["rows"].sum()) + len(broken)
            said.accepted += int(rankings["rows"].sum())
            self._refuse(said, rejections(broken), counted=True)
            self._doubt(said, rejections(doubts))
            yield Part(votes, rankings)
        said.skipped = found.skipped
        said.rows += found.repeated
        said.duplicates += found.repeated
        self._refuse(said, rejections(found.broken))

    def _accepted(
        self, said: FileReading, frame: pl.DataFrame, names: Mapping[str, str]
    ) -> pl.DataFrame:
        """Return the votes among the rows."""
        words = {plain(word): to for word, to in self.options.outcomes.items()}
        checked: Checked = check(frame, names, words)
        said.accepted += checked.votes.height
        self._refuse(said, checked.rejected, counted=True)
        self._doubt(said, checked.doubts)
        return checked.votes

    def _refuse(self, said: FileReading, rows: pl.DataFrame, *, counted: bool = False) -> None:
        """Note rejections; counted: their rows are among the file's already."""
        said.rejected += rows.height
        said.rows += 0 if counted else rows.height
        self.rejected.append(self._told(said, rows))

    def _doubt(self, said: FileReading, rows: pl.DataFrame) -> None:
        self.doubts.append(self._told(said, rows))

    def _told(self, said: FileReading, rows: pl.DataFrame) -> pl.DataFrame:
        """Return rejections of a file, without values in which its rater may stand."""
        rows = rows.with_columns(file=pl.lit(said.name))
        if self.options.salt is None:
            return rows
        # A row that could not be split may hold its rater anywhere.
        hidden = pl.col("column").is_in(["", "json", "rater", said.columns.get("rater", "")])
        return rows.with_columns(value=pl.when(~hidden).then("value"))


def merged(parts: list[pl.DataFrame]) -> pl.DataFrame:
    """Return rejections in one table, a file's in the order of its rows."""
    whole = pl.concat([pl.DataFrame(schema=REJECTED), *parts])
    place = whole["file"].unique(maintain_order=True)
    order = pl.col("file").cast(pl.Enum(place))
    return whole.sort(order, "row", maintain_order=True)


def _rows(table: pl.DataFrame, number: int) -> list[int]:
    """Return the rows of one file; one of a ranking stands for all that it was gathered from."""
    some = table.filter(pl.col("file") == number)
    if "rows" in some.columns:
        return some.select(pl.col("row").repeat_by("rows").explode()).to_series().to_list()
    return some["row"].to_list()
