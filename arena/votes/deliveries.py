"""Which files are the same delivery: by content, whatever they are called and however packed.

Only what can be votes makes a file's fingerprint, so the images in it cost nothing.
"""

import hashlib
import tarfile
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from arena.votes.columnar import Columnar, is_large
from arena.votes.containers import open_table
from arena.votes.faults import VotesError, saying
from arena.votes.packed import unpacked
from arena.votes.samples import MOST_TEXT, is_image
from arena.votes.sources import File


def repeated(files: Sequence[File]) -> dict[int, int]:
    """Return the place of each file whose whole content another has -> the place of the first."""
    if len(files) < 2:
        return {}
    first: dict[str, int] = {}
    places = [first.setdefault(fingerprint(file), k) for k, file in enumerate(files)]
    return {k: place for k, place in enumerate(places) if place != k}


def fingerprint(file: File) -> str:
    """Return a hash of what the arena may read of a file.

    Raises VotesError where it cannot be opened; a file that is no table is hashed by its bytes.
    """
    digest = hashlib.sha256()
    with file.named():
        try:
            kind = open_table(file.path).kind
        except VotesError:
            kind = "bytes"
        try:
            if kind in ("parquet", "arrow"):
                _add_columns(file.path, digest)
            elif kind == "tar":
                _add_tar(file.path, digest)
            else:
                kind = "bytes"
        except VotesError:
            digest, kind = hashlib.sha256(), "bytes"  # spoiled further on
        if kind == "bytes":
            with unpacked(file.path) as stream, saying(file.path):
                while block := stream.read(1 << 20):
                    digest.update(block)
    return f"{kind}:{digest.hexdigest()}"


def _add_columns(path: Path, digest: "hashlib._Hash") -> None:
    """Hash the values of typed columns, however the file has cut and packed them."""
    table = open_table(path)
    assert isinstance(table, Columnar)
    names = [name for name in table.fields if not is_large(table.fields[name])]
    columns = {name: hashlib.sha256() for name in names}
    for frame in table.frames(names):
        for name, column in columns.items():
            if frame.is_empty():
                continue
            values = frame[name]
            if values.dtype.is_nested():
                values = pl.Series([repr(each) for each in values.to_list()], dtype=pl.String)
            texts = values.cast(pl.String).fill_null("\0").str.join("\x1f").item()
            column.update(f"{texts}\x1f".encode())
    for name, column in columns.items():
        digest.update(f"{name} {table.fields[name]} {column.hexdigest()}\n".encode())


def _add_tar(path: Path, digest: "hashlib._Hash") -> None:
    """Hash every member's header, and the content of those that are no images."""
    with saying(path), tarfile.open(path, "r:") as archive:
        for member in archive:
            digest.update(f"{member.name}\0{member.size}\0{member.mtime}\0".encode())
            if not is_image(member.name) and member.size <= MOST_TEXT:
                content = archive.extractfile(member)
                digest.update(content.read() if content else b"")
