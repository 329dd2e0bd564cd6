"""What people said about images: rankings of two or more images of one prompt.

Reads the votes table (model_a, model_b, outcome, image_a, image_b, prompt) and its sibling for
K-wise votes (prompt, models, images, ranks), from .parquet, .csv or .jsonl; a pairwise vote is a
ranking of two. Only what evaluation asks of votes is read here; rating models by them is `arena`.
"""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from evaluation.errors import EvaluationError
from evaluation.tables import read_table

PAIRWISE: tuple[str, ...] = ("prompt", "image_a", "image_b", "outcome")
KWISE: tuple[str, ...] = ("prompt", "images", "ranks")
RANKS = {"a": (0.0, 1.0), "b": (1.0, 0.0), "tie": (0.0, 0.0)}


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
    """Read votes of either table; raises EvaluationError naming file, row and mend."""
    rows = read_rows(path)
    names = set().union(*rows) if rows else set()
    if "ranks" in names:
        needed, parse = KWISE, kwise
    else:
        needed, parse = PAIRWISE, pairwise
    for name in needed:
        if name not in names:
            have = ", ".join(sorted(names)) or "none"
            raise EvaluationError(
                f"{path}: lacks the column {name!r} (it has {have}); votes on images have "
                f"{', '.join(PAIRWISE)}, or prompt, images, ranks"
            )
    return [parse(row, f"{path}: row {number}") for number, row in enumerate(rows, start=1)]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a table as dictionaries; raises EvaluationError where there are none."""
    if path.suffix.lower() != ".jsonl":
        rows = read_table(path, ()).to_pylist()
    elif not path.is_file():
        raise EvaluationError(f"{path}: no such file")
    else:
        rows = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                row = json.loads(line) if line.strip() else None
            except ValueError as error:
                raise EvaluationError(f"{path}: line {number} is not JSON: {error}") from error
            if isinstance(row, dict):
                rows.append(row)
    if not rows:
        raise EvaluationError(f"{path}: holds no vote")
    return rows


def pairwise(row: Mapping[str, Any], where: str) -> Ranking:
    """A row of the votes table as a ranking of two."""
    values = [row.get(name) for name in PAIRWISE]
    if not all(isinstance(value, str) and value for value in values):
        lacking = next(n for n, v in zip(PAIRWISE, values, strict=True) if not v)
        raise EvaluationError(f"{where}: has no {lacking}; leave such votes out")
    prompt, image_a, image_b, outcome = map(str, values)
    if outcome not in RANKS:
        raise EvaluationError(f"{where}: outcome {outcome!r} is not a, b or tie")
    models = (row.get("model_a"), row.get("model_b"))
    known = (str(models[0]), str(models[1])) if all(models) else None
    return Ranking(prompt, (image_a, image_b), RANKS[outcome], known)


def kwise(row: Mapping[str, Any], where: str) -> Ranking:
    """A row of the sibling table; its lists have one length, and ranks are numbers."""
    prompt, images, ranks, models = (row.get(n) for n in ("prompt", "images", "ranks", "models"))
    lists = [one for one in (images, ranks, models) if isinstance(one, list)]
    if len(lists) != (2 if models is None else 3) or len({len(one) for one in lists}) != 1:
        raise EvaluationError(f"{where}: images, ranks and models must be lists of one length")
    images, ranks = lists[:2]
    try:
        numbers = tuple(float(rank) for rank in ranks)
    except (TypeError, ValueError) as error:
        raise EvaluationError(f"{where}: ranks {ranks} are not numbers") from error
    if not prompt or len(set(images)) < len(images) or len(images) < 2:
        raise EvaluationError(f"{where}: needs a prompt and two or more different images")
    known = None if models is None else tuple(map(str, models))
    return Ranking(str(prompt), tuple(map(str, images)), numbers, known)


def image_opener(votes: Path, images: Path | None) -> Callable[[str], Image.Image]:
    """A function from an image's name in the votes to the image, RGB.

    images : parquet with columns image and bytes; None where names are paths relative to the
        votes' folder. The function raises EvaluationError naming what is not there.
    """
    if images is None:
        return lambda name: _open(votes.parent / name, str(votes.parent / name))
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
