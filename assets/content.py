"""What a thing is by content: one hash for a table's values, one for files and folders.

A table's version is a hash of its schema and its values, column by column, never of a file's bytes:
another pyarrow writes other bytes for equal values. A file's bytes are read once: their hash is
kept as long as the file's size and time stay as they are, within `known` across processes too.
"""

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    import polars as pl

# Words for types that no library's renaming can change.
KINDS = {
    pa.types.is_boolean: "bool",
    pa.types.is_integer: "integer",
    pa.types.is_floating: "float",
    pa.types.is_string: "text",
    pa.types.is_large_string: "text",
    pa.types.is_binary: "bytes",
    pa.types.is_large_binary: "bytes",
    pa.types.is_timestamp: "time",
    pa.types.is_date: "date",
    pa.types.is_null: "null",
}


SETTLED = 2 * 10**9  # nanoseconds
_hashes: dict[str, tuple[int, int, str]] = {}  # kind and path -> size, time of writing, hash


def table_version(path: Path, columns: Sequence[str] | None = None) -> str:
    """Return a hash of a parquet's columns by name, type, values and order of rows.

    columns: only these, in their order; None takes all in the file's order. How the rows are cut
    into groups, how they are packed and who wrote them does not count; nor does the order of other
    columns. Raises KeyError for a column that is not there.
    """
    with pq.ParquetFile(path, memory_map=True) as file:
        names = file.schema_arrow.names if columns is None else list(columns)
        digest = hashlib.sha256(str(file.metadata.num_rows).encode())
        for name in names:
            field = file.schema_arrow.field(name)
            batches = (batch.column(0) for batch in file.iter_batches(1 << 18, columns=[name]))
            digest.update(json.dumps([name, _kind(field.type)]).encode())
            digest.update(_values(field.type, batches))
    return digest.hexdigest()


def frame_version(frame: "pl.DataFrame") -> str:
    """Return the same hash for a frame in memory."""
    table = frame.to_arrow()
    digest = hashlib.sha256(str(table.num_rows).encode())
    for field, column in zip(table.schema, table.columns, strict=True):
        digest.update(json.dumps([field.name, _kind(field.type)]).encode())
        digest.update(_values(field.type, column.chunks))
    return digest.hexdigest()


def _kind(kind: pa.DataType) -> Any:
    if pa.types.is_dictionary(kind):
        return _kind(kind.value_type)
    if _is_list(kind):
        return [_kind(kind.value_type)]
    if pa.types.is_struct(kind):
        return {field.name: _kind(field.type) for field in kind}
    if type(kind).__name__ == "StringViewType" or str(kind) == "string_view":
        return "text"
    return next((word for test, word in KINDS.items() if test(kind)), str(kind))


def _is_list(kind: pa.DataType) -> bool:
    return any(
        test(kind)
        for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    )


def _values(kind: pa.DataType, chunks: Iterable[pa.Array]) -> bytes:
    """Hash a column's values and which of them are null, whatever the cuts between its chunks."""
    parts: dict[str, Any] = {}
    for chunk in chain([pa.array([], kind)], chunks):  # a column without a row has its parts too
        for part, content in _parts(chunk):
            parts.setdefault(part, hashlib.sha256()).update(content)
    joined = b"".join(part.encode() + parts[part].digest() for part in sorted(parts))
    return hashlib.sha256(joined).digest()


