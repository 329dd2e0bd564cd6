"""Tables and files of the evaluation: read with what they need, written whole or not at all.

Only pyarrow is used here, so that these run where the job runs and inside Dagster alike.
"""

import hashlib
import io
import math
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from evaluation.errors import EvaluationError

TEXT_COLUMNS = ("policy", "prompt", "prompt_id", "image")


def read_table(
    path: Path, required: Iterable[str], *, only: Sequence[str] | None = None
) -> pa.Table:
    """Read a .parquet or .csv table that has the required columns; `only` some of a .parquet's.

    Identifiers and texts come back as strings even where a CSV's look like numbers.
    Raises EvaluationError naming the file when it is absent, unreadable or lacks a column.
    """
    if not path.is_file():
        raise EvaluationError(f"{path}: no such file")
    suffix = path.suffix.lower()
    if suffix not in (".parquet", ".csv"):
        raise EvaluationError(f"{path}: expected a .parquet or .csv file")
    try:
        if suffix == ".parquet":
            names = pyarrow.parquet.read_schema(path).names
            wanted = [name for name in names if only is None or name in only]
            table = pyarrow.parquet.read_table(path, columns=wanted)
        else:
            as_text = {name: pa.string() for name in TEXT_COLUMNS}
            text = read_text(path)
            head = text.partition("\n")[0]  # Excel writes what its country separates numbers by
            delimiter = next((one for one in ",;\t" if one in head), ",")
            table = pyarrow.csv.read_csv(
                io.BytesIO(text.encode()),
                parse_options=pyarrow.csv.ParseOptions(
                    delimiter=delimiter, newlines_in_values=True
                ),
                convert_options=pyarrow.csv.ConvertOptions(column_types=as_text),
            )
    except (pa.ArrowException, OSError) as error:
        raise EvaluationError(f"{path}: not a readable {suffix[1:]} table: {error}") from error
    known = names if suffix == ".parquet" else table.column_names
    missing = [name for name in required if name not in known]
    if missing:
        raise EvaluationError(
            f"{path}: lacks the column {missing[0]!r} (it has {', '.join(known)})"
        )
    for name in TEXT_COLUMNS:
        if name in table.column_names and not pa.types.is_string(table.schema.field(name).type):
            column = table.column(name).cast(pa.string())
            table = table.set_column(table.column_names.index(name), name, column)
    for name in [name for name in required if name in table.column_names]:
        if table.column(name).null_count:
            row = table.column(name).to_pylist().index(None) + 1
            raise EvaluationError(f"{path}: row {row} has no {name}")
    return table


def read_text(path: Path) -> str:
    """Read a text file: UTF-8, with or without a byte order mark.

    Raises EvaluationError naming the file, and the line where it is something else.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise EvaluationError(
            f"{path}: line {line} is not UTF-8 (Latin-1?); save the file as UTF-8"
        ) from error


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file whole: a reader sees the old content or the new, never a part.

    durable flushes to the disk before the rename, so this holds across a power cut too; where
    thousands of small files are written that are checked before use, it costs more than it gives.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a table as one parquet file, whole or not at all."""
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink)
    write_bytes(path, sink.getvalue().to_pybytes())


def columns_of(table: Any) -> dict[str, list[Any]]:
    """Name -> values of a pyarrow table or a polars frame."""
    if isinstance(table, pa.Table):
        return table.to_pydict()
    return table.to_dict(as_series=False)


def digest(paths: Iterable[Path], root: Path) -> str:
    """Sha256 over the names (relative to root) and contents of files, whatever their order."""
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(f"{path.relative_to(root).as_posix()}\0".encode())
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def finite(value: float) -> float | None:
    """The number, or None where there is none: JSON has no NaN."""
    return float(value) if math.isfinite(value) else None
