"""Which files are the same delivery: by content, whatever they are called.

A file that was delivered twice or renamed has the same fingerprint. One that was still being
written when it was copied, or that has grown since under another name, is the beginning of another
file: the longer one is read. Only what the arena reads of a file makes its fingerprint, so the
images in it cost nothing.
"""

import hashlib
import struct
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from arena.votes.files import PARQUET, reason
from arena.votes.pickapic import MOST_TEXT, is_image
from arena.votes.raw import VotesError
from arena.votes.sources import KNOWN_COLUMNS, File

HEAD = 1 << 12


@dataclass(frozen=True)
class Delivery:
    """A file, its fingerprint, and the file that has all of its content, where one has."""

    file: File
    fingerprint: str
    repeats: File | None = None


def delivered(files: Sequence[File]) -> list[Delivery]:
    """Return every file's delivery, in order."""
    deliveries = [Delivery(file, fingerprint(file)) for file in files]
    first: dict[str, File] = {}
    found = []
    for one in deliveries:
        same = first.setdefault(one.fingerprint, one.file)
        found.append(Delivery(one.file, one.fingerprint, None if same is one.file else same))
    longer = _longer([one for one in found if one.repeats is None])
    return [
        Delivery(one.file, one.fingerprint, longer.get(one.fingerprint, one.repeats))
        if one.repeats is None
        else one
        for one in found
    ]


def fingerprint(file: File) -> str:
    """Return a hash of what the arena reads of a file; "bytes:" before it where that is all.

    Raises VotesError where it cannot be opened.
    """
    try:
        with file.path.open("rb") as stream:
            start = stream.read(512)
            stream.seek(0)
            special = _of_parquet if start.startswith(PARQUET) else None
            special = _of_tar if start[257:262] == b"ustar" else special
            found = special(stream, file.path) if special else None
            if found is not None:
                return found
            stream.seek(0)
            return f"bytes:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
    except OSError as error:
        raise VotesError(f"{file.name}: cannot be read ({reason(error)}); check the path") from None


def _of_parquet(stream: BinaryIO, path: Path) -> str | None:
    """Hash the footer and the stored pages of the columns that a reader knows.

    None for a file that is not what its footer says: then its bytes are all that is known of it.
    """
    size = path.stat().st_size
    try:
        metadata = pq.read_metadata(path)
        stream.seek(-8, 2)
        footer = struct.unpack("<I", stream.read(4))[0]
        stream.seek(-8 - footer, 2)
        digest = hashlib.sha256(stream.read(footer))
        for group in range(metadata.num_row_groups):
            for place in range(metadata.num_columns):
                column = metadata.row_group(group).column(place)
                if column.path_in_schema.split(".")[0] in KNOWN_COLUMNS:
                    stream.seek(_start(column))
                    digest.update(stream.read(min(column.total_compressed_size, size)))
    except (pa.ArrowException, OSError, ValueError):
        return None
    return f"parquet:{digest.hexdigest()}"


def _start(column: Any) -> int:
    offset: int = column.data_page_offset
    if column.has_dictionary_page and column.dictionary_page_offset:
        offset = min(offset, column.dictionary_page_offset)
    return offset


def _of_tar(stream: BinaryIO, path: Path) -> str | None:
    """Hash every member's header, and the content of those that are no images."""
    digest = hashlib.sha256()
    try:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                digest.update(f"{member.name}\0{member.size}\0{member.mtime}\0".encode())
                if not is_image(member.name) and member.size <= MOST_TEXT:
                    content = archive.extractfile(member)
                    digest.update(content.read() if content else b"")
    except (tarfile.TarError, EOFError, UnicodeError):
        return None
    return f"tar:{digest.hexdigest()}"


def _longer(deliveries: Sequence[Delivery]) -> dict[str, File]:
    """Return fingerprint -> file for every one that is the beginning of another."""
    plain = [one for one in deliveries if one.fingerprint.startswith("bytes:")]
    size = {one.fingerprint: one.file.path.stat().st_size for one in plain}
    every = {one.fingerprint: one.file for one in deliveries}
    heads = {key: _head(file.path) for key, file in every.items()}
    found = {}
    for short in plain:
        key, n = short.fingerprint, size[short.fingerprint]
        for other, file in every.items():
            begins = other != key and heads[other].startswith(heads[key])
            if (
                begins
                and file.path.stat().st_size > n
                and f"bytes:{_of_beginning(file.path, n)}" == key
            ):
                found[key] = file
                break
    # The beginning of a beginning is the beginning of the longest.
    for key in found:
        while (after := found.get(_key(found[key], every))) is not None:
            found[key] = after
    return found


def _key(file: File, every: dict[str, File]) -> str:
    return next(key for key, other in every.items() if other is file)


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(HEAD)


def _of_beginning(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while size > 0:
            block = stream.read(min(size, 1 << 20))
            digest.update(block)
            size -= len(block)
    return digest.hexdigest()
