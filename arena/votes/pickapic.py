"""Pick-a-Pic v1 and v2 (Kirstain et al., 2023): parquet or webdataset tars, with images or without.

One row is one comparison: `caption`, `model_0`, `model_1`, `label_0`, `label_1` (1 and 0, or 0.5
each for a tie). The images' bytes (`jpg_0`, `jpg_1`) are never read here: an image is named by its
uid, and `images` finds its bytes when a training set needs them.
"""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from arena.votes.files import PARQUET, head, parquet_batches, parquet_columns, saying, shown_safely
from arena.votes.raw import Broken, Raw, VotesError, as_text, frame, rejections

# The schema's name: Pick-a-Pic's.
NAMES = {
    "model_a": "model_0",
    "model_b": "model_1",
    "prompt": "caption",
    "image_a": "image_0_uid",
    "image_b": "image_1_uid",
    "rater": "user_id",
    "created_at": "created_at",
}
LABELS = ("label_0", "label_1")
NEEDED = ("model_0", "model_1", *LABELS)
FAULTS = NAMES | {"outcome": "label_0"}
BATCH = 1 << 18

# A text member larger than this is no caption and no label.
MOST_TEXT = 1 << 20


def read_pickapic(path: Path) -> Iterator[Raw]:
    """Read Pick-a-Pic's rows. Raises VotesError naming the columns that are missing."""
    if head(path).startswith(PARQUET):
        present = parquet_columns(path)
        _require(path, present)
        wanted = [name for name in (*NAMES.values(), *LABELS, "has_label") if name in present]
        row = 1
        for batch in parquet_batches(path, wanted, BATCH):
            yield _raw(pl.DataFrame(batch).with_row_index("row", offset=row), rejections([]))
            row += len(batch)
    else:
        yield _read_tar(path)


def _require(path: Path, present: list[str]) -> None:
    missing = [name for name in NEEDED if name not in present]
    if missing:
        raise VotesError(
            f"{path}: no column {', '.join(missing)}; the arena needs Pick-a-Pic's "
            f"{', '.join(NEEDED)} and this file has {', '.join(present[:16])[:400] or 'none'}"
        )


def _raw(rows: pl.DataFrame, broken: pl.DataFrame) -> Raw:
    """Rename the columns and turn the two labels into an outcome."""
    labels = [pl.col(name).cast(pl.Float64, strict=False) for name in LABELS]
    told = pl.format(
        "{} and {}", *(pl.col(name).cast(pl.String).fill_null("none") for name in LABELS)
    )
    if "has_label" in rows.columns:
        unlabelled = pl.col("has_label").cast(pl.String).str.to_lowercase().is_in(["false", "0"])
    else:
        unlabelled = pl.lit(False)
    outcome = (
        pl.when(unlabelled)
        .then(pl.lit("no label"))
        .when((labels[0] == 1) & (labels[1] == 0))
        .then(pl.lit("a"))
        .when((labels[0] == 0) & (labels[1] == 1))
        .then(pl.lit("b"))
        .when((labels[0] == 0.5) & (labels[1] == 0.5))
        .then(pl.lit("tie"))
        .otherwise(told)
    )
    known = {ours: theirs for ours, theirs in NAMES.items() if theirs in rows.columns}
    return Raw(
        rows.select("row", outcome=outcome, **{k: pl.col(v) for k, v in known.items()}),
        broken,
        FAULTS,
    )


def _read_tar(path: Path) -> Raw:
    """Read a webdataset tar: files of one sample share the name up to the first dot.

    A sample's columns are in one `.json`, or in a file each (`.caption`, `.label_0.txt`); `.txt`
    alone is the caption. An image without a uid is named by its member, `samples.tar::7.jpg_0`.
    """
    broken: Broken = []
    samples: dict[str, dict[str, Any]] = {}
    for key, column, value in _members(path, broken, samples):
        if column == "json":
            samples[key].update(value | {"row": samples[key]["row"]})
        else:
            samples[key][column] = value
    names = [*NAMES.values(), *LABELS, "has_label"]
    present = {name for sample in samples.values() for name in sample}
    if samples:
        _require(path, sorted(present))
    kept = [name for name in names if name in present]
    spoiled = {fault[0]: fault for fault in reversed(broken)}
    rows = [
        [sample["row"], *(as_text(sample.get(name)) for name in kept)]
        for sample in samples.values()
        if sample["row"] not in spoiled
    ]
    return _raw(frame(rows, kept), rejections(list(spoiled.values()), path))


def _members(
    path: Path, broken: Broken, samples: dict[str, dict[str, Any]]
) -> Iterator[tuple[str, str, Any]]:
    """Yield (sample, column, value) of every member, images by name alone."""
    with saying_tar(path), tarfile.open(path, "r:") as archive:
        for member in archive:
            if not member.isfile():
                continue
            folder, _, name = member.name.rpartition("/")
            key, _, extension = name.partition(".")
            key = f"{folder}/{key}"
            column = extension.split(".")[0]
            samples.setdefault(key, {"row": len(samples) + 1})
            row = samples[key]["row"]
            if is_image(name):
                uid = f"image_{column[-1]}_uid"
                samples[key].setdefault(uid, f"{path.name}::{member.name}")
            elif column == "json" or column in (*NAMES.values(), *LABELS, "has_label", "txt"):
                if member.size > MOST_TEXT:
                    broken.append((row, column, f"a text of {member.size:,} bytes", None))
                    continue
                stream = archive.extractfile(member)
                content = stream.read() if stream else b""
                value = _value(content, column, row, broken)
                if value is not None:
                    yield key, "caption" if column == "txt" else column, value


def is_image(name: str) -> bool:
    """Tell whether a member of a tar is one of the two images."""
    return name.rpartition("/")[2].partition(".")[2].split(".")[0] in ("jpg_0", "jpg_1")


def _value(content: bytes, column: str, row: int, broken: Broken) -> Any:
    try:
        text = content.decode()
        if column != "json":
            return text.strip()
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        text = content.decode("utf-8", "replace")
        broken.append((row, column, "not readable", shown_safely(text)))
        return None
    if not isinstance(value, dict):
        broken.append((row, column, "not a JSON object", shown_safely(text)))
        return None
    return value


class saying_tar(saying):
    """As `saying`; the tar module's own error is no ValueError."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, tarfile.TarError | EOFError):
            error = ValueError(str(error))
        super().__exit__(kind, error, trace)
