"""Votes to tables on disk: what the pipeline's first stage does.

`take_in` reads what the sources hold now and writes three tables whole. Nothing is carried over
from an earlier run, so being killed and started again, or getting the same files in another order
of arrival, ends in the same tables.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from arena.atomic import replacing
from arena.votes.faults import VotesError
from arena.votes.identity import fingerprint
from arena.votes.options import AS_THEY_ARE, Options
from arena.votes.read import Gathering
from arena.votes.sources import File, staged

FILES: dict[str, Any] = {
    "file": pl.String,
    "format": pl.String,
    "fingerprint": pl.String,  # of what the arena reads of it
    "repeats": pl.String,  # the file that has all of its content, else null
    "rows": pl.Int64,
    "accepted": pl.Int64,
    "rejected": pl.Int64,
    "duplicates": pl.Int64,
    "fault": pl.String,  # why the whole file is left out, else null
}

# A file this bad is another format or another meaning, not votes with a few slips.
MOST_REJECTED = 0.2


def take_in(
    sources: Sequence[Path | str | File],
    votes: Path,
    rankings: Path,
    rejected: Path,
    *,
    options: Options = AS_THEY_ARE,
    replaces: Mapping[str, str] | None = None,
    most_rejected: float = MOST_REJECTED,
    before: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Write the sources' votes, K-wise votes and rejections; return a row of `FILES` for each file.

    replaces: file name -> name of the file whose votes it corrects, which is then not read. A file
    that cannot be read, or of which more than `most_rejected` was rejected, is left out and says
    why. before: the files of the last time; raises VotesError for one of them that was accepted
    then and cannot be now, and where no vote is left: the tables of before are then untouched.
    """
    with staged(sources) as files:
        standing = _standing(files, replaces or {})
        reading = Gathering(standing, options, most_rejected).reading()
        marks = [fingerprint(file) for file in standing]
    known = set() if before is None else set(before.filter(pl.col("accepted") > 0)["file"])
    faults = [file for file in reading.files if file.fault is not None]
    lost = next((file for file in faults if file.name in known), None)
    if lost is not None:
        raise VotesError(f"{lost.name}: was accepted before and cannot be now: {lost.fault}")
    if not reading.accepted:
        why = f"; {faults[0].name}: {faults[0].fault}" if faults else ""
        raise VotesError(f"no vote can be used of {len(standing)} files{why}")
    tables = ((votes, reading.votes), (rankings, reading.rankings), (rejected, reading.rejected))
    for path, table in tables:
        with replacing(path) as aside:
            table.write_parquet(aside, compression="zstd")
    rows = [
        {name: getattr(said, name, None) for name in FILES}
        | {"file": said.name, "fingerprint": mark}
        for said, mark in zip(reading.files, marks, strict=True)
    ]
    return pl.DataFrame(rows, schema=FILES, orient="row")


def _standing(files: Sequence[File], replaces: Mapping[str, str]) -> list[File]:
    """Leave out the files that a correction replaces."""
    names = {Path(file.name).name for file in files}
    for new in replaces:
        if new not in names:
            raise VotesError(f"votes.replaces: no source has the file {new}; check its name")
    return [file for file in files if Path(file.name).name not in replaces.values()]


def arrivals(files: pl.DataFrame, before: pl.DataFrame | None) -> pl.DataFrame:
    """Say of every file what it is to the intake before this one: (file, arrival, rows).

    arrival: new, unchanged, renamed (known content under a new name), changed (a known name with
    other content: grown or corrected), repeated (all of it is in another file), left out (it cannot
    be used) or gone.
    """
    before = pl.DataFrame(schema=FILES) if before is None else before
    last = before.select("file", before="fingerprint").unique("file", keep="last")
    known = pl.col("before").is_not_null()
    arrival = (
        pl.when(pl.col("fault").is_not_null())
        .then(pl.lit("left out"))
        .when(pl.col("repeats").is_not_null())
        .then(pl.lit("repeated"))
        .when(pl.col("before") == pl.col("fingerprint"))
        .then(pl.lit("unchanged"))
        .when(known)
        .then(pl.lit("changed"))
        .when(pl.col("fingerprint").is_in(last["before"].implode()))
        .then(pl.lit("renamed"))
        .otherwise(pl.lit("new"))
    )
    now = files.join(last, on="file", how="left", maintain_order="left")
    gone = before.join(files, on="file", how="anti").join(files, on="fingerprint", how="anti")
    said = (now.with_columns(arrival=arrival), gone.with_columns(arrival=pl.lit("gone")))
    return pl.concat(one.select("file", "arrival", "rows") for one in said)
