"""Label Studio's pairwise template, exported as JSON, JSON_MIN or CSV.

JSON has tasks with `data` and their `annotations`; a result of type `pairwise` says `left` or
`right`. JSON_MIN and CSV have one row per annotation, in which the answer stands under the name of
the control tag. `data` has the project's own keys: `to_name` says which are the images, and the
models go by one of the usual pairs of names. A cancelled annotation is no vote. Layout:
labelstud.io/guide/export and labelstud.io/tags/pairwise.
"""

from collections.abc import Iterator
from typing import Any

from arena.votes.formats.tables import IMAGES, MODELS
from arena.votes.layout import Format, Found, Record, first, listed
from arena.votes.spellings import meaning, plain

SIDES = MODELS | IMAGES
# What a task is about is no answer whatever it says.
ANSWERS = ("left", "right", "tie", "both", "neither", "equal")
DATA = {"prompt", *(name for names in SIDES.values() for name in names)}


def _votes(records: Iterator[Record], found: Found) -> Iterator[Record]:
    for row, task in records:
        if isinstance(task.get("annotations"), list):
            yield from _of_task(row, task, found)
        elif task.get("annotation_id") is not None:
            said = {n: _answer({"value": v}) or v for n, v in task.items() if n not in DATA}
            answers = [n for n, v in said.items() if isinstance(v, str) and meaning(plain(v))]
            # A group may be called A.
            asked = min(answers, key=lambda n: said[n].lower() not in ANSWERS, default="")
            yield (
                row,
                _sides(task, ())
                | {
                    "vote_id": task["annotation_id"],
                    "outcome": said.get(asked, task.get(asked)),
                    "rater": _user(task.get("annotator")),
                    "created_at": task.get("created_at"),
                    "prompt": task.get("prompt"),
                },
            )
        else:
            found.skip("tasks without an annotation")


def _of_task(row: int, task: dict[str, Any], found: Found) -> Iterator[Record]:
    data = task.get("data")
    data = data if isinstance(data, dict) else {}
    if not task["annotations"]:
        found.skip("tasks without an annotation")
    for annotation in task["annotations"]:
        if not isinstance(annotation, dict) or annotation.get("was_cancelled"):
            found.skip("annotations that were cancelled")
            continue
        results = [each for each in listed(annotation.get("result")) if isinstance(each, dict)]
        told: dict[str, Any] = first(one for one in results if _answer(one)) or {}
        images = [name.strip() for name in str(told.get("to_name") or "").split(",")]
        yield (
            row,
            _sides(data, images)
            | {
                "vote_id": annotation.get("id"),
                "outcome": _answer(told),
                "rater": _user(annotation.get("completed_by")),
                "created_at": annotation.get("created_at"),
                "prompt": data.get("prompt"),
            },
        )


def _answer(result: dict[str, Any]) -> Any:
    """Return what a pairwise result, or a choice beside it, says."""
    value = result.get("value")
    value = value if isinstance(value, dict) else {}
    return value.get("selected") or first(listed(value.get("choices")))


def _sides(data: dict[str, Any], images: Any) -> dict[str, Any]:
    """Return models and images under the schema's names."""
    found: dict[str, Any] = {}
    for side in (("model_a", "model_b"), ("image_a", "image_b")):
        pairs = list(zip(*(SIDES[name] for name in side), strict=True))
        if side[0] == "image_a" and len(images) == 2:
            pairs.insert(0, tuple(images))
        names = first(pair for pair in pairs if all(name in data for name in pair))
        if names:
            found |= {ours: data[theirs] for ours, theirs in zip(side, names, strict=True)}
    return found


def _user(value: Any) -> Any:
    """Return the number of a user, else the address, who is told as either or as an object."""
    return value.get("id") or value.get("email") if isinstance(value, dict) else value


LABEL_STUDIO = Format(
    "label_studio",
    "Label Studio 1.x, exports JSON, JSON_MIN and CSV of the template Pairwise",
    ["annotations data", "annotation_id annotator"],
    records=_votes,
)
