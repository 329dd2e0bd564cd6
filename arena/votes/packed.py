"""A file's bytes, unpacked where it is gzip, zstd, bzip2, xz or a zip of one file."""

import bz2
import io
import lzma
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa

from arena.votes.faults import VotesError, line
from arena.votes.limits import MOST_EXPANSION, UNSUSPECTED
from arena.votes.regular import AHEAD, NoRegularFile, regular

PACKINGS = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bz2",
    b"\xfd7zXZ": "xz",
    b"PK\x03\x04": "zip",
}


class Bounded(io.RawIOBase):
    """A stream of unpacked bytes that refuses to go on past a bound."""

    def __init__(self, stream: Any, bound: int) -> None:
        self.stream, self.left = stream, bound

    def readable(self) -> bool:
        """Return True: it is read only."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer. Raises VotesError past the bound."""
        content = self.stream.read(len(buffer))
        self.left -= len(content)
        if self.left < 0:
            raise VotesError(
                f"unpacks to more than {MOST_EXPANSION} times its size; "
                "unpack it yourself if you trust it"
            )
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        """Close the stream that is unpacked."""
        self.stream.close()
        super().close()


def opened(path: Path) -> io.BufferedReader:
    """Open a regular file's bytes, unpacked where it begins as a packed one does.

    Raises VotesError where there is no regular file to read; a packed stream that is cut off raises
    OSError or EOFError later.
    """
    try:
        stream = regular(path)
    except NoRegularFile as error:
        raise VotesError(f"is {error}; check the path") from None
    except OSError as error:
        raise VotesError(f"cannot be read ({line(error).lower()}); check the path") from None
    start = stream.peek(AHEAD)
    packing: str | None = None
    inner: Any
    for magic, kind in PACKINGS.items():
        if start.startswith(magic):
            packing = kind
    if packing is None:
        return stream
    if packing == "zip":
        inner = _only_member(stream)
    elif packing in ("bz2", "xz"):
        inner = (bz2 if packing == "bz2" else lzma).open(stream)
    else:
        inner = pa.input_stream(stream, packing)
    bound = max(UNSUSPECTED, MOST_EXPANSION * path.stat().st_size)
    return io.BufferedReader(Bounded(inner, bound), AHEAD)


def _only_member(stream: io.BufferedReader) -> Any:
    """Open the one file of a zip archive."""
    archive = zipfile.ZipFile(stream)
    names = [one.filename for one in archive.infolist() if not one.is_dir()]
    names = [n for n in names if not n.startswith("__MACOSX/") and "/." not in f"/{n}"]
    if "[Content_Types].xml" in names:
        raise VotesError("this is an Excel workbook; save the sheet as csv (UTF-8)")
    if len(names) != 1:
        raise VotesError(f"a zip archive of {len(names)} files; unpack it and name them")
    return archive.open(names[0])
