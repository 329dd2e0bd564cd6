"""How files become checked votes: one after another, with what was noted of each."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from arena.schema import OUTCOMES, RANKINGS, REJECTED, VOTES
from arena.votes.check import NONE, Checked, check
from arena.votes.coding import categories, stacked
from arena.votes.containers import Table, open_table
from arena.votes.deliveries import repeated
from arena.votes.faults import UNREADABLE, VotesError, named, rejections, sentence
from arena.votes.formats import FORMATS
from arena.votes.identity import KEYS, keys_of, repeats, with_ids
from arena.votes.layout import Found, Plan, Record, plan_of
from arena.votes.limits import MOST_MODELS
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
CLAIMED = "another file has this vote_id for another vote; both count, this one under its content's"
OUTSIDE = "leads out of the folder of its votes; the vote has no such image then"
OTHERS = "votes in other dimensions"
FILE: dict[str, Any] = {"row": pl.Int64, "file": pl.Int32}
TEXTS: Any = dict.fromkeys(("model_a", "model_b", "outcome"), pl.String)
NO_VOTES = pl.DataFrame(schema=FILE | VOTES)
NO_RANKINGS = pl.DataFrame(schema=FILE | RANKINGS)


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
        self.options, self.most_rejected, self.sources = options, most_rejected, files
        self.again = repeated(files) if len(files) > 1 else {}
        self.files: list[FileReading] = []
        parents = []
        for file in files:
            self.files.append(FileReading(file.name))
            parents.append(file.path.parent.absolute())
        self.rejected: list[pl.DataFrame] = []
        self.doubts: list[pl.DataFrame] = []
        self.folder = Path(os.path.commonpath(parents)) if parents else Path()

    def whole(self) -> tuple[pl.DataFrame, pl.DataFrame, pl.Series]:
        """Return (votes, rankings with `file`, the number of each vote's file), all with ids."""
        found, ranked = [NO_VOTES], [NO_RANKINGS]
        for number in range(len(self.sources)):
            read = self.parts(number) if self.most_rejected is None else self._usable(number)
            for part in read:
                of_file = pl.lit(number, pl.Int32).alias("file")
                found.append(part.votes.cast(TEXTS).with_columns(of_file))
                if part.rankings.height:
                    ranked.append(part.rankings.with_columns(of_file))
        tables = [pl.concat(found, how="diagonal"), pl.concat(ranked, how="diagonal")]
        several = len(self.sources) > 1
        for k, table in enumerate(tables):
            if table.is_empty():
                continue
            if self.options.salt is not None:
                # Before ids are made: an id that hashed a name could be guessed back to it.
                table = hashed_raters(table, self.options.salt)
            if several or table["vote_id"].null_count() < table.height:
                table = self._without_repeats(table)
            if table["vote_id"].null_count():
                table = with_ids(table)
            # Names of files and places of images, which no vote_id depends on.
            names = pl.Series([file.base for file in self.sources], dtype=pl.String)
            table = table.with_columns(pl.col("source").fill_null(names.gather(table["file"])))
            if several or self.options.images == "resolved":
                table = self._with_images_placed(table)
            tables[k] = table
        votes, rankings = tables
        named = pl.concat([votes["model_a"], votes["model_b"]]).n_unique()
        if named > MOST_MODELS:
            raise VotesError(f"{named:,} models, more than {MOST_MODELS:,}")
        return votes.select(*VOTES), rankings.select(*RANKINGS, "file"), votes["file"]

    def _usable(self, number: int) -> list[Part]:
        """Return a file's parts, none of one that is left out as a whole."""
        assert self.most_rejected is not None
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
                rankings.append(part.rankings.with_columns(file=pl.lit(number, pl.Int32)))
                if votes.is_empty():
                    continue
                if len(self.sources) > 1 or "vote_id" in votes.columns:
                    keys.append(keys_of(votes, number))
                    parts.append(votes.select("row", *(n for n in BALLOT if n in votes.columns)))
                else:
                    parts.append(votes.drop("row"))
        ballots = stacked(parts, {"outcome": pl.Enum(OUTCOMES)})
        named = len(categories(ballots["model_a"]))
        if named > MOST_MODELS:
            raise VotesError(f"{named:,} models, more than {MOST_MODELS:,}")
        if len(keys) > 1:
            ballots = self._kept(ballots, pl.concat(keys)).drop("row", "file")
        ranked = pl.concat([NO_RANKINGS, *rankings], how="diagonal")
        if ranked.height:
            ranked = with_ids(self._without_repeats(ranked))
        return ballots, ranked.select(*RANKINGS)

    def _without_repeats(self, table: pl.DataFrame) -> pl.DataFrame:
        """Leave out votes that came before, and count or reject them."""
        parts = table.partition_by("file", maintain_order=True)
        keys = [pl.DataFrame(schema=KEYS), *(keys_of(p, p["file"][0]) for p in parts)]
        return self._kept(pl.concat([table.clear(), *parts]), pl.concat(keys))

    def _kept(self, table: pl.DataFrame, keys: pl.DataFrame) -> pl.DataFrame:
        """Return the rows that came first; the keys are theirs, in order."""
        same, clash, claimed = repeats(keys)
        table = table.with_columns(keys["file"])
        for number, rows in self._by_file(table.filter(same)):
            self.files[number].duplicates += rows
            self.files[number].accepted -= rows
        for reason, which in ((CLASH, table.filter(clash)), (CLAIMED, table.filter(claimed))):
            for number, rows in self._by_file(which):
                said = self.files[number]
                noted = [(row, "vote_id", reason, None) for row in _rows(which, number)]
                if reason == CLASH:
                    said.accepted -= rows
                    self._note(said, rejections(noted))
                else:
                    self._note(said, NONE, rejections(noted))
        if claimed.any() and "vote_id" in table.columns:
            table = table.with_columns(vote_id=pl.when(~claimed).then("vote_id"))
        return table.filter(~(same | clash))

    @staticmethod
    def _by_file(table: pl.DataFrame) -> list[tuple[int, int]]:
        count = pl.col("rows").sum() if "rows" in table.columns else pl.len()
        return table.group_by("file").agg(count.alias("n")).select("file", "n").rows()

    def _with_images_placed(self, table: pl.DataFrame) -> pl.DataFrame:
        """Say of the images of every file where they are."""
        if self.options.images == "ids":
            return table
        placed = [table.clear()]
        for part in table.partition_by("file", maintain_order=True):
            number = part["file"][0]
            beside = self.sources[number].path.parent.absolute()
            placed.append(with_images_placed(part, beside, self.folder, self.options))
            for name in [n for n in ("image_a", "image_b") if n in part.columns]:
                lost = part["row"].filter(placed[-1][name].is_null() & part[name].is_not_null())
                if len(lost):
                    outside = rejections([(row, name, OUTSIDE, None) for row in lost])
                    self._note(self.files[number], NONE, outside)
        return pl.concat(placed)

    def parts(self, number: int, only: Sequence[str] | None = None) -> Iterator[Part]:
        """Yield a file's checked rows; none of one whose content another file has.

        only: the schema's columns that are needed, None for all. Raises VotesError, naming the
        file, where it cannot be read.
        """
        file, said, options = self.sources[number], self.files[number], self.options
        if number in self.again:
            first = self.files[self.again[number]]
            said.repeats, said.rows, said.duplicates = first.name, first.rows, first.rows
            return
        words = dict(zip(map(plain, options.outcomes), options.outcomes.values(), strict=True))
        try:
            table = open_table(file.path)
            plan = plan_of(table.columns, FORMATS, options.columns, options.format)
            layout, names = plan.format, plan.names
            said.container, said.format = table.kind, layout.name
            if layout.records is not None:
                yield from self._gathered(table, plan, said, words)
                return
            needed = {*layout.needs, *options.columns}
            if lost := needed.difference(names, map(plan.spelled.get, plan.also)):
                raise self._lacks(table.columns, plan, lost)
            said.columns = names
            taken = {*names.values(), *plan.also}
            said.unread = [name for name in table.columns if name not in taken]
            if only is not None and len(self.sources) == 1 and "vote_id" not in names:
                few = {*only, *layout.needs, *(["dimension"] if options.dimension else ())}
                names = {n: of for n, of in names.items() if n in few}
            coded = [] if layout.frame else [names[n] for n in ("model_a", "model_b", "outcome")]
            renamed = {of: ours for ours, of in names.items()}
            renamed |= {name: plan.spelled[name] for name in plan.also if name not in renamed}
            for frame in table.frames(list(renamed), coded):
                frame = frame.rename({n: ours for n, ours in renamed.items() if n in frame.columns})
                if layout.frame is not None:
                    frame = layout.frame(frame, options.dimension)
                elif options.dimension is not None and "dimension" in frame.columns:
                    asked = frame["dimension"].cast(pl.String).str.strip_chars()
                    before = said.skipped.get(OTHERS, 0) + frame.height
                    frame = frame.filter(asked == options.dimension)
                    said.skipped[OTHERS] = before - frame.height
                known = [n for n in frame.columns if n in VOTES or n in ("row", "count")]
                said.derived = [n for n in known if n not in names and n != "row"]
                said.rows += frame.height
                checked: Checked = check(frame.select(known), names, words)
                said.accepted += checked.votes.height
                if checked.rejected.height or checked.doubts.height:
                    self._note(said, checked.rejected, checked.doubts)
                yield Part(checked.votes, NO_RANKINGS)
            if table.broken:
                said.rows += len(table.broken)
                self._note(said, rejections(table.broken))
        except UNREADABLE as error:
            raise sentence(error, file.name) from None

    def _lacks(self, columns: Sequence[str], plan: Plan, lost: set[str]) -> VotesError:
        """Return what to say of columns that the file should have and has not."""
        there = named(columns, KNOWN)
        told = [of for ours, of in self.options.columns.items() if ours in lost]
        if told:
            return VotesError(f"no column {told[0]}; it has {there}")
        layout = plan.format
        called = {n: layout.columns.get(n, (n,))[0] for n in layout.needs}
        return VotesError(
            f"no column {', '.join(called[n] for n in called if n in lost)}; {layout.name} needs "
            f"{', '.join(called.values())} and this file has {there} (other names are told by "
            "--columns, in a study by votes.columns)"
        )

    def _gathered(
        self, table: Table, plan: Plan, said: FileReading, words: Mapping[str, str]
    ) -> Iterator[Part]:
        """Read a format that gathers votes from records."""
        assert plan.format.records is not None
        found = Found()
        records: Iterator[Record] = table.records(plan.also)
        if any(name != short for name, short in plan.spelled.items()):
            records = (
                (row, {plan.spelled.get(name, name): value for name, value in record.items()})
                for row, record in records
            )
        for some in batched(plan.format.records(records, found), ROWS):
            pairs = [(row, record) for row, record in some if "ranks" not in record]
            ranked = [(row, record) for row, record in some if "ranks" in record]
            there = dict.fromkeys(key for _, record in pairs for key in record)
            votes = NO_VOTES
            if pairs:
                checked = check(frame_of(pairs, list(there)), {}, words)
                self._note(said, checked.rejected, checked.doubts)
                votes = checked.votes
            rankings, broken, doubts = check_rankings(ranked, {})
            of_rankings = int(rankings["rows"].sum())
            said.rows += len(pairs) + of_rankings + len(broken)
            said.accepted += votes.height + of_rankings
            self._note(said, rejections(broken), rejections(doubts))
            yield Part(votes, rankings)
        said.skipped = found.skipped
        broken = found.broken + table.broken
        said.rows += found.repeated + len(broken)
        said.duplicates += found.repeated
        self._note(said, rejections(broken))

    def _note(self, said: FileReading, rejected: pl.DataFrame, doubts: pl.DataFrame = NONE) -> None:
        """Note rejections and doubts of a file, without values in which its rater may stand."""
        said.rejected += rejected.height
        for rows, noted in ((rejected, self.rejected), (doubts, self.doubts)):
            rows = rows.with_columns(file=pl.lit(said.name))
            if self.options.salt is not None:
                # One comma too many, and the rater stands in any column.
                rows = rows.with_columns(value=pl.lit(None, pl.String))
            noted.append(rows)


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
