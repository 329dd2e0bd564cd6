"""Add one column of scores a scorer to a table of images.

No row is lost: an image that cannot be read, or that a scorer has no number for, keeps its row
with a null score and is named with its file and row, and a scorer whose weights are missing is left
out and named; the caller turns all of these into the exit code.
"""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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


def open_image(path: str) -> Image.Image | str:
    """The image as RGB, or the reason why there is none."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        return "no such file"
    except UnidentifiedImageError:
        return "not an image"
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        return str(error)


def opened_batches(
    paths: Sequence[str],
) -> Iterator[tuple[list[int], list[Image.Image], dict[int, str]]]:
    """Batches of rows that opened, their images, and the others' reasons.

    The next batch is opened by threads while this one is scored.
    """
    starts = range(0, len(paths), BATCH)
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:

        def begin(start: int) -> list[Future[Image.Image | str]]:
            return [pool.submit(open_image, path) for path in paths[start : start + BATCH]]

        ahead = begin(0)
        for start in starts:
            opening, ahead = ahead, begin(start + BATCH)
            rows, images, broken = [], [], {}
            for row, future in enumerate(opening, start=start):
                found = future.result()
                if isinstance(found, str):
                    broken[row] = found
                else:
                    rows.append(row)
                    images.append(found)
            yield rows, images, broken


def score_images(
    table: pa.Table, origins: Sequence[str], scorers: dict[str, Scorer]
) -> tuple[pa.Table, list[str]]:
    """Score every image with every scorer, each image opened once.

    Returns the table with one float64 column a scorer (null where the image could not be read or
    got no score) and one sentence an image and scorer without one.
    """
    prompts, paths = table["prompt"].to_pylist(), table["image"].to_pylist()
    scores = {name: np.full(len(paths), np.nan) for name in scorers}
    problems: list[str] = []
    started = shown = time.monotonic()
    done = 0
    for rows, images, broken in opened_batches(paths):
        problems += [f"{origins[row]}: image {paths[row]}: {why}" for row, why in broken.items()]
        for name, scorer in scorers.items():
            values, reasons = score_batch(scorer, [prompts[row] for row in rows], images)
            scores[name][rows] = values
            problems += [f"{origins[rows[i]]}: {name}: {why}" for i, why in reasons.items()]
        done += len(rows) + len(broken)
        if time.monotonic() - shown > 2 or done == len(paths):
            shown = time.monotonic()
            rate = done / max(shown - started, 1e-9)
            print(f"  {done}/{len(paths)} images scored, {rate:.0f} a second", file=sys.stderr)
    for name, values in scores.items():
        column = pa.array(values, pa.float64(), mask=~np.isfinite(values))
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, column)
        else:
            table = table.append_column(name, column)
    return table, problems


def score_batch(
    scorer: Scorer, prompts: Sequence[str], images: Sequence[Image.Image]
) -> tuple[np.ndarray, dict[int, str]]:
    """Scores (n,), NaN where there is none, and why by place.

    Where a scorer fails on a batch (a prompt that it cannot read, memory), its images are tried one
    by one, so that one of them does not cost the others their scores.
    """
    if not images:
        return np.empty(0), {}
    try:
        values = np.asarray(scorer.score(prompts, images), dtype=float)
    except (ValueError, RuntimeError) as error:
        if len(images) == 1:
            return np.full(1, np.nan), {0: f"failed: {(str(error).splitlines() or [''])[0]}"}
        alone = [
            score_batch(scorer, prompts[i : i + 1], images[i : i + 1]) for i in range(len(images))
        ]
        reasons = {i: found[0] for i, (_, found) in enumerate(alone) if found}
        return np.concatenate([one for one, _ in alone]), reasons
    return values, {int(i): f"gave {values[i]}" for i in np.flatnonzero(~np.isfinite(values))}


def score(paths: Sequence[Path], names: Sequence[str]) -> Scored:
    """Score IMAGES tables with scorers named "NAME[=SOURCE]".

    Raises EvaluationError for an unknown scorer, an unreadable table, or when no scorer loads.
    """
    table, origins = read_images(paths)
    scorers, problems = load_scorers(names)
    table, broken = score_images(table, origins, scorers)
    return Scored(table, list(scorers), problems + broken)
