"""Which files are the same delivery: by content, whatever they are called.

A file that was delivered twice or renamed has the same fingerprint. One that was still being
written when it was copied, or that has grown since under another name, is the beginning of another
file: the longer one is read. Only what the arena reads of a file makes its fingerprint, so the
images in it cost nothing.
"""

import hashlib
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from arena.schema import KNOWN_COLUMNS
from arena.votes.beginnings import beginnings
from arena.votes.files import PARQUET, parquet_batches, reason
from arena.votes.pickapic import MOST_TEXT, is_image
from arena.votes.raw import VotesError
from arena.votes.sources import File

BATCH = 1 << 18


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
    alone = [one for one in found if one.repeats is None]
    longer = beginnings([one.file.path for one in alone])
    whole = {alone[short].file: alone[long].file for short, long in longer.items()}
    return [
        Delivery(one.file, one.fingerprint, one.repeats or whole.get(one.file)) for one in found
    ]


def fingerprint(file: File) -> str:
    """Return a hash of what the arena reads of a file, after a word for what was hashed.

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
    """Hash the columns that a reader knows, where there are images that it leaves alone.

    None where there are none, and for a file that is spoiled: then its bytes are hashed. (The
    offsets of the columns would be quicker, but a wrong one in a footer ends the whole process.)
    """
    try:
        schema = pq.read_schema(path)
        if not any(_is_large(field.type) for field in schema):
            return None
        known = [name for name in schema.names if name in KNOWN_COLUMNS]
        digest = hashlib.sha256(repr(known).encode())
        for batch in parquet_batches(path, known, BATCH):
            digest.update(batch.serialize())
    except (pa.ArrowException, OSError, ValueError):
        return None
    return f"parquet:{digest.hexdigest()}"


def _is_large(kind: pa.DataType) -> bool:
    binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return bool(binary or pa.types.is_nested(kind))


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
