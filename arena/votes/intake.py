"""Votes to a table on disk, a batch at a time, so that their number is no matter.

`take_in` is what the pipeline's first stage does: it reads what the sources hold now and writes
three tables whole. Nothing is carried over from an earlier run, so being killed and started again,
or getting the same files in another order of arrival, ends in the same tables.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from arena.atomic import replacing
from arena.schema import RANKINGS, REJECTED, VOTES
from arena.votes.deliveries import Delivery, delivered
from arena.votes.open import PLACE, ROW, Options, parts, rows_again, unique
from arena.votes.rankings import pairs_of
from arena.votes.raw import VotesError
from arena.votes.sources import File, staged
from arena.votes.written import Places, Table, repeated, without

FILES: dict[str, Any] = {
    "file": pl.String,
    "format": pl.String,
    "fingerprint": pl.String,  # of what the arena reads of it
    "repeats": pl.String,  # the file that has all of its content, else null
    "rows": pl.Int64,
    "accepted": pl.Int64,
    "rejected": pl.Int64,
    "duplicates": pl.Int64,
}

# A file this bad is another format or another meaning, not votes with a few slips.
MOST_REJECTED = 0.2
NAMED_REASONS = 3
AS_THEY_ARE = Options()


class TooManyRejected(VotesError):
    """So much of a file cannot be used that it is better to look at it first."""


@dataclass
class _Counts:
    """One file's rows as they come in."""

    format: str
    rows: int = 0
    accepted: int = 0
    rejected: int = 0
    duplicates: int = 0
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    first: dict[tuple[str, str], int] = field(default_factory=dict)

    def see(self, rejected: pl.DataFrame) -> None:
        """Count the reasons of these rejections."""
        for row, column, reason in rejected.select("row", "column", "reason").iter_rows():
            self.reasons[column, reason] += 1
            self.first.setdefault((column, reason), row)

    def check(self, name: str, most: float) -> None:
        """Raise TooManyRejected with the commonest reasons where there are too many."""
        if self.rejected <= most * self.rows:
            return
        said = "; ".join(
            f"{count:,} x {' '.join(key).strip()} (first in row {self.first[key]})"
            for key, count in self.reasons.most_common(NAMED_REASONS)
        )
        raise TooManyRejected(
            f"{name}: {self.rejected:,} of {self.rows:,} rows cannot be used, more than "
            f"{most:.0%}: {said}; mend the file, or raise votes.most_rejected"
        )


def take_in(
    sources: Sequence[Path | str],
    votes: Path,
    rankings: Path,
    rejected: Path,
    *,
    options: Options = AS_THEY_ARE,
    replaces: Mapping[str, str] | None = None,
    most_rejected: float = MOST_REJECTED,
) -> pl.DataFrame:
    """Write the sources' votes, K-wise votes and rejections; return a row of `FILES` for each file.

    replaces: file name -> name of the file whose votes it corrects, which is then not read.
    Raises VotesError where a file cannot be read, TooManyRejected where more than this share of one
    was rejected; the tables of before are then untouched.
    """
    with staged(sources) as files, ExitStack() as stack:
        deliveries = delivered(_standing(files, replaces or {}))
        asides = [stack.enter_context(replacing(path)) for path in (votes, rejected)]
        with Table(asides[0], VOTES) as accepted, Table(asides[1], REJECTED) as refused:
            counts, ranked, rows = _read(deliveries, options, accepted, refused, most_rejected)
            dropped, clashes, same = repeated(accepted.close(), rows)
            refused.write(clashes)
            for name, count in clashes["file"].value_counts().iter_rows():
                counts[name].rejected += count
                counts[name].accepted -= count
            for name, count in same["file"].value_counts().iter_rows():
                counts[name].duplicates += count
                counts[name].accepted -= count
        if len(dropped):
            without(asides[0], dropped)
        with replacing(rankings) as aside:
            ranked.select(*RANKINGS).write_parquet(aside)
        return _files(deliveries, counts)


def _standing(files: Sequence[File], replaces: Mapping[str, str]) -> list[File]:
    """Leave out the files that a correction replaces."""
    names = {file.name.rpartition("/")[2] for file in files}
    for new in replaces:
        if new not in names:
            raise VotesError(f"votes.replaces: no source has the file {new}; check its name")
    return [file for file in files if file.name.rpartition("/")[2] not in replaces.values()]


def _read(
    deliveries: Sequence[Delivery],
    options: Options,
    accepted: Table,
    refused: Table,
    most_rejected: float,
) -> tuple[dict[str, _Counts], pl.DataFrame, Places]:
    """Write every file's votes and rejections; return counts by file, K-wise votes and places."""
    counts: dict[str, _Counts] = {}
    ranked = pl.DataFrame(schema=ROW | RANKINGS | PLACE)
    rows = Places()
    for ordinal, delivery in enumerate(deliveries):
        name = delivery.file.name
        if delivery.repeats is not None:
            again = rows_again(delivery, options)
            counts[name] = _Counts("", rows=again, duplicates=again)
            continue
        with delivery.file.named():
            count = counts[name] = _Counts(options.format_of(delivery.file.path))
        for part in parts(delivery.file, ordinal, options):
            accepted.write(part.votes)
            rows.add(name, part.votes)
            kept, clashes, same = unique(pl.concat([ranked, part.rankings.select(ranked.columns)]))
            fresh, ranked = kept[ranked.height :], kept
            pairs = pairs_of(fresh).with_columns(row=pl.lit(None, pl.Int64))
            accepted.write(pairs)
            rows.add(name, pairs)
            rejected = pl.concat([part.rejected, clashes])
            refused.write(rejected)
            count.see(rejected)
            count.rows += part.rows
            count.accepted += part.votes.height + int(fresh["rows"].sum())
            count.rejected += rejected.height
            count.duplicates += part.duplicates + same.height
        count.check(name, most_rejected)
    return counts, ranked, rows


def _files(deliveries: Sequence[Delivery], counts: Mapping[str, _Counts]) -> pl.DataFrame:
    rows = [
        (
            one.file.name,
            counts[one.file.name].format or None,
            one.fingerprint,
            one.repeats.name if one.repeats else None,
            *(getattr(counts[one.file.name], n) for n in list(FILES)[4:]),
        )
        for one in deliveries
    ]
    return pl.DataFrame(rows, schema=FILES, orient="row")


def arrivals(files: pl.DataFrame, before: pl.DataFrame | None) -> pl.DataFrame:
    """Say of every file what it is to the intake before this one: (file, arrival, rows).

    arrival: new, unchanged, renamed (known content under a new name), changed (a known name with
    other content: grown or corrected), repeated (all of it is in another file) or gone.
    """
    before = pl.DataFrame(schema=FILES) if before is None else before
    known = dict(before.select("file", "fingerprint").iter_rows())
    contents = set(known.values())
    said = []
    for one in files.iter_rows(named=True):
        name, content = one["file"], one["fingerprint"]
        if one["repeats"] is not None:
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
