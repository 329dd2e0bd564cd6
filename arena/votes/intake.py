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
from arena.schema import RANKINGS
from arena.votes.deliveries import fingerprint
from arena.votes.faults import VotesError
from arena.votes.read import with_pairs
from arena.votes.reader import Reader, merged
from arena.votes.reading import AS_THEY_ARE, Options
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
        reader = Reader(standing, options, most_rejected)
        pairwise, ranked, numbers = reader.whole()
        marks = [fingerprint(file) for file in standing]
    known = set() if before is None else set(before.filter(pl.col("accepted") > 0)["file"])
    faults = [file for file in reader.files if file.fault is not None]
    lost = next((file for file in faults if file.name in known), None)
    if lost is not None:
        raise VotesError(f"{lost.name}: was accepted before and cannot be now: {lost.fault}")
    if not sum(file.accepted for file in reader.files):
        why = f"; {faults[0].name}: {faults[0].fault}" if faults else ""
        raise VotesError(f"no vote can be used of {len(standing)} files{why}")
    with replacing(votes) as aside:
        with_pairs(pairwise, ranked, numbers).write_parquet(aside, compression="zstd")
    with replacing(rankings) as aside:
        ranked.select(*RANKINGS).write_parquet(aside)
    with replacing(rejected) as aside:
        merged(reader.rejected).write_parquet(aside)
    rows = [
        {name: getattr(said, name, None) for name in FILES}
        | {"file": said.name, "fingerprint": mark}
        for said, mark in zip(reader.files, marks, strict=True)
    ]
    return pl.DataFrame(rows, schema=FILES, orient="row")


def _standing(files: Sequence[File], replaces: Mapping[str, str]) -> list[File]:
    """Leave out the files that a correction replaces."""
    names = {file.base for file in files}
    for new in replaces:
        if new not in names:
            raise VotesError(f"votes.replaces: no source has the file {new}; check its name")
    return [file for file in files if file.base not in replaces.values()]


def arrivals(files: pl.DataFrame, before: pl.DataFrame | None) -> pl.DataFrame:
    """Say of every file what it is to the intake before this one: (file, arrival, rows).

    arrival: new, unchanged, renamed (known content under a new name), changed (a known name with
    other content: grown or corrected), repeated (all of it is in another file), left out (it cannot
    be used) or gone.
    """
    before = pl.DataFrame(schema=FILES) if before is None else before
    known = dict(before.select("file", "fingerprint").iter_rows())
    contents = set(known.values())
    said = []
    for one in files.iter_rows(named=True):
        name, content = one["file"], one["fingerprint"]
        if one["fault"] is not None:
            arrival = "left out"
        elif one["repeats"] is not None:
            arrival = "repeated"
        elif known.get(name) == content:
            arrival = "unchanged"
        elif name in known:
            arrival = "changed"
        else:
            arrival = "renamed" if content in contents else "new"
        said.append((name, arrival, one["rows"]))
    still = {*files["file"], *files.join(before, on="fingerprint", how="semi")["file"]}
    renamed = set(files["fingerprint"])
    said += [
        (one["file"], "gone", one["rows"])
        for one in before.iter_rows(named=True)
        if one["file"] not in still and one["fingerprint"] not in renamed
    ]
    schema = {"file": pl.String, "arrival": pl.String, "rows": pl.Int64}
    return pl.DataFrame(said, schema=schema, orient="row")