def _parts(array: pa.Array, at: str = "") -> Iterator[tuple[str, bytes]]:
    """Yield (place, bytes) of an array: which are null, then its values in one fixed layout."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        array, kind = array.dictionary_decode(), kind.value_type
    yield f"{at}null", np.asarray(array.is_null()).tobytes()
    if pa.types.is_null(kind):
        return
    if pa.types.is_struct(kind):
        for number, field in enumerate(kind):
            yield from _parts(array.field(number), f"{at}{field.name}.")
    elif _is_list(kind):
        counts = array.value_lengths().fill_null(0)
        yield f"{at}counts", np.asarray(counts).astype("<i8").tobytes()
        yield from _parts(array.flatten(), f"{at}items.")
    elif _kind(kind) in ("text", "bytes"):
        plain = array.cast(pa.large_binary()).fill_null(b"")
        offsets = np.frombuffer(plain.buffers()[1], "<i8")[plain.offset :][: len(plain) + 1]
        yield f"{at}counts", np.diff(offsets).tobytes()
        data = plain.buffers()[2]
        yield f"{at}text", bytes(memoryview(data)[offsets[0] : offsets[-1]]) if data else b""
    elif pa.types.is_floating(kind):
        numbers = np.asarray(array.cast(pa.float64()).fill_null(0.0)).astype("<f8")
        # One NaN for all, and one zero: equal values have equal bytes.
        numbers = np.where(np.isnan(numbers), np.nan, numbers + 0.0)
        yield f"{at}values", numbers.tobytes()
    elif pa.types.is_boolean(kind):
        yield f"{at}values", np.asarray(array.fill_null(False)).tobytes()
    elif pa.types.is_temporal(kind) and not pa.types.is_date32(kind):
        moments = array.cast(pa.timestamp("us", getattr(kind, "tz", None)), safe=False)
        yield f"{at}values", np.asarray(moments.cast(pa.int64()).fill_null(0)).tobytes()
    elif pa.types.is_date32(kind):
        yield f"{at}values", np.asarray(array.cast(pa.int32()).fill_null(0)).tobytes()
    elif pa.types.is_uint64(kind):
        yield f"{at}values", np.asarray(array.fill_null(0)).astype("<u8").tobytes()
    else:
        yield f"{at}values", np.asarray(array.cast(pa.int64()).fill_null(0)).astype("<i8").tobytes()


def content_hash(*paths: Path) -> str:
    """Return one sha256 over files and folders (names within, and bytes); order matters.

    Raises FileNotFoundError naming a path that is not there.
    """
    digest = hashlib.sha256()
    for path in paths:
        for name, file in files_of(path):
            digest.update(name.encode() + b"\0")
            digest.update(bytes.fromhex(file_hash(file)))
    return digest.hexdigest()


def files_of(path: Path) -> list[tuple[str, Path]]:
    """Return (its name within, path) of a file, or of every file of a folder, in order."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there, and the study names it")
    if path.is_file():
        return [("", path)]
    found = ((each.relative_to(path).as_posix(), each) for each in path.rglob("*"))
    return sorted((name, each) for name, each in found if each.is_file())


def file_hash(path: Path) -> str:
    """Return the sha256 of a file's bytes, which are read only where they may have changed."""
    return remembered("sha256", path, _file_hash)


def _file_hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remembered(kind: str, path: Path, hashed: Callable[[Path], str]) -> str:
    """Return `hashed(path)`, asked once for each size and time of the file; kind: of hash."""
    now, name = path.stat(), f"{kind} {path.resolve()}"
    seen = (now.st_size, now.st_mtime_ns)
    size, written, digest = _hashes.get(name, (-1, -1, ""))
    if (size, written) != seen:
        digest = hashed(path)
        # A file this young may be written again within the same tick of its clock.
        if time.time_ns() - now.st_mtime_ns > SETTLED:
            _hashes[name] = (*seen, digest)
    return digest


@contextmanager
def known(database: Path, keep: bool = True) -> Iterator[None]:
    """Remember the hashes of files in a database, so that the next process reads none again.

    keep: False only reads what is remembered.
    """
    before = dict(_hashes)
    if database.exists():
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as db:
            rows = db.execute("SELECT path, size, time, hash FROM files").fetchall()
        before |= {path: (size, written, digest) for path, size, written, digest in rows}
        _hashes.update(before)
    try:
        yield
    finally:
        new = [(name, *row) for name, row in _hashes.items() if before.get(name) != row]
        if keep and new:
            database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with closing(sqlite3.connect(database, timeout=60)) as db, db:
                db.execute(
                    "CREATE TABLE IF NOT EXISTS files "
                    "(path TEXT PRIMARY KEY, size INTEGER, time INTEGER, hash TEXT)"
                )
                db.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", new)


def combined_hash(*parts: str) -> str:
    """Return a short hash over other hashes and settings, to name a folder by its inputs."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
