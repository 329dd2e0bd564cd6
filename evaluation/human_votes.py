"""What people said about images: rankings of two or more images of one prompt.

Votes of every format that `arena.votes` reads (the votes table and its K-wise sibling, Pick-a-Pic,
HPD, ImageReward, K-Sort Arena, ...); a pairwise vote is a ranking of two. What is done here is only
to pair them with their images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from evaluation import pictures
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


def image_reader(votes: Path, images: Path | None) -> Callable[[str], bytes]:
    """A function from an image's name in the votes to the bytes of the image.

    images : parquet with columns image and bytes; None where names are paths relative to the
        votes' folder, or where the votes are Pick-a-Pic's, which hold their images. The function
        raises EvaluationError naming what is not there.
    """
    if images is not None:
        read_table(images, ("image", "bytes"), only=("image",))
        return parquet_reader(images, [("image", "bytes")], votes)
    if votes.suffix == ".parquet":
        sides = [(f"image_{k}_uid", f"jpg_{k}") for k in (0, 1)]
        if {*sides[0], *sides[1]} <= {*pq.ParquetFile(votes).schema_arrow.names}:
            return parquet_reader(votes, sides, votes)

    def from_file(name: str) -> bytes:
        try:
            return pictures.read_bytes(votes.parent / name)
        except EvaluationError as error:
            said = f"{votes.parent / name}: {error}"
            raise EvaluationError(f"{said}; give --images where votes hold ids") from None

    return from_file


def parquet_reader(
    path: Path, sides: Sequence[tuple[str, str]], votes: Path
) -> Callable[[str], bytes]:
    """A function from an image's name to its bytes, both in columns of a parquet."""
    file, lock = pq.ParquetFile(path), Lock()
    places: dict[str, tuple[int, int, str]] = {}
    for group in range(file.num_row_groups):
        names = file.read_row_group(group, columns=[name for name, _ in sides])
        for name, content in sides:
            for row, one in enumerate(names[name].to_pylist()):
                places.setdefault(str(one), (group, row, content))

    @lru_cache(maxsize=4)  # row groups; votes and images lie in the same order
    def contents(group: int, column: str) -> pa.ChunkedArray:
        return file.read_row_group(group, columns=[column])[column]

    def from_parquet(name: str) -> bytes:
        if name not in places:
            raise EvaluationError(f"{path}: holds no image {name!r}, which {votes} speaks of")
        group, row, column = places[name]
        with lock:
            value = contents(group, column)[row].as_py()
        value = value.get("bytes") if isinstance(value, dict) else value  # the hub's struct
        if not isinstance(value, bytes):
            raise EvaluationError(f"{path}: image {name!r}: the column {column} holds no bytes")
        return value

    return from_parquet


def models_of(rankings: Sequence[Ranking]) -> list[str]:
    """Every model that the rankings name, in order of first appearance."""
    return list(dict.fromkeys(model for one in rankings for model in one.models or ()))
