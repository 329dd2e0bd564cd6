"""The human preference data sets HPD v3 and HPD v2 (Wu et al.), as their JSON files have them.

v3: pairs; `path1` is the preferred image, and where `model1` is `model2` (Midjourney) the vote
trains but tells the arena nothing. v2: no model names, so all images share one prior; pairs with
`human_preference` for training, rankings of nine images with `rank` for the test.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arena.schema import UNNAMED
from arena.votes.files import json_records
from arena.votes.raw import Broken, Raw, RawRankings, as_text, frame, rejections

V3 = {
    "model_a": "model1",
    "model_b": "model2",
    "prompt": "prompt",
    "image_a": "path1",
    "image_b": "path2",
    "confidence": "confidence",
}


def read_hpd_v3(path: Path) -> Iterator[Raw]:
    """Read HPD v3's pairs: image_a is the preferred one."""
    broken: Broken = []
    rows: list[list[Any]] = []
    for row, pair in json_records(path, broken):
        lacks = next((key for key in ("path1", "path2") if not as_text(pair.get(key))), None)
        if lacks:
            broken.append((row, lacks, "empty", None))
        else:
            rows.append([row, "a", *(as_text(pair.get(name)) for name in V3.values())])
    yield Raw(frame(rows, ["outcome", *V3]), rejections(broken, path), V3)


def read_hpd_v2(path: Path) -> Iterator[Raw | RawRankings]:
    """Read HPD v2: pairs of the training file, rankings of the test file."""
    broken: Broken = []
    pairs: list[list[Any]] = []
    rankings: list[dict[str, Any]] = []
    for row, record in json_records(path, broken):
        images, prompt = record.get("image_path"), as_text(record.get("prompt"))
        if "rank" in record:
            rankings.append(
                {"row": row, "prompt": prompt, "images": images, "ranks": record["rank"]}
            )
            continue
        if not isinstance(images, list) or len(images) != 2 or not all(map(as_text, images)):
            broken.append((row, "image_path", "not two paths", as_text(images)))
            continue
        outcome = _outcome(record.get("human_preference"))
        pairs.append([row, UNNAMED, UNNAMED, outcome, prompt, *map(as_text, images)])
    columns = ["model_a", "model_b", "outcome", "prompt", "image_a", "image_b"]
    names = {"outcome": "human_preference"}
    yield Raw(frame(pairs, columns), rejections(broken, path), names)
    if rankings:
        yield RawRankings(rankings, rejections([]), {"ranks": "rank", "images": "image_path"})


def _outcome(preference: Any) -> str | None:
    """Return a, b or tie for the two shares of preference, else what was there."""
    if not isinstance(preference, list) or len(preference) != 2:
        return as_text(preference)
    one, two = preference
    if not all(isinstance(share, int | float) and 0 <= share <= 1 for share in preference):
        return as_text(preference)
    return "tie" if one == two else "a" if one > two else "b"
