"""One file's rows: opened, given the schema's names, checked, with what was noted on the way.

`containers` gives the rows, `formats` says what they mean, `check` parts votes from rejections.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from arena.schema import RANKINGS, VOTES
from arena.votes.check import NONE, check
from arena.votes.containers import Table, open_table
from arena.votes.faults import UNREADABLE, VotesError, named, rejections, sentence
from arena.votes.formats import FORMATS
from arena.votes.layout import Found, Plan, Record, Watched, plan_of
from arena.votes.options import Options
from arena.votes.rankings import check_rankings
from arena.votes.sources import File
from arena.votes.spellings import plain
from arena.votes.text_tables import ROWS, batched, frame_of

if TYPE_CHECKING:
    from arena.votes.read import FileReading

# The names of columns that some format knows: a header without any may be the first row.
KNOWN = {
    name for one in FORMATS.values() for names in one.columns.values() for name in names
} | VOTES.keys()
HIVE = re.compile(r"\w+=.*")
OTHERS = "votes in other dimensions"
FILE: dict[str, Any] = {"row": pl.Int64, "file": pl.Int32}
NO_VOTES = pl.DataFrame(schema=FILE | VOTES)
NO_RANKINGS = pl.DataFrame(schema=FILE | RANKINGS)


class Part(NamedTuple):
    """Some checked rows of one file.

    votes: `row` and columns of `schema.VOTES`. rankings: `row` and `schema.RANKINGS`. rejected,
    doubts: `schema.REJECTED` without a file.
    """

    votes: pl.DataFrame
    rankings: pl.DataFrame
    rejected: pl.DataFrame
    doubts: pl.DataFrame = NONE


def parts_of(
    file: File, said: "FileReading", options: Options, only: Sequence[str] | None = None
) -> Iterator[Part]:
    """Yield a file's checked rows, and fill in what is said of it.

    only: the schema's columns that are needed, None for all. Raises VotesError, naming the file,
    where it cannot be read.
    """
    # `date=2026-11-01/part.parquet`: columns that folders hold are not read.
    folders = [name for name in Path(file.name).parts[:-1] if HIVE.fullmatch(name)]
    in_folders = [f"{name} (a folder's name)" for name in folders]
    try:
        table = open_table(file.path)
        plan = plan_of(table.columns, FORMATS, options.columns, options.format)
        said.container, said.format = table.kind, plan.format.name
        words = dict(zip(map(plain, options.outcomes), options.outcomes.values(), strict=True))
        if plan.format.records is not None:
            yield from _gathered(table, plan, said, words)
            said.unread += in_folders
            return
        layout, names = plan.format, plan.names
        there = {*names, *map(plan.spelled.get, plan.also)}
        if lost := {*layout.needs, *options.columns} - there:
            raise _lacks(table.columns, plan, options, lost)
        said.columns = names
        read = {*names.values(), *plan.also}
        said.unread = [n or "(a column without a name)" for n in table.columns if n not in read]
        said.unread += in_folders
        if only is not None and "vote_id" not in names:
            few = {*only, *layout.needs, *(["dimension"] if options.dimension else ())}
            names = {n: of for n, of in names.items() if n in few}
        coded = [] if layout.frame else [names[n] for n in ("model_a", "model_b", "outcome")]
        renamed = {name: plan.spelled[name] for name in plan.also}
        renamed |= {of: ours for ours, of in names.items()}
        for frame in table.frames(list(renamed), coded):
            rows = frame.rename({n: ours for n, ours in renamed.items() if n in frame.columns})
            if layout.frame is not None:
                rows = layout.frame(rows, options.dimension)
            elif options.dimension is not None and "dimension" in rows.columns:
                asked = rows["dimension"].cast(pl.String).str.strip_chars().str.to_lowercase()
                rows = rows.filter(asked == options.dimension.strip().lower())
                others = frame.height - rows.height
                said.skipped[OTHERS] = said.skipped.get(OTHERS, 0) + others
            known = [n for n in rows.columns if n in VOTES or n in ("row", "count")]
            said.derived = [n for n in known if n not in names and n != "row"]
            checked = check(rows.select(known), names, words)
            said.rows += rows.height
            said.accepted += checked.votes.height
            said.rejected += checked.rejected.height
            yield Part(checked.votes, NO_RANKINGS, checked.rejected, checked.doubts)
        if table.broken:
            said.rows += len(table.broken)
            said.rejected += len(table.broken)
            yield Part(NO_VOTES, NO_RANKINGS, rejections(table.broken))
    except UNREADABLE as error:
        raise sentence(error, file.name) from None


def _lacks(columns: Sequence[str], plan: Plan, options: Options, lost: set[str]) -> VotesError:
    """Return what to say of columns that the file should have and has not."""
    there = named(columns, KNOWN)
    told = [of for ours, of in options.columns.items() if ours in lost]
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
    table: Table, plan: Plan, said: "FileReading", words: dict[str, str]
) -> Iterator[Part]:
    """Read a format that gathers votes from whole records."""
    assert plan.format.records is not None
    found, seen = Found(), set[str]()
    records: Iterator[Record] = (
        (row, Watched({plan.spelled.get(n, n): value for n, value in record.items()}, seen))
        for row, record in table.records(plan.also)
    )
    for some in batched(plan.format.records(records, found), ROWS):
        pairs = [(row, record) for row, record in some if "ranks" not in record]
        if pairs:
            checked = check(frame_of(pairs), {}, words)
            said.rows += len(pairs)
            said.accepted += checked.votes.height
            said.rejected += checked.rejected.height
            yield Part(checked.votes, NO_RANKINGS, checked.rejected, checked.doubts)
        rankings, broken, doubts = check_rankings([each for each in some if "ranks" in each[1]])
        said.rows += int(rankings["rows"].sum()) + len(broken)
        said.accepted += int(rankings["rows"].sum())
        said.rejected += len(broken)
        yield Part(NO_VOTES, rankings, rejections(broken), rejections(doubts))
    said.skipped = found.skipped
    said.unread = [n for n in table.columns if plan.spelled[n] not in seen]
    broken = found.broken + table.broken
    said.rows += found.repeated + len(broken)
    said.duplicates += found.repeated
    said.rejected += len(broken)
    yield Part(NO_VOTES, NO_RANKINGS, rejections(broken))
