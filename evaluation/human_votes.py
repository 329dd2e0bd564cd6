"""What people said about images: rankings of two or more images of one prompt.

Votes of every format that `arena.votes` reads (the votes table and its K-wise sibling, Pick-a-Pic,
HPD, ImageReward, K-Sort Arena, ...); a pairwise vote is a ranking of two. What is done here is only
to pair them with their images.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arena.escape import printable
from arena.schema import UNNAMED
from arena.votes.faults import VotesError
from arena.votes.images import Images
from arena.votes.read import read_votes
from evaluation.errors import EvaluationError

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


def read_rankings(path: Path) -> list[Ranking]:
    """Read votes on images, by time and then in the file's order.

    A sentence about each kind of row that is left out goes to stderr. Raises EvaluationError where
    the file cannot be read, or no vote names a prompt and its images.
    """
    try:
        reading = read_votes([path])
    except VotesError as error:
        raise EvaluationError(str(error)) from error
    pairs = reading.votes.filter(reading.votes["ranking"].is_null())
    columns = ("prompt", "image_a", "image_b", "outcome", "model_a", "model_b")
    rows = [
        (prompt, (image_a, image_b), RANKS[outcome], models)
        for prompt, image_a, image_b, outcome, *models in timed(pairs, *columns)
    ]
    rows += timed(reading.rankings, "prompt", "images", "ranks", "models")
    found = [
        Ranking(
            prompt,
            tuple(images),
            tuple(map(float, ranks)),
            None if UNNAMED in models else tuple(models),
        )
        for prompt, images, ranks, models in rows
        if prompt and images and all(images) and len(set(images)) == len(images)
    ]
    rejected = reading.rejected.select("file", "row", "column", "reason").iter_rows()
    notes = [f"{file}: row {row}: {column} {reason}" for file, row, column, reason in rejected]
    if len(notes) > SHOWN:
        notes[SHOWN:] = [f"and {len(notes) - SHOWN:,} more rows that cannot be used"]
    if without := len(rows) - len(found):
        notes.append(f"{path}: {without:,} votes name no prompt or not each image once: left out")
    if not found:
        said = f" ({notes[0]})" if notes else ""
        raise EvaluationError(f"{path}: no vote names a prompt and the images judged{said}")
    for note in notes:
        print(printable(note), file=sys.stderr)
    return found


def timed(votes: Any, *columns: str) -> Iterator[Any]:
    """Rows of some columns by created_at; votes without a time stay last, in their order."""
    ordered = votes.sort("created_at", nulls_last=True, maintain_order=True)
    return ordered.select(columns).iter_rows()


def image_source(votes: Path, images: Path | None) -> Images:
    """The reader of the images that votes name.

    images : a parquet with columns image and bytes, or a tar; None where names are paths relative
    to the votes' folder, or where the votes hold their images, as Pick-a-Pic's do. Raises
    EvaluationError where the file cannot be read.
    """
    holds = images or (votes if votes.suffix in (".parquet", ".tar") else None)
    try:
        source = Images([holds] if holds else [], votes.parent)
        list(source.contents([]))  # opens it
    except (ValueError, OSError) as error:
        raise EvaluationError(str(error)) from error
    return source
