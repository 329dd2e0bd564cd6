"""What people said about images: rankings of two or more images of one prompt.

Votes of every format that `arena.votes` reads (the votes table and its K-wise sibling, Pick-a-Pic,
HPD, ImageReward, K-Sort Arena, ...); a pairwise vote is a ranking of two. What is done here is only
to pair them with their images.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from evaluation.errors import EvaluationError
from evaluation.tables import read_table

RANKS = {"a": (0.0, 1.0), "b": (1.0, 0.0), "tie": (0.0, 0.0)}
SHOWN = 3  # rejected rows that are named; all of them are counted


@dataclass(frozen=True)
class Ranking:
    """One person's order of K images of a prompt: low rank is good, equal ranks tie.

    models : who made each image; None where the votes do not say.
    """

    prompt: str
    images: tuple[str, ...]
    ranks: tuple[float, ...]
    models: tuple[str, ...] | None


def read_rankings(path: Path) -> tuple[list[Ranking], list[str]]:
    """Read votes on images, by time and then in the file's order.

    Returns the rankings, and a sentence about each kind of row that is not among them. Raises
    EvaluationError where the file cannot be read, or no vote names a prompt and its images.
    """
    from arena.schema import UNNAMED
    from arena.votes.faults import VotesError
    from arena.votes.read import read_votes

    try:
        reading = read_votes([path])
    except VotesError as error:
        raise EvaluationError(str(error)) from error
    pairs = reading.votes.filter(reading.votes["ranking"].is_null())
    found, without = [], 0
    for row in timed(pairs, "prompt", "image_a", "image_b", "outcome", "model_a", "model_b"):
        prompt, image_a, image_b, outcome, *models = row
        if prompt and image_a and image_b and image_a != image_b:
            named = None if UNNAMED in models else tuple(models)
            found.append(Ranking(prompt, (image_a, image_b), RANKS[outcome], named))
        else:
            without += 1
    for prompt, images, ranks, models in timed(
        reading.rankings, "prompt", "images", "ranks", "models"
    ):
        if prompt and images and all(images) and len(set(images)) == len(images):
            named = None if UNNAMED in models else tuple(models)
            found.append(Ranking(prompt, tuple(images), tuple(map(float, ranks)), named))
        else:
            without += 1
    notes = rejections(reading.rejected)
    if without:
        notes.append(f"{path}: {without:,} votes name no prompt or not each image once: left out")
    if not found:
        said = f" ({notes[0]})" if notes else ""
        raise EvaluationError(f"{path}: no vote names a prompt and the images judged{said}")
    return found, notes


def timed(votes: Any, *columns: str) -> Any:
    """Rows of some columns by created_at; votes without a time stay last, in their order."""
    ordered = votes.sort("created_at", nulls_last=True, maintain_order=True)
    return ordered.select(columns).iter_rows()


def rejections(rejected: Any) -> list[str]:
    """Sentences about rows that could not be used: the first of them, and how many there were."""
    rows = rejected.select("file", "row", "column", "reason").iter_rows()
    notes = [f"{file}: row {row}: {column} {reason}" for file, row, column, reason in rows]
    more = len(notes) - SHOWN
    return [*notes[:SHOWN], *([f"and {more:,} more rows that cannot be used"] if more > 0 else [])]


def image_opener(votes: Path, images: Path | None) -> Callable[[str], Image.Image]:
    """A function from an image's name in the votes to the image, RGB.

    images : parquet with columns image and bytes; None where names are paths relative to the
        votes' folder, or where the votes are Pick-a-Pic's, which hold their images. The function
        raises EvaluationError naming what is not there.
    """
    if images is None:
        inside = pickapic_images(votes)
        return inside or (lambda name: _open(votes.parent / name, str(votes.parent / name)))
    table = read_table(images, ("image", "bytes"))
    rows = {name: row for row, name in enumerate(table["image"].to_pylist())}
    content = table["bytes"]
    if not (pa.types.is_binary(content.type) or pa.types.is_large_binary(content.type)):
        raise EvaluationError(f"{images}: the column bytes holds {content.type}, not image files")

    def from_table(name: str) -> Image.Image:
        if name not in rows:
            raise EvaluationError(f"{images}: holds no image {name!r}, which {votes} speaks of")
        return _open(io.BytesIO(content[rows[name]].as_py()), f"{images}: image {name!r}")

    return from_table


def pickapic_images(votes: Path) -> Callable[[str], Image.Image] | None:
    """A function from uid to image, where the votes are a Pick-a-Pic parquet with images in it."""
    if votes.suffix != ".parquet":
        return None
    file = pq.ParquetFile(votes)
    sides = [(f"image_{k}_uid", f"jpg_{k}") for k in (0, 1)]
    if not all(name in file.schema_arrow.names for side in sides for name in side):
        return None
    places: dict[str, tuple[int, int, str]] = {}
    for group in range(file.num_row_groups):
        uids = file.read_row_group(group, columns=[uid for uid, _ in sides])
        for uid, jpg in sides:
            for row, name in enumerate(uids[uid].to_pylist()):
                places.setdefault(str(name), (group, row, jpg))

    @lru_cache(maxsize=4)  # row groups; votes and images lie in the same order
    def contents(group: int, jpg: str) -> pa.ChunkedArray:
        return file.read_row_group(group, columns=[jpg])[jpg]

    def from_votes(name: str) -> Image.Image:
        if name not in places:
            raise EvaluationError(f"{votes}: holds no image {name!r}")
        group, row, jpg = places[name]
        return _open(io.BytesIO(contents(group, jpg)[row].as_py()), f"{votes}: image {name!r}")

    return from_votes


def _open(source: Any, where: str) -> Image.Image:
    try:
        with Image.open(source) as image:
            return image.convert("RGB")
    except FileNotFoundError as error:
        raise EvaluationError(
            f"{where}: no such file; give --images where votes hold ids"
        ) from error
    except (OSError, SyntaxError) as error:
        raise EvaluationError(f"{where}: not a readable image") from error


def models_of(rankings: Sequence[Ranking]) -> list[str]:
    """Every model that the rankings name, in order of first appearance."""
    return list(dict.fromkeys(model for one in rankings for model in one.models or ()))
