"""Pairs in order, the winner and the loser, as small ranking tools and DPO sets write them.

A path's folder is its model where no model is named, and names that are no paths are the models
themselves. A pair that was skipped has no winner and is no vote; a column may say that it is a tie.
Layouts: QuentinWach/image-ranker, comparisons.csv (`Winner,Loser`), and
data-is-better-together/open-image-preferences-v1-binarized (`chosen`, `chosen_model`, ...).
"""

from collections.abc import Iterator
from pathlib import PurePosixPath

from arena.schema import UNNAMED
from arena.votes.formats.tables import COLUMNS
from arena.votes.layout import Format, Found, Record, is_path, told
from arena.votes.spellings import NOTHING
from arena.votes.text_tables import as_text

OTHERS = ("vote_id", "source", "prompt_id", "prompt", "rater", "created_at", "split", "count")
NAMES = {
    "model_a": ("winner_model", "winning_model", "chosen_model"),
    "model_b": ("loser_model", "losing_model", "rejected_model"),
    "image_a": ("winner", "chosen", "winner_image", "chosen_image"),
    "image_b": ("loser", "rejected", "loser_image", "rejected_image"),
    "outcome": ("tie", "is_tie", "draw", "is_draw"),
    **{name: COLUMNS[name] for name in (*OTHERS, "dimension", "anonymous")},
}
YES = ("true", "1", "1.0", "yes", "tie", "draw")


def _votes(records: Iterator[Record], found: Found) -> Iterator[Record]:
    for row, record in records:
        said = told(record, NAMES)
        sides = [as_text(said[f"model_{side}"]) or as_text(said[f"image_{side}"]) for side in "ab"]
        if any((side or "").strip().lower() in NOTHING for side in sides):
            found.skip("pairs that were skipped")
            continue
        for side in "ab":
            name = (as_text(said[f"image_{side}"]) or "").strip()
            if said[f"model_{side}"] is None:
                said[f"model_{side}"] = _model(name) if is_path(name) else name
                said[f"image_{side}"] = name if is_path(name) else None
        tied = (as_text(said["outcome"]) or "").strip().lower() in YES
        yield row, said | {"outcome": "tie" if tied else "a"}


def _model(image: str) -> str:
    return PurePosixPath(image.replace("\\", "/")).parent.name or UNNAMED


IMAGE_RANKER = Format(
    "image_ranker",
    "QuentinWach/image-ranker, comparisons.csv, and pairs of DPO with their models",
    ["winner loser", *map(" ".join, zip(NAMES["model_a"], NAMES["model_b"], strict=True))],
    lacks=["outcome"],
    records=_votes,
)
