"""Tables and files of the evaluation: read with what they need, written whole or not at all.

Only pyarrow is used here, so that these run where the jobs run and inside Dagster alike. What made
a result (`provenance`) is written into every one.
"""

import io
import json
import math
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from arena.atomic import replacing
from evaluation.errors import EvaluationError

TEXT_COLUMNS = ("policy", "prompt", "prompt_id", "image")
IMAGES = ("policy", "prompt", "image")  # what a table of images has
PACKAGES = ("arenapo", "torch", "transformers", "diffusers", "numpy", "scipy", "pillow")


def read_table(path: Path, required: Iterable[str]) -> pa.Table:
    """Read a .parquet or .csv table that has the required columns.

    A .csv is cut at commas, semicolons (Excel in half of Europe) or tabs. Identifiers and texts
    come back as strings even where a CSV's look like numbers, empty ones as nulls. Raises
    EvaluationError naming the file when it is absent, unreadable or lacks a column, and the row
    that lacks a required value.
    """
    if not path.is_file():
        raise EvaluationError(f"{path}: no such file")
    suffix = path.suffix.lower()
    if suffix not in (".parquet", ".csv"):
        raise EvaluationError(f"{path}: expected a .parquet or .csv file")
    try:
        if suffix == ".parquet":
            table = pyarrow.parquet.read_table(path)
        else:
            text = read_text(path)
            head = text.partition("\n")[0]
            table = pyarrow.csv.read_csv(
                io.BytesIO(text.encode()),
                parse_options=pyarrow.csv.ParseOptions(
                    delimiter=next((one for one in ",;\t" if one in head), ","),
                    newlines_in_values=True,
                ),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=dict.fromkeys(TEXT_COLUMNS, pa.string())
                ),
            )
        table.validate(full=True)  # a parquet's texts need not be any
        doubled = [name for name, times in Counter(table.column_names).items() if times > 1]
        if doubled:
            raise EvaluationError(f"{path}: has two columns {doubled[0]!r}; rename one of them")
        for name in {*TEXT_COLUMNS} & {*table.column_names}:
            column = table.column(name).cast(pa.string())
            column = pc.if_else(pc.equal(column, ""), None, column)
            if name == "image":
                paths = (path.parent / one if one else None for one in column.to_pylist())
                column = pa.array((one and str(one.absolute()) for one in paths), pa.string())
            table = table.set_column(table.column_names.index(name), name, column)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path}: not a readable {suffix[1:]} table: {error}") from error
    for name in required:
        if name not in table.column_names:
            known = ", ".join(table.column_names)
            raise EvaluationError(f"{path}: lacks the column {name!r} (it has {known})")
        if table.column(name).null_count:
            row = table.column(name).to_pylist().index(None) + 1
            raise EvaluationError(f"{path}: row {row} has no {name}")
    return table


def read_text(path: Path) -> str:
    """Read a text file: UTF-8, with or without a byte order mark.

    Raises EvaluationError naming the file, and the line where it is something else.
    """
    if not path.is_file():
        raise EvaluationError(f"{path}: no such file")
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


def read_json(path: Path) -> Any:
    """Read a JSON file; raises EvaluationError naming it when absent or malformed."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{path}: not readable JSON: {error}") from error


def read_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line, value) of a file of one JSON value a line; U+2028 and its like end no line.

    Raises EvaluationError naming the line that is no JSON.
    """
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise EvaluationError(f"{path}: line {number} is not JSON: {error}") from error


def write(path: Path, content: bytes | pa.Table) -> None:
    """Write a file, of a table a .parquet, whole: a reader sees the old one or the new, no part."""
    with replacing(path) as aside:
        if isinstance(content, bytes):
            aside.write_bytes(content)
        else:
            pyarrow.parquet.write_table(content, aside)


def as_json(value: Any) -> Any:
    """A value of which JSON has every part: NaN is null, a dataclass an object."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {key: as_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [as_json(one) for one in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


def provenance(weights: Mapping[str, str | None] | None = None) -> dict[str, Any]:
    """What a result says of its making; weights : name -> hash.

    The versions of the packages that decide numbers, and the commit of the project's checkout, with
    "+" where files differ (None outside of one).
    """
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    words = ("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+")
    try:
        commit = subprocess.run(
            ["git", "-C", str(Path(__file__).parents[1]), *words],
            capture_output=True, text=True, check=True, timeout=20,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        commit = None
    return {"versions": versions, "commit": commit, "weights": dict(weights or {})}
