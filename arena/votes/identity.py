"""A name for every vote that came without one.

The hash must be the same on every machine and for every version of every library, because gaps are
joined to votes by it, so it is written out here: FNV-1a over each text, mixed across columns and
with the row's position by splitmix64.
"""

import numpy as np
import polars as pl
import pyarrow as pa
from numba import njit

_OFFSET = np.uint64(0xCBF29CE484222325)
_PRIME = np.uint64(0x100000001B3)
_ABSENT = np.uint64(0x9E3779B97F4A7C15)

# What makes a vote itself. Its source is left out: renaming a file changes no vote.
CONTENT = (
    "model_a",
    "model_b",
    "outcome",
    "prompt_id",
    "prompt",
    "image_a",
    "image_b",
    "rater",
    "created_at",
)


def vote_ids(votes: pl.DataFrame, position: np.ndarray) -> pl.Series:
    """Return 16 hexadecimal digits a row: a hash of the row's content and position.

    votes: the columns of `CONTENT` that are known (an absent one counts as null). position: (n,),
    the row's place among all rows read, so that two raters' equal votes stay two votes.
    """
    digest = np.asarray(position, dtype=np.uint64).copy()
    _mix(digest)
    for name in CONTENT:
        if name not in votes.columns:
            _absent(digest)
            continue
        column = votes[name]
        if column.dtype == pl.Datetime:
            column = column.to_physical().cast(pl.String)
        offsets, data, valid = _text_buffers(column)
        _absorb(digest, offsets, data, valid)
    return _hexadecimal(digest)


def positions(row: pl.Series, ordinal: int) -> np.ndarray:
    """Return a position for every row (from 1) of the file that is number `ordinal`, from 0.

    What is added to one file moves no row of the next, so ids stay when a file grows.
    """
    return (row.to_numpy().astype(np.int64) - 1) + (ordinal << 40)


def _text_buffers(column: pl.Series) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    text = column.cast(pl.String).rechunk().to_arrow().cast(pa.large_string())
    _, offsets, data = text.buffers()
    start = text.offset
    return (
        np.frombuffer(offsets, np.int64)[start : start + len(text) + 1],
        np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8),
        column.is_not_null().to_numpy(),
    )


@njit(cache=True, nogil=True)
def _splitmix(x: np.uint64) -> np.uint64:
    x = np.uint64(x + np.uint64(0x9E3779B97F4A7C15))
    x = np.uint64((x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9))
    x = np.uint64((x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB))
    return np.uint64(x ^ (x >> np.uint64(31)))


@njit(cache=True, nogil=True)
def _mix(digest: np.ndarray) -> None:
    for i in range(len(digest)):
        digest[i] = _splitmix(digest[i])


@njit(cache=True, nogil=True)
def _absent(digest: np.ndarray) -> None:
    for i in range(len(digest)):
        digest[i] = _splitmix(digest[i] ^ _ABSENT)


@njit(cache=True, nogil=True)
def _absorb(digest: np.ndarray, offsets: np.ndarray, data: np.ndarray, valid: np.ndarray) -> None:
    for i in range(len(digest)):
        h = _ABSENT
        if valid[i]:
            h = _OFFSET
            for k in range(offsets[i], offsets[i + 1]):
                h = np.uint64((h ^ np.uint64(data[k])) * _PRIME)
        digest[i] = _splitmix(digest[i] ^ h)


def _hexadecimal(digest: np.ndarray) -> pl.Series:
    n = len(digest)
    text = np.empty(16 * n, np.uint8)
    _write_hexadecimal(digest, text)
    offsets = np.arange(0, 16 * n + 1, 16, dtype=np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(text)]
    return pl.Series("vote_id", pa.Array.from_buffers(pa.large_string(), n, buffers))


@njit(cache=True, nogil=True)
def _write_hexadecimal(digest: np.ndarray, text: np.ndarray) -> None:
    for i in range(len(digest)):
        for k in range(16):
            nibble = (digest[i] >> np.uint64(60 - 4 * k)) & np.uint64(15)
            text[16 * i + k] = nibble + (48 if nibble < 10 else 87)
