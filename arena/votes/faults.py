"""What can go wrong while votes are read, said in one sentence for a person."""

import csv
import json
import tarfile
import zipfile
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from arena.schema import REJECTED

# A rejection shows this much of what was there; a file of ten-megabyte strings stays readable.
SHOWN = 200
SHOWN_OF_AN_ERROR = 160

Broken = list[tuple[int, str, str, str | None]]  # row, column, reason, value


class VotesError(ValueError):
    """A votes file that cannot be read at all."""


class saying:
    """Turn what goes wrong while a file is read into one VotesError that names the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        if error is None:
            return
        if isinstance(error, VotesError):
            if str(self.path) in str(error):
                return
            raise VotesError(f"{self.path}: {error}") from None
        if isinstance(error, UnicodeDecodeError):
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
        elif isinstance(error, tarfile.TarError | zipfile.BadZipFile | EOFError):
            said = f"cannot be read ({line(error)}); it may be cut off: deliver it again"
        elif isinstance(error, pl.exceptions.PolarsError):
            said = f"its columns are no text or numbers ({line(error)})"
        elif isinstance(error, OSError | pa.ArrowException | ValueError | KeyError):
            said = f"cannot be read ({line(error)}); it may be cut off: deliver it again"
        else:
            return
        raise VotesError(f"{self.path}: {said}") from None


def line(error: BaseException) -> str:
    """Return an error's first line, short enough to be read."""
    text = (getattr(error, "strerror", None) or str(error)) if error.args else ""
    return (text.splitlines() or [type(error).__name__])[0][:SHOWN_OF_AN_ERROR]


def shown(value: Any) -> str | None:
    """Return the beginning of a value, whatever it holds, for a rejection."""
    if value is None or value == "":
        return None
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:SHOWN].encode("utf-8", "replace").decode()


def rejections(
    broken: Sequence[tuple[int, str, str, str | None]], file: Path | str | None = None
) -> pl.DataFrame:
    """Return (row, column, reason, value) of one file as a table of `schema.REJECTED`."""
    cut = [(str(file), *one[:3], one[3] and one[3][:SHOWN]) for one in broken]
    return pl.DataFrame(cut, schema=REJECTED, orient="row")


def named(columns: Sequence[str], known: Container[str]) -> str:
    """Return a file's column names for a sentence; where none is known, they may be data."""
    if not any(name.lower() in known for name in columns):
        return f"{len(columns)} columns, none of them known; is its header line missing?"
    more = f" and {len(columns) - 16} more" if len(columns) > 16 else ""
    return ", ".join(columns[:16]) + more
