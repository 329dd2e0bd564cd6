"""Votes that rank several images at once: the sibling table, ImageRewardDB and K-Sort Arena."""

from collections.abc import Iterator
from typing import Any

from arena import schema
from arena.votes.layout import Format, Found, Record

# Names that K-Sort's votes and its leaderboard spell differently.
ALIASES = {"LCM": "LCM-v1.5", "Dreamshaper-xl-turbo": "Dreamshaper-xl"}


def _as_they_are(records: Iterator[Record], found: Found) -> Iterator[Record]:
    del found
    # How many rows a ranking was gathered from is ours to say, and no file's.
    names = [name for name in schema.RANKINGS if name != "rows"]
    yield from ((row, {name: record.get(name) for name in names}) for row, record in records)


RANKINGS = Format(
    "rankings",
    "design.md, section 3: the sibling table of this project",
    ["ranks"],
    lacks=["outcome"],
    records=_as_they_are,
)


def _imagereward(records: Iterator[Record], found: Found) -> Iterator[Record]:
    """Read ImageRewardDB (Xu et al., 2023): 4 to 9 images, no model names; rank 1 is best."""
    del found
    for row, record in records:
        yield (
            row,
            {
                "prompt_id": record.get("id"),
                "prompt": record.get("prompt"),
                "images": record.get("generations"),
                "ranks": record.get("ranking"),
            },
        )


IMAGEREWARD = Format(
    "imagereward",
    "THUDM/ImageRewardDB, {train,validation,test}.json",
    ["generations ranking"],
    records=_imagereward,
)


def _ksort(records: Iterator[Record], found: Found) -> Iterator[Record]:
    """Read `prompt` [text], `img_rank`, `models_name` ["<prefix>_<model>", ...]."""
    del found
    for row, record in records:
        prompt, ranks = record.get("prompt"), record.get("img_rank")
        yield (
            row,
            {
                "prompt": prompt[0] if isinstance(prompt, list) and prompt else prompt,
                "models": _models(record.get("models_name")),
                # A result.json ranks the pictures in its own folder.
                "images": [f"{k}.jpg" for k in range(len(ranks))]
                if isinstance(ranks, list)
                else None,
                "ranks": ranks,
            },
        )


def _models(entries: Any) -> Any:
    """Return the leaderboard's names of entries "<prefix>_<model>[_...]"."""
    if not isinstance(entries, list):
        return entries
    names = [entry.split("_")[1] if "_" in str(entry) else entry for entry in entries]
    return [ALIASES.get(name, name) if isinstance(name, str) else name for name in names]


KSORT = Format(
    "ksort",
    "K-Sort Arena's Image/<instance>/result.json (ksort/K-Sort-Eval)",
    ["img_rank|models_name"],
    records=_ksort,
)
