"""Bytes of a votes file: unpacked where it is gzip or zstd, split into lines or JSON records.

What the records mean is the readers' affair. Nothing here trusts the file: one that unpacks to far
more than it holds, nests without end or is cut off ends in one sentence.
"""

import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from arena.votes.raw import Broken, VotesError, shown

GZIP, ZSTD, PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
HEAD = 1 << 16
SHOWN_OF_AN_ERROR = 160

# Text packs by ten to thirty; a file that unpacks a hundredfold, past this size, is a bomb.
MOST_EXPANSION, UNSUSPECTED = 100, 1 << 28

# The longest field is judged by `check`, row by row; the csv module would give up on the file.
csv.field_size_limit(sys.maxsize)


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


def unpacked(path: Path) -> io.BufferedReader:
    """Open a file's bytes, through gzip or zstd where it begins as these do.

    Raises VotesError where it cannot be opened; a stream that is cut off raises OSError later.
    """
    try:
        with path.open("rb") as stream:
            magic = stream.read(4)
        packing = "gzip" if magic.startswith(GZIP) else "zstd" if magic == ZSTD else None
        if packing is None:
            return path.open("rb")
        bound = max(UNSUSPECTED, MOST_EXPANSION * path.stat().st_size)
        return io.BufferedReader(_Bounded(pa.input_stream(path, packing), path, bound), HEAD)
    except OSError as error:
        raise VotesError(f"{path}: cannot be read ({reason(error)}); check the path") from None


def reason(error: OSError) -> str:
    """Return what the system said, in lower case."""
    return (error.strerror or str(error)).lower()


def head(path: Path) -> bytes:
    """Return the first unpacked bytes of a file."""
    with unpacked(path) as stream, saying(path):
        return stream.read(HEAD)


class saying:
    """Turn what goes wrong while a file is read into one sentence."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        if error is None or isinstance(error, VotesError):
            return
        if isinstance(error, UnicodeDecodeError):
            said = f"not UTF-8 text ({error.reason}); save it as UTF-8"
        elif isinstance(error, csv.Error):
            said = f"not a readable csv ({error}); save it again"
        elif isinstance(error, json.JSONDecodeError):
            said = f"not readable JSON ({error}); it may be cut off: deliver it again"
        elif isinstance(error, RecursionError):
            said = "not readable JSON (nested too deeply); deliver it again"
        elif isinstance(error, OSError | pa.ArrowException | ValueError | KeyError):
            said = f"cannot be read ({_line(error)}); it may be cut off: deliver it again"
        else:
            return
        raise VotesError(f"{self.path}: {said}") from None


def _line(error: BaseException) -> str:
    """Return an error's first line, short enough to be read."""
    text = reason(error) if isinstance(error, OSError) else str(error)
    return (text.splitlines() or [type(error).__name__])[0][:SHOWN_OF_AN_ERROR]


def lines(path: Path) -> Iterator[str]:
    """Yield a file's lines, unpacked, as the csv module wants them; a byte order mark is left."""
    with (
        unpacked(path) as stream,
        io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text,
        saying(path),
    ):
        yield from text


def json_lines(path: Path, broken: Broken) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row, object) of a file with one JSON object a line; others go to `broken`."""
    filled = (line for line in lines(path) if line.strip())
    for row, line in enumerate(filled, start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            said = error.msg if isinstance(error, json.JSONDecodeError) else "a number or nesting"
            broken.append((row, "", f"not JSON ({said})", line.strip()[:200]))
            continue
        fault = _fault(record, line)
        if fault:
            broken.append((row, "", fault, shown_safely(line.strip())))
        else:
            yield row, record


def json_records(path: Path, broken: Broken) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row, object) of a JSON list of objects, of one object, or of one object a line."""
    document, text = _document(path)
    if document is None:
        yield from json_lines(path, broken)
        return
    records = document if isinstance(document, list) else [document]
    for row, record in enumerate(records, start=1):
        fault = _fault(record, text)
        if fault:
            broken.append((row, "", fault, shown_safely(json.dumps(record))))
        else:
            yield row, record


def json_document(path: Path) -> Any:
    """Return a file's one JSON value."""
    return _document(path)[0]


def _document(path: Path) -> tuple[Any, str]:
    """Return a file's one JSON value, None where it has one object a line, and its text."""
    with unpacked(path) as stream, saying(path):
        text = stream.read().decode("utf-8-sig")
        try:
            return json.loads(text), text
        except json.JSONDecodeError as error:
            if error.msg == "Extra data" and text.lstrip().startswith("{"):
                return None, text
            raise


def _fault(record: Any, spelling: str) -> str | None:
    """Return what is wrong with a JSON value that should be an object of text."""
    if not isinstance(record, dict):
        return "not a JSON object"
    # JSON can spell half a character, which no table can hold.
    if "\\ud" in spelling or "\\uD" in spelling:
        try:
            json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return "not text (half of a character)"
    return None


def shown_safely(text: str) -> str | None:
    """Return the beginning of a text, whatever it holds."""
    return shown(text.encode("utf-8", "replace").decode())


def parquet_batches(path: Path, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    """Yield a parquet file's named columns, no other byte of it, at most `rows` at a time.

    Raises VotesError where the file is cut off, spoiled or not text where it says text.
    """
    with saying(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=rows, columns=columns):
            batch.validate(full=True)
            yield batch


def parquet_columns(path: Path) -> list[str]:
    """Return the names of a parquet file's columns."""
    with saying(path):
        return list(pq.read_schema(path).names)
