"""Votes by the hundred million: from parquet in batches, and only the columns that are needed.

Accepts and rejects the same rows as `open`; whatever is not plain parquet goes through it.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numba import njit

from arena.ratings.comparisons import Comparisons
from arena.schema import OUTCOMES, REQUIRED, VOTES
from arena.votes.check import LAST_YEAR, check
from arena.votes.deliveries import delivered
from arena.votes.files import saying
from arena.votes.formats import format_of
from arena.votes.identity import CONTENT, positions, vote_ids
from arena.votes.open import read_votes
from arena.votes.rankings import fault_of_name, of_rankings
from arena.votes.raw import Raw, rejections
from arena.votes.sources import File, as_url, expanded

BATCH = 1 << 20
LAST = int(datetime(LAST_YEAR, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
NEVER = np.iinfo(np.int64).max  # the time of a vote without one: after all others


def read_comparisons(paths: Sequence[Path | str]) -> tuple[Comparisons, int]:
    """Return (the comparisons of all files in time order, how many rows were rejected).

    A K-wise vote counts as its pairs.
    """
    plain = _plain(paths)
    if plain is None:
        reading = read_votes(paths)
        return Comparisons.of(reading.votes), reading.rejected.height
    return _read_plain(plain)


def read_ballots(
    paths: Sequence[Path | str],
) -> tuple[Comparisons | pl.DataFrame, pl.DataFrame | None, int]:
    """Return (pairwise votes, K-wise votes or None without any, how many rows were rejected).

    As `read_comparisons`, but a K-wise vote is a row of `schema.RANKINGS` and no pair of it is
    among the pairwise votes, which then are a table that holds their times.
    """
    plain = _plain(paths)
    if plain is not None:
        comparisons, rejected = _read_plain(plain)
        return comparisons, None, rejected
    reading = read_votes(paths)
    if reading.rankings.is_empty():
        return reading.votes, None, reading.rejected.height
    pairwise = reading.votes.filter(~of_rankings(reading.votes, reading.rankings))
    return pairwise, reading.rankings, reading.rejected.height


def _read_plain(plain: Sequence[tuple[int, Path]]) -> tuple[Comparisons, int]:
    rows = sum(pq.read_metadata(path).num_rows for _, path in plain)
    a, b = np.empty(rows, np.int32), np.empty(rows, np.int32)
    outcome, time = np.empty(rows, np.int8), np.empty(rows, np.int64)
    models: dict[str, int] = {}
    outcomes = {name: code for code, name in enumerate(OUTCOMES)}
    n = 0
    for _, path in plain:
        for batch in _batches(path, (*REQUIRED, "created_at", "confidence")):
            one, two = (_codes(batch.column(name), models) for name in ("model_a", "model_b"))
            won = _codes(batch.column("outcome"), outcomes, closed=True)
            when, confident = _microseconds(batch), _confident(batch)
            n = _accept(n, *one, *two, *won, when, confident, a, b, outcome, time)
    a, b, outcome, time = a[:n], b[:n], outcome[:n], time[:n]
    # A name that only rejected rows have is no model.
    used = _used(len(models), a, b)
    names = sorted(name for name, code in models.items() if used[code])
    rank = np.empty(len(models), np.int32)
    rank[[models[name] for name in names]] = np.arange(len(names))
    _recode(rank, a, b)
    if not _in_order(time):
        order = np.argsort(time, kind="stable")
        a, b, outcome = a[order], b[order], outcome[order]
    return Comparisons(names, a, b, outcome), rows - n


def votes_in_batches(paths: Sequence[Path | str]) -> Iterator[pl.DataFrame]:
    """Yield the accepted votes in input order, with the columns that gaps need.

    vote_id, model_a, model_b and outcome; the rest of `CONTENT` is read only where it makes a
    missing vote_id.
    """
    plain = _plain(paths)
    if plain is None:
        yield read_votes(paths).votes.select("vote_id", *REQUIRED)
        return
    for ordinal, path in plain:
        row = 1
        for batch in _batches(path, ("vote_id", *CONTENT, "confidence")):
            raw = Raw(pl.DataFrame(batch).with_row_index("row", offset=row), rejections([]))
            votes, _ = check(raw, path)
            if votes["vote_id"].null_count():
                made = vote_ids(votes, positions(votes["row"], ordinal))
                votes = votes.with_columns(pl.col("vote_id").fill_null(made))
            yield votes.select("vote_id", *REQUIRED)
            row += len(batch)


def _plain(paths: Sequence[Path | str]) -> list[tuple[int, Path]] | None:
    """Return (ordinal, file) of every delivery where all are plain parquet, else None."""
    if any(as_url(path) for path in paths):
        return None
    files = [File(path, str(path)) for given in paths for path in expanded(Path(given))]
    if not all(_is_plain(file.path) for file in files):
        return None
    if len(files) == 1:
        return [(0, files[0].path)]
    deliveries = enumerate(delivered(files))
    kept = [(ordinal, one.file.path) for ordinal, one in deliveries if one.repeats is None]
    return None if _repeats_an_id([path for _, path in kept]) else kept


def _is_plain(path: Path) -> bool:
    """Tell whether a file is parquet with columns of the usual types and no vote_id twice."""
    if format_of(path) != "parquet":
        return False
    schema = pq.read_schema(path)
    for name in set(schema.names) & set(VOTES):
        kind = schema.field(name).type
        if name == "created_at":
            usual = pa.types.is_timestamp(kind)
        elif name == "confidence":
            usual = pa.types.is_floating(kind)
        else:
            usual = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        if not usual:
            return False
    return set(REQUIRED) <= set(schema.names) and not _repeats_an_id([path])


def _repeats_an_id(paths: Sequence[Path]) -> bool:
    # Eight bytes an id: equal hashes only send the files the slower way round.
    digests = [
        pl.Series(batch.column("vote_id")).drop_nulls().hash().to_numpy()
        for path in paths
        if "vote_id" in pq.read_schema(path).names
        for batch in _batches(path, ("vote_id",))
    ]
    digest = np.sort(np.concatenate(digests)) if digests else np.empty(0, np.uint64)
    return bool(np.any(digest[1:] == digest[:-1]))


def _batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    coded = [name for name in REQUIRED if "vote_id" not in columns]
    with saying(path), pq.ParquetFile(path, read_dictionary=coded) as file:
        present = [name for name in columns if name in file.schema_arrow.names]
        yield from file.iter_batches(batch_size=BATCH, columns=present)


def _codes(
    column: pa.Array, known: dict[str, int], closed: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return (code, index): row k's number in `known` is code[index[k]], -1 where unusable.

    Names are added to `known` unless closed.
    """
    values = column.dictionary.to_pylist()
    code = np.full(len(values) + 1, -1, np.int32)
    for place, value in enumerate(values):
        if value in known:
            code[place] = known[value]
        elif not closed and value is not None and fault_of_name(value) is None:
            code[place] = known[value] = len(known)
    return code, _numbers(column.indices, len(values), np.int32)


