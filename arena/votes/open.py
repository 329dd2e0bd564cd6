"""Votes from files of any known format, with every row of them accounted for.

Reading, checking, ids, duplicates and conservation of rows are the same for all formats (`formats`
tells which one a file has). `read_votes` holds the votes in memory; `intake` writes them while it
reads; `stream` reads the few columns that an estimator needs.
"""

import hashlib
import hmac
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from arena.schema import RANKINGS, REJECTED, VOTES
from arena.votes.check import check
from arena.votes.deliveries import Delivery, delivered
from arena.votes.formats import READERS, format_of
from arena.votes.identity import positions, vote_ids
from arena.votes.rankings import as_pair, check_rankings, pairs_of
from arena.votes.raw import RawRankings, VotesError
from arena.votes.sources import File, staged

ROW: dict[str, Any] = {"row": pl.Int64}
# Where a row came from, beside its columns: `given` is the source that it names itself.
PLACE: dict[str, Any] = {"given": pl.String, "file": pl.String, "ordinal": pl.Int32}


@dataclass(frozen=True)
class Options:
    """How files are read.

    format: a key of `formats.READERS` where the content should not decide. resolve_images: a
    relative path in image_a or image_b that names a file beside the votes file becomes absolute;
    ids, URLs and everything else stay as they are. salt: raters become keyed hashes under it.
    images_from: the folder that such a path is told from instead, so that no table holds a path of
    this machine.
    """

    format: str | None = None
    resolve_images: bool = False
    salt: str | None = None
    images_from: Path | None = None

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in READERS:
            raise VotesError(
                f"no votes format is called {self.format!r}; there are {', '.join(READERS)}"
            )

    def format_of(self, path: Path) -> str:
        """Return the format that is asked for, or the one that the file has."""
        found = format_of(path)
        return self.format or found


@dataclass(frozen=True)
class Part:
    """Some rows of a file, checked: rows == votes + rankings' rows + rejected + duplicates.

    votes: `ROW`, `schema.VOTES` and `PLACE`; pairs that a ranking implies are not among them.
    rankings: `ROW`, `schema.RANKINGS` and `PLACE`.
    """

    votes: pl.DataFrame
    rankings: pl.DataFrame
    rejected: pl.DataFrame
    rows: int
    duplicates: int = 0


@dataclass(frozen=True)
class Reading:
    """What was read, with nothing lost: rows == accepted + rejected.height + duplicates.

    votes: every column of `schema.VOTES`, in input order; a file's rankings come after its votes,
    as pairs. rankings: `schema.RANKINGS`, the K-wise votes. rejected: `schema.REJECTED`. rows: how
    many the files held. accepted: how many rows became votes or part of a ranking. duplicates: rows
    equal in every column to an earlier one with the same vote_id, and those of a file that was
    delivered twice. formats: each file's format.
    """

    votes: pl.DataFrame
    rejected: pl.DataFrame
    rows: int
    duplicates: int
    formats: dict[str, str]
    accepted: int
    rankings: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=RANKINGS))


def parts(file: File, ordinal: int, options: Options) -> Iterator[Part]:
    """Yield a file's checked rows with ids; `ordinal` is its place among the files, from 0.

    Raises VotesError, naming the file, where it cannot be read at all.
    """
    with file.named():
        for raw in READERS[options.format_of(file.path)](file.path):
            votes = pl.DataFrame(schema=ROW | VOTES)
            rankings = pl.DataFrame(schema=ROW | RANKINGS)
            rows, duplicates = raw.broken.height, 0
            if isinstance(raw, RawRankings):
                rankings, rejected = check_rankings(raw, file.path)
                duplicates = raw.duplicates
                rows += sum(record.get("rows", 1) for record in raw.records) + duplicates
            else:
                votes, rejected = check(raw, file.path)
                rows += raw.rows.height
            rejected = rejected.with_columns(file=pl.lit(file.name))
            if options.salt is not None:
                # A row that could not be split may hold its rater anywhere.
                hidden = pl.when(pl.col("column") != "").then("value")
                rejected = rejected.with_columns(value=hidden)
            votes, rankings = (_named(t, file, ordinal, options) for t in (votes, rankings))
            yield Part(votes, rankings, rejected, rows, duplicates)


def _named(table: pl.DataFrame, file: File, ordinal: int, options: Options) -> pl.DataFrame:
    """Name raters, images, votes and their source; add the file and its ordinal."""
    ranked = "ranks" in table.columns
    if options.salt is not None:
        table = hashed_raters(table, options.salt)
    if table["vote_id"].null_count():
        # Of the words of the file: a path of this machine would give other ids on the next.
        made = vote_ids(as_pair(table) if ranked else table, positions(table["row"], ordinal))
        table = table.with_columns(pl.col("vote_id").fill_null(made))
    if options.resolve_images:
        table = resolved_images(table, file.path.parent, options.images_from)
    base = file.name.rpartition("/")[2]
    return table.with_columns(
        pl.col("source").fill_null(base),
        given=pl.col("source"),
        file=pl.lit(file.name),
        ordinal=pl.lit(ordinal, pl.Int32),
    )


