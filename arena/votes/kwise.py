"""Published K-wise votes: ImageRewardDB and K-Sort Arena, one JSON object a ranking."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from arena.votes.files import json_records
from arena.votes.raw import Broken, RawRankings, as_text, rejections

IMAGEREWARD = {"images": "generations", "ranks": "ranking", "prompt_id": "id"}
KSORT = {"models": "models_name", "ranks": "img_rank", "prompt": "prompt"}

# Names that K-Sort's votes and its leaderboard spell differently.
ALIASES = {"LCM": "LCM-v1.5", "Dreamshaper-xl-turbo": "Dreamshaper-xl"}


def read_imagereward(path: Path) -> Iterator[RawRankings]:
    """Read ImageRewardDB (Xu et al., 2023): 4 to 9 images, no model names; rank 1 is best."""
    broken: Broken = []
    records = [
        {
            "row": row,
            "prompt_id": as_text(record.get("id")),
            "prompt": as_text(record.get("prompt")),
            "images": record.get("generations"),
            "ranks": record.get("ranking"),
        }
        for row, record in json_records(path, broken)
    ]
    yield RawRankings(records, rejections(broken, path), IMAGEREWARD)


def read_ksort(path: Path) -> Iterator[RawRankings]:
    """Read K-Sort's votes: `prompt` [text], `img_rank`, `models_name` ["<prefix>_<model>", ...].

    A `result.json` in the folder of its instance ranks the pictures beside it, `0.jpg` and on;
    without the pictures these are names alone.
    """
    broken: Broken = []
    records = []
    for row, record in json_records(path, broken):
        prompt, ranks = record.get("prompt"), record.get("img_rank")
        records.append(
            {
                "row": row,
                "prompt": prompt[0] if isinstance(prompt, list) and prompt else prompt,
                "models": _models(record.get("models_name")),
                "images": _beside(path, ranks) if path.name == "result.json" else None,
                "ranks": ranks,
            }
        )
    yield RawRankings(records, rejections(broken, path), KSORT)


def _beside(path: Path, ranks: Any) -> list[str] | None:
    """Return the pictures in the folder of an instance, whole paths where they are there."""
    if not isinstance(ranks, list):
        return None
    pictures = [path.parent / f"{k}.jpg" for k in range(len(ranks))]
    folder = path.parent.name
    return [str(p.resolve()) if p.is_file() else f"{folder}/{p.name}" for p in pictures]


def _models(entries: Any) -> Any:
    """Return the leaderboard's names of entries "<prefix>_<model>[_...]"."""
    if not isinstance(entries, list):
        return entries
    names = [entry.split("_")[1] if "_" in str(entry) else entry for entry in entries]
    return [ALIASES.get(name, name) if isinstance(name, str) else name for name in names]