def _confident(batch: pa.RecordBatch) -> np.ndarray:
    """Return whether each row's confidence is one that `check` accepts; empty where all are."""
    if "confidence" not in batch.schema.names:
        return np.ones(0, bool)
    confidence = pl.Series(batch.column("confidence"))
    return (confidence.is_between(0, 1) | confidence.is_null()).to_numpy()


def _microseconds(batch: pa.RecordBatch) -> np.ndarray:
    """Return each row's time since 1970, NEVER where it is unknown; empty where none is known."""
    if "created_at" not in batch.schema.names:
        return np.empty(0, np.int64)
    time = batch.column("created_at")
    if time.type.unit != "us":
        time = time.cast(pa.timestamp("us", time.type.tz), safe=False)
    return _numbers(time.view(pa.int64()), NEVER, np.int64)


def _numbers(column: pa.Array, absent: int, kind: type) -> np.ndarray:
    """Return the numbers as they lie in memory (`to_numpy` would import pandas)."""
    if column.null_count:
        column = column.fill_null(absent)
    return np.frombuffer(column.buffers()[1], kind)[column.offset : column.offset + len(column)]


@njit(cache=True, nogil=True)
def _accept(
    n: int,
    code_a: np.ndarray,
    index_a: np.ndarray,
    code_b: np.ndarray,
    index_b: np.ndarray,
    code_outcome: np.ndarray,
    index_outcome: np.ndarray,
    when: np.ndarray,
    confident: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    outcome: np.ndarray,
    time: np.ndarray,
) -> int:
    """Append a batch's usable rows at n; return how many there are then."""
    for k in range(len(index_a)):
        i, j, won = code_a[index_a[k]], code_b[index_b[k]], code_outcome[index_outcome[k]]
        t = when[k] if len(when) else NEVER
        if i < 0 or j < 0 or won < 0 or not (t < LAST or t == NEVER):
            continue
        if len(confident) and not confident[k]:
            continue
        a[n], b[n], outcome[n], time[n] = i, j, won, t
        n += 1
    return n


@njit(cache=True, nogil=True)
def _used(models: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    used = np.zeros(models, np.bool_)
    for k in range(len(a)):
        used[a[k]] = used[b[k]] = True
    return used


@njit(cache=True, nogil=True)
def _recode(rank: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    for k in range(len(a)):
        a[k], b[k] = rank[a[k]], rank[b[k]]


@njit(cache=True, nogil=True)
def _in_order(time: np.ndarray) -> bool:
    for k in range(1, len(time)):  # noqa: SIM110
        if time[k] < time[k - 1]:
            return False
    return True
