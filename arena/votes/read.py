"""Votes from files of any known layout, with every row of them accounted for.

    reading = read_votes(["votes.csv"])
    reading.votes       # the table of `arena.schema.VOTES`
    reading.rejected    # what cannot be used, with file, row, column and reason

One way leads from a file to the table: `containers` gives rows, `formats` says what they mean,
`check` parts votes from rejections, `identity` names them and finds those that came twice. Ten
votes and a hundred million go the same way; who needs few columns asks for few (`read_ballots`).
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from arena.schema import RANKINGS, VOTES
from arena.votes.check import NONE
from arena.votes.rankings import pairs_of
from arena.votes.reader import Reader, merged
from arena.votes.reading import AS_THEY_ARE, Options, Reading
from arena.votes.sources import staged


def read_votes(
    paths: Sequence[Path | str] | Path | str, options: Options = AS_THEY_ARE, **how: Any
) -> Reading:
    """Read and check votes: files, folders, patterns and URLs.

    how: the fields of `Options`, instead of options. Raises VotesError where a file cannot be read
    at all; a row that cannot be used is rejected.
    """
    with staged([paths] if isinstance(paths, str | Path) else paths) as files:
        reader = Reader(files, replace(options, **how) if how else options)
        votes, rankings, numbers = reader.whole()
    return Reading(
        votes=with_pairs(votes, rankings, numbers) if rankings.height else votes,
        rankings=rankings.select(*RANKINGS),
        rejected=merged(reader.rejected) if reader.rejected else NONE,
        doubts=merged(reader.doubts) if reader.doubts else NONE,
        files=reader.files,
        folder=reader.folder,
    )


def with_pairs(votes: pl.DataFrame, rankings: pl.DataFrame, numbers: pl.Series) -> pl.DataFrame:
    """Return the votes and the pairs of the rankings, a file's after its votes.

    rankings: with `file`, the number of their file. numbers: those of the votes.
    """
    sizes = rankings["ranks"].list.len()
    of_pairs = rankings.select(pl.col("file").repeat_by(sizes * (sizes - 1) // 2).explode())
    votes = pl.concat([votes, pairs_of(rankings.drop("file"))])
    order = pl.concat([numbers, of_pairs.to_series()])
    return votes.with_columns(file=order).sort("file", maintain_order=True).drop("file")


def read_ballots(
    paths: Sequence[Path | str], options: Options = AS_THEY_ARE
) -> tuple[pl.DataFrame, Reading]:
    """Return (what an estimator needs of every pairwise vote, the reading without its votes).

    The frame has the columns of `BALLOT` that the files have, models and outcome as pl.Enum, so
    that a hundred million votes fit in two gigabytes; the reading has the K-wise votes.
    """
    with staged(paths) as files:
        reader = Reader(files, options)
        ballots, rankings = reader.few()
    none = pl.DataFrame(schema=VOTES)
    rejected, doubts = merged(reader.rejected), merged(reader.doubts)
    return ballots, Reading(none, rankings, rejected, doubts, reader.files, reader.folder)
