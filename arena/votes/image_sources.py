"""Files that hold many images: parquets and tars, indexed by the names that they tell.

A source has `places`, from each name to where its bytes are, and `at`, which reads them from any
thread. Nothing is decoded here.
"""

import json
import os
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from arena.escape import printable
from arena.votes.limits import MOST_BYTES, MOST_TEXT
from arena.votes.regular import regular

# Where a parquet keeps an image's name and where its bytes.
COLUMNS = (("image", "bytes"), ("image_0_uid", "jpg_0"), ("image_1_uid", "jpg_1"))
KEPT = 1 << 28  # bytes of row groups in memory


class ImageFault(ValueError):
    """An image that cannot be trained on, and why; its votes stay in the arena."""

    def __init__(self, said: str) -> None:
        super().__init__(printable(said))


def open_source(path: Path, kept: "RowGroups") -> "ParquetSource | TarSource":
    """Open and index a source. Raises ValueError for one that cannot be read."""
    try:
        with regular(path) as stream:
            kept_in_parquet = stream.read(4) == b"PAR1"
        return ParquetSource(path, kept) if kept_in_parquet else TarSource(path)
    except (pa.ArrowException, tarfile.TarError, EOFError, OSError) as error:
        said = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise ValueError(f"{path}: cannot be read ({said}); deliver it again") from None


class RowGroups:
    """The columns of row groups that were read last: at most KEPT bytes of them, or one."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.held: dict[tuple[Path, int, str], Any] = {}

    def get(self, file: pq.ParquetFile, key: tuple[Path, int, str]) -> Any:
        """Return the column of a row group; key: (path, row group, column)."""
        with self.lock:
            if key not in self.held:
                _, group, name = key
                self.held[key] = _flat(file.read_row_group(group, [name]), name)
                while len(self.held) > 1 and sum(x.nbytes for x in self.held.values()) > KEPT:
                    del self.held[next(iter(self.held))]
            return self.held[key]


class ParquetSource:
    """places: name -> row x columns + column."""

    def __init__(self, path: Path, kept: RowGroups):
        self.path, self.file, self.kept = path, pq.ParquetFile(path), kept
        schema = self.file.schema_arrow
        there = set(schema.names)
        self.columns = [pair for pair in COLUMNS if there.issuperset(pair)]
        for field in schema:  # the hub's image columns: a path and bytes in one cell
            if pa.types.is_struct(field.type) and {"path", "bytes"} <= {f.name for f in field.type}:
                self.columns.append((f"{field.name}.path", f"{field.name}.bytes"))
        rows = [self.file.metadata.row_group(k).num_rows for k in range(self.file.num_row_groups)]
        self.starts = np.concatenate([[0], np.cumsum(rows)])
        self.places: dict[str, Any] = {}
        for column, (name, _) in enumerate(self.columns):
            named = _flat(self.file.read([name]), name).to_pylist()
            for row, each in enumerate(named):
                if each is not None:
                    self.places.setdefault(str(each), row * len(self.columns) + column)

    def at(self, place: int) -> bytes:
        """Return the bytes at a place. Raises ImageFault where there are none."""
        row, column = divmod(place, len(self.columns))
        group = int(np.searchsorted(self.starts, row, side="right")) - 1
        try:
            held = self.kept.get(self.file, (self.path, group, self.columns[column][1]))
        except (pa.ArrowException, OSError) as error:
            said = str(error).splitlines()[0]
            raise ImageFault(f"{self.path} cannot be read ({said})") from None
        found = held[row - self.starts[group]].as_py()
        found = found.get("bytes") if isinstance(found, dict) else found
        if not isinstance(found, bytes):
            raise ImageFault("the table has no bytes for it")
        return found


def _flat(table: pa.Table, name: str) -> Any:
    """Return a column, or a field of a struct by `column.field`."""
    column = table.column(0)
    if "." in name and pa.types.is_struct(column.type):
        return pa.chunked_array([part.field(name.rpartition(".")[2]) for part in column.chunks])
    return column


class TarSource:
    """places: `file.tar::member`, and the uid that a member's sample tells -> (offset, size)."""

    def __init__(self, path: Path):
        self.path = path
        with tarfile.open(path, "r:") as archive:
            inside = list(members(archive))
            uids = _uids(archive, inside)
        self.places: dict[str, Any] = {}
        for member in inside:
            place = (member.offset_data, member.size)
            self.places[f"{path.name}::{member.name}"] = place
            sample, column = sample_of(member.name)
            if column in ("jpg_0", "jpg_1") and (uid := uids.get((sample, column[-1]))):
                self.places.setdefault(uid, place)
        self.stream = path.open("rb")

    def at(self, place: tuple[int, int]) -> bytes:
        """Return the bytes at a place. Raises ImageFault for too many."""
        offset, size = place
        if size > MOST_BYTES:
            raise ImageFault(f"more than {MOST_BYTES:,} bytes")
        return os.pread(self.stream.fileno(), size, offset)


def members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the files of a tar. Raises TarError for one without a plain size.

    A negative size would lead backwards, for ever.
    """
    for member in archive:
        if member.size < 0 or member.issparse():
            raise tarfile.ReadError(f"a member of {member.size:,} bytes")
        if member.isfile():
            yield member


def is_image(member: str) -> bool:
    """Tell whether a member of a tar is one of the two images."""
    return sample_of(member)[1] in ("jpg_0", "jpg_1")


def sample_of(member: str) -> tuple[str, str]:
    """Return (sample, column) of a member's name."""
    folder, _, name = member.rpartition("/")
    key, _, extension = name.partition(".")
    return f"{folder}/{key}", extension.split(".")[0]


def _uids(archive: tarfile.TarFile, inside: list[tarfile.TarInfo]) -> dict[tuple[str, str], str]:
    """Return (sample, 0 or 1) -> uid, from the members that tell it."""
    found: dict[tuple[str, str], str] = {}
    for member in inside:
        sample, column = sample_of(member.name)
        if column not in ("json", "image_0_uid", "image_1_uid"):
            continue
        stream = archive.extractfile(member)
        text = (stream.read(MOST_TEXT) if stream else b"").decode("utf-8", "replace").strip()
        try:
            record = json.loads(text) if column == "json" else {column: text}
        except (ValueError, RecursionError):
            continue  # the votes' reader has rejected this sample
        for side in "01" if isinstance(record, dict) else "":
            if uid := record.get(f"image_{side}_uid"):
                found[sample, side] = str(uid)
    return found
