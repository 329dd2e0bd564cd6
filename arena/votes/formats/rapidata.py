"""Rapidata: human answers counted per pair of images, in three layouts.

`votes_image1`, `votes_image2` count the raters (`Rapidata/*_t2i_human_preference` and kin); newer
tables have weighted shares in several dimensions (`weighted_results_image1_preference`, or
`weighted_results1_Alignment` in those of videos), of which one is read; the SDK's result of an
order names its assets, whose prefix is the model. Raters are not named: their country and score are
no name.
"""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import polars as pl

from arena.votes.faults import VotesError
from arena.votes.formats.tables import majority
from arena.votes.layout import Format, Found, Record, decided, first

SIDES = {
    "model_a": ("model1",),
    "model_b": ("model2",),
    "image_a": ("image1_path", "image1"),
    "image_b": ("image2_path", "image2"),
    "prompt": ("prompt",),
}
SHARE = re.compile(r"^weighted_results?(?:_image)?([12])_(\w+)$")
SHARES_LIKE = "weighted_result*[12]_*"
# The asset of a model is called after it and a number: flux_001.jpg, dalle-3_155_0.jpg.
ASSET = re.compile(r"^(.+?)(?:[_/]\d+)+(?:\.\w+)?$")
TIES = ("both", "neither", "tie", "equal")


COUNTS = Format(
    "rapidata",
    "Rapidata/700k_Human_Preference_Dataset_FLUX_SD3_MJ_DALLE3, train_*.parquet",
    ["votes_image1 votes_image2 model1 model2"],
    {**SIDES, "votes_a": ("votes_image1",), "votes_b": ("votes_image2",)},
    needs=("model_a", "model_b", "votes_a", "votes_b"),
    frame=majority,
)


def _of_one_dimension(rows: pl.DataFrame, dimension: str | None) -> pl.DataFrame:
    """Take the outcome from the larger share in the dimension; without a name, in `preference`."""
    sides: dict[str, dict[str, str]] = {}
    for match in filter(None, map(SHARE.match, rows.columns)):
        sides.setdefault(match[2], {})[match[1]] = match[0]
    there = [name for name, both in sides.items() if len(both) == 2]
    asked = dimension.lower() if dimension else "preference"
    asked = asked if dimension or asked in there else first(there)
    if asked not in there:
        known = ", ".join(there) or "none with shares of both images"
        raise VotesError(f"no dimension is called {asked}; there are {known}")
    of_side = sides[asked]
    one, two = (pl.col(of_side[side]).cast(pl.Float64, strict=False) for side in "12")
    outcome = decided(one > two, one < two, one == two)
    return rows.with_columns(outcome=outcome, dimension=pl.lit(asked))


SHARES = Format(
    "rapidata_shares",
    "Rapidata/*-t2i-human-preference: weighted shares in preference, alignment and coherence",
    [f"{SHARES_LIKE} model1 model2"],
    SIDES,
    also=[SHARES_LIKE],
    needs=("model_a", "model_b"),
    frame=_of_one_dimension,
)


def _orders(records: Iterator[Record], found: Found) -> Iterator[Record]:
    row = 0
    for _, document in records:
        results = document.get("results")
        for result in results if isinstance(results, list) else []:
            row += 1
            counts = result.get("aggregatedResults") if isinstance(result, dict) else None
            if not isinstance(counts, dict):
                found.fault(row, "aggregatedResults", "no counts of two assets")
                continue
            assets = [name for name in counts if name.lower() not in TIES]
            if len(assets) != 2:
                found.fault(
                    row, "aggregatedResults", f"{len(assets)} assets where two are compared"
                )
                continue
            yield row, _of_assets(result, assets, counts)


def _of_assets(result: dict[str, Any], assets: list[str], counts: dict[str, Any]) -> dict[str, Any]:
    a, b = assets
    tied = sum(counts[name] for name in counts if name not in assets and _is_count(counts[name]))
    one, two = counts[a], counts[b]
    outcome = None
    if _is_count(one) and _is_count(two):
        outcome = "tie" if one == two or tied > max(one, two) else "a" if one > two else "b"
    model_a, model_b = _models(a, b)
    return {
        "model_a": model_a,
        "model_b": model_b,
        "image_a": a,
        "image_b": b,
        "prompt": result.get("context"),
        "votes_a": one,
        "votes_b": two,
        "votes_tie": tied or None,
        "outcome": outcome,
    }


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _models(*assets: str) -> list[str]:
    """Return the models of two assets: what stands before their numbers, or else their prefixes."""
    names = [PurePosixPath(urlsplit(asset).path).name for asset in assets]
    found = [ASSET.match(asset) for asset in (assets if "://" not in assets[0] else names)]
    if all(found):
        return [match[1] for match in found if match]
    prefixes = [re.split(r"[_/.]", name)[0] for name in names]
    folders = [PurePosixPath(urlsplit(asset).path).parent.name for asset in assets]
    stems = [PurePosixPath(name).stem for name in names]
    # Names that tell the two apart, the shortest first.
    kinds = (folders if all(folders) and "://" not in assets[0] else prefixes, prefixes, stems)
    return next((kind for kind in kinds if kind[0] != kind[1]), prefixes)


ORDER = Format(
    "rapidata_order",
    "the result of an order as Rapidata's SDK saves it (order.get_results())",
    ["info results"],
    records=_orders,
)
