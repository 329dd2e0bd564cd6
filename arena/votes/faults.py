"""What can go wrong while votes are read, said in one sentence for a person."""

import csv
import json
import re
import tarfile
import zipfile
import zlib
from collections.abc import Container, Sequence
from lzma import LZMAError
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from arena.escape import printable
from arena.schema import REJECTED

# A rejection shows this much of what was there; a file of ten-megabyte strings stays readable.
SHOWN = 200
SHOWN_OF_AN_ERROR = 160

Broken = list[tuple[int, str, str, str | None]]  # row, column, reason, value


class VotesError(ValueError):
    """A votes file that cannot be read at all."""


CUT_OFF = (tarfile.TarError, zipfile.BadZipFile, zlib.error, LZMAError, EOFError, OSError)
# Whatever a reader raises over a file that somebody else made.
UNREADABLE = (
    *(*CUT_OFF, csv.Error, pa.ArrowException, pl.exceptions.PolarsError, ValueError, KeyError),
    *(TypeError, RecursionError, MemoryError, NotImplementedError, OverflowError),
    pl.exceptions.PanicException,
)


def sentence(error: BaseException, name: str) -> VotesError:
    """Return what was raised while a file was read as one VotesError that names the file."""
    if isinstance(error, VotesError):
        said = str(error)
    elif isinstance(error, UnicodeError):
        said = (
            "not UTF-8 text; it may be Latin-1 or Windows-1252: save it as UTF-8 "
            "(iconv -f WINDOWS-1252 -t UTF-8)"
        )
    elif isinstance(error, csv.Error):
        said = f"not a readable csv ({error}); save it again"
    elif isinstance(error, json.JSONDecodeError):
        said = f"not readable JSON ({error}); it may be cut off: deliver it again"
    elif isinstance(error, RecursionError):
        said = "not readable JSON (nested too deeply); deliver it again"
    elif isinstance(error, MemoryError):
        said = "takes more memory than there is; deliver it in parts"
    elif isinstance(error, pl.exceptions.PolarsError):
        # What polars says quotes the values that it could not take.
        said = f"its columns are no text or numbers ({type(error).__name__})"
    elif isinstance(error, (*CUT_OFF, pa.ArrowException)):
        said = f"cannot be read ({line(error)}); it may be cut off: deliver it again"
    else:
        said = f"cannot be read ({type(error).__name__}); it may be cut off: deliver it again"
    return VotesError(printable(f"{name}: {said}"))


def line(error: BaseException) -> str:
    """Return an error's first line, short enough to be read."""
    text = (getattr(error, "strerror", None) or str(error)) if error.args else ""
    return printable((text.splitlines() or [type(error).__name__])[0][:SHOWN_OF_AN_ERROR])


def shown(value: Any) -> str | None:
    """Return the beginning of a value, whatever it holds, for a rejection."""
    if value is None or value == "":
        return None
    try:
        text = value if isinstance(value, str) else json.dumps(value)
    except (ValueError, TypeError, RecursionError):
        text = type(value).__name__
    return text[:SHOWN].encode("utf-8", "replace").decode()


def rejections(
    broken: Sequence[tuple[int, str, str, str | None]], file: Path | str | None = None
) -> pl.DataFrame:
    """Return (row, column, reason, value) of one file as a table of `schema.REJECTED`."""
    cut = [(str(file), *one[:3], one[3] and one[3][:SHOWN]) for one in broken]
    return pl.DataFrame(cut, schema=REJECTED, orient="row")


def named(columns: Sequence[str], known: Container[str]) -> str:
    """Return a file's column names for a sentence; where none is known, they may be data."""
    if not columns:
        return "none"
    if not any(name.lower() in known for name in columns):
        return f"{len(columns)} columns, none of them known; is its header line missing?"
    # A prompt or an address is no name of a column.
    names = [name for name in columns if re.fullmatch(r"[\w .()#?-]{1,40}", name)][:16]
    more = f" and {len(columns) - len(names)} more" if len(columns) > len(names) else ""
    return printable(", ".join(names) + more)