def read_votes(
    paths: Sequence[Path | str],
    *,
    resolve_images: bool = False,
    format: str | None = None,
    salt: str | None = None,
) -> Reading:
    """Read and check votes: files, folders, patterns and URLs; see `Options` for how.

    Raises VotesError where a file cannot be read at all; a row that cannot be used is rejected.
    """
    options = Options(format, resolve_images, salt)
    with staged(paths) as files:
        deliveries = delivered(files)
        read: dict[str, list[Part]] = {}
        formats = {}
        rows = repeated = 0
        for ordinal, delivery in enumerate(deliveries):
            file = delivery.file
            if delivery.repeats is None:
                formats[file.name] = options.format_of(file.path)
                read[file.name] = list(parts(file, ordinal, options))
        for delivery in deliveries:
            if delivery.repeats is None:
                rows += sum(part.rows for part in read[delivery.file.name])
            else:
                formats[delivery.file.name] = f"the same as {delivery.repeats.name}"
                again = rows_again(delivery, options)
                rows, repeated = rows + again, repeated + again
    every = [part for parts in read.values() for part in parts]
    votes, vote_clashes, same_votes = unique(_joined([part.votes for part in every], VOTES))
    ranked, rank_clashes, same_rankings = unique(
        _joined([part.rankings for part in every], RANKINGS)
    )
    within = sum(part.duplicates for part in every)
    accepted = votes.height + int(ranked["rows"].sum())
    if not ranked.is_empty():
        pairs = pairs_of(ranked).with_columns(ordinal=_of_each_pair(ranked))
        columns = [*VOTES, "ordinal"]
        votes = pl.concat([votes.select(columns), pairs.select(columns)])
        votes = votes.sort("ordinal", maintain_order=True)
    return Reading(
        votes=votes.select(*VOTES),
        rankings=ranked.select(*RANKINGS),
        rejected=pl.concat([*(part.rejected for part in every), vote_clashes, rank_clashes]),
        rows=rows,
        duplicates=repeated + within + same_votes.height + same_rankings.height,
        formats=formats,
        accepted=accepted,
    )


def _joined(tables: list[pl.DataFrame], schema: dict[str, Any]) -> pl.DataFrame:
    return pl.concat(
        [
            pl.DataFrame(schema=ROW | schema | PLACE),
            *(t.select(*ROW, *schema, *PLACE) for t in tables),
        ]
    )


def _of_each_pair(rankings: pl.DataFrame) -> pl.Series:
    size = pl.col("ranks").list.len()
    return rankings.select(
        pl.col("ordinal").repeat_by(size * (size - 1) // 2).explode()
    ).to_series()


def rows_again(delivery: Delivery, options: Options) -> int:
    """Count the rows of a file whose content another one has too.

    One that was cut off while it was written may be unreadable: then it has no rows.
    """
    try:
        return sum(part.rows for part in parts(delivery.file, 0, options))
    except VotesError:
        return 0


def unique(table: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return (table, rejections, exact duplicates as file and row): a vote_id names one vote.

    table: votes or rankings with `ROW` and `PLACE`. Of equal rows, and of different ones under one
    vote_id, the first stays.
    """
    twice = table["vote_id"].is_duplicated()
    if not twice.any():
        return table, pl.DataFrame(schema=REJECTED), table.select("file", "row").clear()
    some = table.with_row_index("place").filter(twice)
    # The file's name is not content: the same export under two names is the same votes.
    content = [name for name in (*VOTES, *RANKINGS) if name in table.columns and name != "source"]
    as_words = [
        pl.col(name).cast(pl.List(pl.String)).list.join("\0", ignore_nulls=True)
        for name in content
        if isinstance(table.schema[name], pl.List)
    ]
    some = some.with_columns(as_words)
    first = pl.struct(list(dict.fromkeys([*content, "given"]))).is_first_distinct()
    same = some.filter(~first)
    left = some.filter(first)
    clash = left.filter(~pl.col("vote_id").is_first_distinct())
    dropped = pl.concat([same["place"], clash["place"]])
    rejected = clash.select(
        "file",
        "row",
        column=pl.lit("vote_id"),
        reason=pl.lit("another vote has this vote_id"),
        value="vote_id",
    )
    kept = table.with_row_index("place").filter(~pl.col("place").is_in(dropped.implode()))
    return kept.drop("place"), rejected, same.select("file", "row")


def hashed_raters(table: pl.DataFrame, salt: str) -> pl.DataFrame:
    """Replace every rater by 16 hexadecimal digits: HMAC-SHA256 under the salt."""
    names = table["rater"].drop_nulls().unique()
    digest = {
        name: hmac.new(salt.encode(), name.encode(), hashlib.sha256).hexdigest()[:16]
        for name in names
    }
    return table.with_columns(pl.col("rater").replace(digest)) if digest else table


def resolved_images(table: pl.DataFrame, folder: Path, told_from: Path | None) -> pl.DataFrame:
    """Make a relative path that names a file in `folder` absolute; leave everything else.

    told_from: the folder that the path is relative to instead, None for an absolute one.
    """
    columns = [name for name in ("image_a", "image_b", "images") if name in table.columns]
    for name in columns:
        texts = table[name].explode() if name == "images" else table[name]
        given = texts.drop_nulls().unique()
        whole = {x: str((folder / x).resolve()) for x in given if _is_file(folder / x)}
        found = {
            x: path
            if told_from is None or Path(x).is_absolute()
            else os.path.relpath(path, told_from)
            for x, path in whole.items()
        }
        if found:
            column = pl.col(name)
            renamed = (
                column.list.eval(pl.element().replace(found))
                if name == "images"
                else column.replace(found)
            )
            table = table.with_columns(renamed)
    return table


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a URL or a text too long to be a path
        return False
