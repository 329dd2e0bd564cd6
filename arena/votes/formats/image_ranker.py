"""Pairs of image paths, winner and loser, as small ranking tools write them: `Winner,Loser`.

An image's folder is its model, and names that are no paths are the models themselves; a pair that
was skipped has no winner and is no vote. Layout: QuentinWach/image-ranker, comparisons.csv.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath

from arena.schema import UNNAMED
from arena.votes.layout import Format, Found, Record, is_path
from arena.votes.spellings import NOTHING


def _votes(records: Iterator[Record], found: Found) -> Iterator[Record]:
    for row, record in records:
        winner, loser = (str(record.get(name) or "").strip() for name in ("winner", "loser"))
        if winner.lower() in NOTHING or loser.lower() in NOTHING:
            found.skip("pairs that were skipped")
            continue
        pair = {"model_a": winner, "model_b": loser, "outcome": "a"}
        if is_path(winner) and is_path(loser):
            pair |= {"image_a": winner, "image_b": loser}
            pair |= {"model_a": _model(winner), "model_b": _model(loser)}
        yield row, pair


def _model(image: str) -> str:
    return PurePosixPath(image.replace("\\", "/")).parent.name or UNNAMED


IMAGE_RANKER = Format(
    "image_ranker",
    "QuentinWach/image-ranker, comparisons.csv",
    ["winner loser"],
    records=_votes,
)
