"""A file's bytes, unpacked where it is gzip, zstd, bzip2, xz or a zip of one file."""

import bz2
import io
import lzma
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa

from arena.votes.faults import VotesError, line, saying

HEAD = 1 << 16

# Text packs by ten to thirty; a file that unpacks a hundredfold, past this size, is a bomb.
MOST_EXPANSION, UNSUSPECTED = 100, 1 << 28

PACKINGS = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bz2",
    b"\xfd7zXZ": "xz",
    b"PK\x03\x04": "zip",
}


class _Bounded(io.RawIOBase):
    """A stream of unpacked bytes that refuses to go on past a bound."""

    def __init__(self, stream: Any, path: Path, bound: int) -> None:
        self.stream, self.path, self.left = stream, path, bound

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self.stream.read(len(buffer))
        self.left -= len(content)
        if self.left < 0:
            raise VotesError(
                f"{self.path}: unpacks to more than {MOST_EXPANSION} times its size; "
                "unpack it yourself if you trust it"
            )
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self.stream.close()
        super().close()


def unpacked(path: Path) -> io.BufferedReader:
    """Open a file's bytes, unpacked where it begins as a packed one does.

    Raises VotesError where it cannot be opened; a stream that is cut off raises OSError later.
    """
    if path.exists() and not path.is_file():  # opening a pipe or a device may never end
        what = "a folder" if path.is_dir() else "no regular file"
        raise VotesError(f"{path}: is {what}; check the path")
    try:
        with path.open("rb") as stream:
            magic = stream.read(8)
    except OSError as error:
        said = line(error).lower()
        raise VotesError(f"{path}: cannot be read ({said}); check the path") from None
    packing = next((kind for start, kind in PACKINGS.items() if magic.startswith(start)), None)
    if packing is None:
        return path.open("rb")
    inner: Any
    if packing == "zip":
        inner = _only_member(path)
    elif packing in ("bz2", "xz"):
        inner = (bz2 if packing == "bz2" else lzma).open(path)
    else:
        inner = pa.input_stream(path, packing)
    bound = max(UNSUSPECTED, MOST_EXPANSION * path.stat().st_size)
    return io.BufferedReader(_Bounded(inner, path, bound), HEAD)


def _only_member(path: Path) -> Any:
    """Open the one file of a zip archive."""
    archive = zipfile.ZipFile(path)
    names = [one.filename for one in archive.infolist() if not one.is_dir()]
    names = [name for name in names if not name.startswith("__MACOSX/")]
    if "[Content_Types].xml" in names:
        raise VotesError(f"{path}: this is an Excel workbook; save the sheet as csv (UTF-8)")
    if len(names) != 1:
        raise VotesError(f"{path}: a zip archive of {len(names)} files; unpack it and name them")
    return archive.open(names[0])


def head(path: Path) -> bytes:
    """Return the first unpacked bytes of a file."""
    with unpacked(path) as stream, saying(path):
        return stream.read(HEAD)


def encoding_of(start: bytes) -> str:
    """Return utf-16 where a byte order mark says so, else UTF-8 with or without a mark."""
    return "utf-16" if start.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
