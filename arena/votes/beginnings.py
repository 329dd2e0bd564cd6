"""Which file is the beginning of which: one that was cut off, or that has grown since.

Text is compared byte by byte (a JSON list without its closing bracket), parquet row by row, so that
a daily export of everything so far counts each vote once, whatever the exports are called.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from arena.schema import KNOWN_COLUMNS
from arena.votes.files import PARQUET, parquet_batches, parquet_columns
from arena.votes.raw import VotesError

HEAD = 1 << 12
BLOCK = 1 << 20
ROWS = 1 << 16


@dataclass(frozen=True)
class _Start:
    """How a file begins: its first bytes, and its first row where it is a sound parquet."""

    path: Path
    head: bytes
    size: int  # in bytes
    row: str | None = None
    rows: int = 0


def beginnings(paths: Sequence[Path]) -> dict[int, int]:
    """Return place -> place of the longest file that begins with all of that one."""
    if len(paths) < 2:
        return {}
    starts = [_start(path) for path in paths]
    found: dict[int, int] = {}
    for short, long in [*_pairs_of_rows(starts), *_pairs_of_bytes(starts)]:
        best = found.get(short)
        if best is None or (starts[long].rows, starts[long].size) > (
            starts[best].rows,
            starts[best].size,
        ):
            found[short] = long
    return found


def _pairs_of_rows(starts: Sequence[_Start]) -> Iterator[tuple[int, int]]:
    """Yield (shorter, longer) of the tables of which one begins with the other."""
    alike: dict[str, list[int]] = {}
    for k, start in enumerate(starts):
        if start.row is not None:
            alike.setdefault(start.row, []).append(k)
    for group in alike.values():
        for short, long in permutations(group, 2):
            one, other = starts[short], starts[long]
            if one.rows < other.rows and _same_rows(one.path, other.path):
                yield short, long


def _pairs_of_bytes(starts: Sequence[_Start]) -> Iterator[tuple[int, int]]:
    """Yield (shorter, longer) of the files of which one begins with the other's bytes."""
    # In this order all that begin like a file follow it at once.
    order = sorted(range(len(starts)), key=lambda k: (starts[k].head, starts[k].size))
    for place, short in enumerate(order):
        if starts[short].row is not None:
            continue
        for long in order[place + 1 :]:
            if not starts[long].head.startswith(starts[short].head):
                break
            if starts[long].size > starts[short].size and _same_bytes(starts[short], starts[long]):
                yield short, long


def _start(path: Path) -> _Start:
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(HEAD)
        if head.lstrip().startswith(b"["):
            stream.seek(max(size - HEAD, 0))
            tail = stream.read()
            size -= len(tail) - len(tail.rstrip().removesuffix(b"]").rstrip())
    if head.startswith(PARQUET):
        try:
            names = _known(path)
            batch = next(parquet_batches(path, names, 1), None)
            if batch is not None:
                row = repr((names, batch.to_pylist()))
                return _Start(path, head, size, row, pq.read_metadata(path).num_rows)
        except (VotesError, pa.ArrowException, OSError):
            pass  # cut off: its bytes are all that is known of it
    return _Start(path, head[:size], size)


def _known(path: Path) -> list[str]:
    return [name for name in parquet_columns(path) if name in KNOWN_COLUMNS]


def _same_bytes(short: _Start, long: _Start) -> bool:
    left = short.size
    with short.path.open("rb") as one, long.path.open("rb") as other:
        while left > 0:
            n = min(left, BLOCK)
            if one.read(n) != other.read(n):
                return False
            left -= n
    return True


def _same_rows(short: Path, long: Path) -> bool:
    """Tell whether every row of one table is the row at the same place of the other."""
    names = _known(short)
    ours, theirs = (_slices(path, names) for path in (short, long))
    one = next(ours, None)
    other = next(theirs, None)
    while one is not None and other is not None:
        n = min(len(one), len(other))
        if not one.slice(0, n).equals(other.slice(0, n)):
            return False
        one = one.slice(n) if len(one) > n else next(ours, None)
        other = other.slice(n) if len(other) > n else next(theirs, None)
    return one is None


def _slices(path: Path, names: list[str]) -> Iterator[pa.RecordBatch]:
    return (batch for batch in parquet_batches(path, names, ROWS) if len(batch))
