"""Votes from files of any known format, told by content and not by name.

A new format is one reader that returns `table.Raw`, one line in `READERS` and one test of it on a
real file; checking, ids, duplicates and conservation of rows are done here for all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from arena.votes.battles import read_battles
from arena.votes.identity import vote_ids
from arena.votes.schema import REJECTED, VOTES
from arena.votes.table import Raw, VotesError, check, read_csv, read_jsonl, read_parquet

READERS: dict[str, Callable[[Path], Raw]] = {
    "parquet": read_parquet,
    "battles": read_battles,
    "jsonl": read_jsonl,
    "csv": read_csv,
}


@dataclass(frozen=True)
class Reading:
    """What was read, with nothing lost: rows == votes.height + rejected.height + duplicates.

    votes: every column of `schema.VOTES`, in input order. rejected: `schema.REJECTED`. rows: how
    many the files held. duplicates: rows equal in every column to an earlier one with the same
    vote_id. formats: each file's format.
    """

    votes: pl.DataFrame
    rejected: pl.DataFrame
    rows: int
    duplicates: int
    formats: dict[str, str]


def format_of(path: Path) -> str:
    """Return the key in `READERS` for a file. Raises VotesError where there is nothing to read."""
    try:
        with path.open("rb") as stream:
            head = stream.read(4096)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise VotesError(f"{path}: cannot be read ({reason}); check the path") from None
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"PAR1"):
        return "parquet"
    if not start:
        raise VotesError(f"{path}: the file is empty; give a votes table or a battles file")
    return {b"[": "battles", b"{": "jsonl"}.get(start[:1], "csv")


def read_votes(paths: Sequence[Path], *, resolve_images: bool = False) -> Reading:
    """Read and check votes files.

    resolve_images: a relative path in image_a or image_b that names a file beside the votes file
    becomes absolute; ids, URLs and everything else stay as they are.
    Raises VotesError where a file cannot be read at all; a row that cannot be used is rejected.
    """
    all_votes, all_rejected, formats = [], [], {}
    rows = 0
    for path in map(Path, paths):
        formats[str(path)] = format_of(path)
        raw = READERS[formats[str(path)]](path)
        votes, rejected = check(raw, path)
        if resolve_images:
            votes = _resolve_images(votes, path.parent)
        # A row's position counts every row before it, usable or not.
        votes = votes.with_columns(
            file=pl.lit(str(path)), position=pl.col("row") - 1 + rows, given=pl.col("source")
        ).with_columns(pl.col("source").fill_null(path.name))
        all_votes.append(votes)
        all_rejected.append(rejected)
        rows += raw.rows.height + raw.broken.height
    votes = pl.concat(all_votes)
    rejected = pl.concat(all_rejected)
    votes, repeated, duplicates = _unique(votes)
    votes = votes.with_columns(
        pl.col("vote_id").fill_null(vote_ids(votes, votes["position"].to_numpy()))
        if votes["vote_id"].null_count()
        else pl.col("vote_id")
    )
    return Reading(
        votes=votes.select(*VOTES),
        rejected=pl.concat([rejected, repeated]),
        rows=rows,
        duplicates=duplicates,
        formats=formats,
    )


def _unique(votes: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """Return (votes, rejections, exact duplicates) so that a given vote_id names one vote."""
    known = pl.col("vote_id").is_not_null()
    if not votes.select(known.any()).item():
        return votes, pl.DataFrame(schema=REJECTED), 0
    # The file's name is not content: the same export under two names is the same votes.
    content = pl.struct(*(name for name in VOTES if name != "source"), "given")
    same = known & ~content.is_first_distinct()
    left = votes.filter(~same)
    clash = known & ~pl.col("vote_id").is_first_distinct()
    rejected = left.filter(clash).select(
        "file",
        "row",
        column=pl.lit("vote_id"),
        reason=pl.lit("another vote has this vote_id"),
        value="vote_id",
    )
    return left.filter(~clash), rejected, votes.height - left.height


def _resolve_images(votes: pl.DataFrame, folder: Path) -> pl.DataFrame:
    for name in ("image_a", "image_b"):
        given = votes[name].drop_nulls().unique()
        found = {x: str((folder / x).resolve()) for x in given if _is_file(folder / x)}
        if found:
            votes = votes.with_columns(pl.col(name).replace(found))
    return votes


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a URL or a text too long to be a path
        return False
