"""Votes that rank several images at once: the sibling table, ImageRewardDB and K-Sort Arena."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from arena import schema
from arena.votes.layout import Format, Found, Record

# Names that K-Sort's votes and its leaderboard spell differently.
ALIASES = {"LCM": "LCM-v1.5", "Dreamshaper-xl-turbo": "Dreamshaper-xl"}


def _renamed(names: Mapping[str, str]) -> Callable[[Iterator[Record], Found], Iterator[Record]]:
    """Return what gives records other names: the sibling table's -> the file's."""

    def rename(records: Iterator[Record], found: Found) -> Iterator[Record]:
        del found
        for row, record in records:
            yield row, {ours: record.get(theirs) for ours, theirs in names.items()}

    return rename


RANKINGS = Format(
    "rankings",
    "design.md, section 3: the sibling table of this project",
    ["ranks"],
    lacks=["outcome"],
    # How many rows a ranking was gathered from is ours to say, and no file's.
    records=_renamed({name: name for name in schema.RANKINGS if name != "rows"}),
)

# Xu et al., 2023: 4 to 9 images, no model names; rank 1 is best.
IMAGEREWARD = Format(
    "imagereward",
    "THUDM/ImageRewardDB, {train,validation,test}.json",
    ["generations ranking"],
    records=_renamed(
        {"prompt_id": "id", "prompt": "prompt", "images": "generations", "ranks": "ranking"}
    ),
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
