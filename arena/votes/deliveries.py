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
from arena.votes.faults import UNREADABLE, sentence
from arena.votes.limits import MOST_TEXT
from arena.votes.packed import opened
from arena.votes.samples import Samples, is_image, members
from arena.votes.sources import File


def repeated(files: Sequence[File]) -> dict[int, int]:
    """Return the place of each file whose whole content another has -> the place of the first."""
    first: dict[str, int] = {}
    places = [first.setdefault(fingerprint(file), k) for k, file in enumerate(files)]
    return {k: place for k, place in enumerate(places) if place != k}


def fingerprint(file: File) -> str:
    """Return a hash of what the arena may read of a file.

    Raises VotesError where it cannot be opened; a file that is no table is hashed by its bytes.
    """
    digest, kind = hashlib.sha256(), "bytes"
    try:
        table = open_table(file.path)
        kind = table.kind if isinstance(table, Columnar | Samples) else kind
        if isinstance(table, Columnar):
            _add_columns(table, digest)
        elif isinstance(table, Samples):
            _add_tar(file.path, digest)
    except UNREADABLE:
        digest, kind = hashlib.sha256(), "bytes"  # spoiled further on
    if kind == "bytes":
        try:
            with opened(file.path) as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
        except UNREADABLE as error:
            raise sentence(error, file.name) from None
    return f"{kind}:{digest.hexdigest()}"


def _add_columns(table: Columnar, digest: "hashlib._Hash") -> None:
    """Hash the values of typed columns, however the file has cut and packed them."""
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
    with tarfile.open(path, "r:") as archive:
        for member in members(archive):
            digest.update(f"{member.name}\0{member.size}\0{member.mtime}\0".encode())
            if not is_image(member.name) and member.size <= MOST_TEXT:
                content = archive.extractfile(member)
                digest.update(content.read() if content else b"")
