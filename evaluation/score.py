"""Add one column of scores a scorer to a table of images.

No row is lost: an image that cannot be read keeps its row with null scores and is named with its
file and row, and a scorer whose weights are missing is left out and named; the caller turns both
into the exit code.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from evaluation.errors import EvaluationError
from evaluation.scorers import Scorer
from evaluation.scorers.load import load_scorers
from evaluation.tables import read_table

BATCH = 64


@dataclass(frozen=True)
class Scored:
    """The table with its scores, and every sentence about what could not be scored."""

    table: pa.Table
    scorers: list[str]
    problems: list[str]


def read_images(paths: Sequence[Path]) -> tuple[pa.Table, list[str]]:
    """Read IMAGES tables into one, image paths made absolute; and "FILE: row N" of each row.

    Relative paths are relative to the table's own folder. A column that one of several tables
    lacks is null for its rows.
    """
    tables, origins = [], []
    for path in paths:
        table = read_table(path, ("policy", "prompt", "image"))
        images = [str((path.parent / image).absolute()) for image in table["image"].to_pylist()]
        index = table.column_names.index("image")
        tables.append(table.set_column(index, "image", pa.array(images, pa.string())))
        origins += [f"{path}: row {row}" for row in range(1, len(images) + 1)]
    table = pa.concat_tables(tables, promote_options="permissive")
    if not table.num_rows:
        raise EvaluationError(f"{paths[0]}: holds no image")
    return table, origins


def open_images(paths: Sequence[str]) -> tuple[list[int], list[Image.Image], dict[int, str]]:
    """Open images as RGB: positions that opened, their images, and the others' reasons."""
    positions, images, broken = [], [], {}
    for position, path in enumerate(paths):
        try:
            with Image.open(path) as image:
                images.append(image.convert("RGB"))
            positions.append(position)
        except FileNotFoundError:
            broken[position] = "no such file"
        except UnidentifiedImageError:
            broken[position] = "not an image"
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            broken[position] = str(error)
    return positions, images, broken


def score_images(
    table: pa.Table, origins: Sequence[str], scorers: dict[str, Scorer]
) -> tuple[pa.Table, list[str]]:
    """Score every image with every scorer, each image opened once.

    Returns the table with one float64 column a scorer (null where the image could not be read)
    and one sentence a broken image.
    """
    prompts, paths = table["prompt"].to_pylist(), table["image"].to_pylist()
    scores = {name: np.full(len(paths), np.nan) for name in scorers}
    readable = np.zeros(len(paths), dtype=bool)
    problems: list[str] = []
    started = shown = time.monotonic()
    for start in range(0, len(paths), BATCH):
        positions, images, broken = open_images(paths[start : start + BATCH])
        for position, reason in broken.items():
            row = start + position
            problems.append(f"{origins[row]}: image {paths[row]}: {reason}")
        rows = [start + position for position in positions]
        readable[rows] = True
        for name, scorer in scorers.items():
            if rows:
                scores[name][rows] = scorer.score([prompts[row] for row in rows], images)
        done = min(start + BATCH, len(paths))
        if time.monotonic() - shown > 2 or done == len(paths):
            shown = time.monotonic()
            rate = done / max(shown - started, 1e-9)
            print(f"  {done}/{len(paths)} images scored, {rate:.0f} a second", file=sys.stderr)
    for name, values in scores.items():
        column = pa.array(values, pa.float64(), mask=~readable)
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, column)
        else:
            table = table.append_column(name, column)
    return table, problems


def score(paths: Sequence[Path], names: Sequence[str]) -> Scored:
    """Score IMAGES tables with scorers named "NAME[=SOURCE]".

    Raises EvaluationError for an unknown scorer, an unreadable table, or when no scorer loads.
    """
    table, origins = read_images(paths)
    scorers, problems = load_scorers(names)
    table, broken = score_images(table, origins, scorers)
    return Scored(table, list(scorers), problems + broken)
