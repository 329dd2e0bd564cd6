"""The human preference data sets HPD v3 and HPD v2 (Wu et al., 2023; Ma et al., 2025).

v3 (`MizzenAI/HPDv3`): pairs; `path1` is the preferred image, `choice_dist` says how many raters
chose each, and where `model1` is `model2` (Midjourney) the vote trains but tells the arena nothing.
v2 (`ymhao/HPDv2`): no model names, so all images share one prior. Its `train.json` has pairs
(`file_path`, `human_preference`), its `test.json` rankings of nine images: one by every annotator
in `raw_annotations` beside the merged `rank`, which is their sum and not read besides. In v1
(tgxs002/align_sd, `preference_train.json`) `human_preference` is the number of the image that was
chosen: a vote against each of the others.
"""

from collections.abc import Iterator
from typing import Any

import polars as pl

from arena.schema import UNNAMED
from arena.votes.layout import Format, Found, Record, decided


def _v3(rows: pl.DataFrame, _: str | None) -> pl.DataFrame:
    """Read the two counts; image_a is the preferred one where there are none.

    Pairs from Pick-a-Pic and ImageReward name no model, and those from HPD v2 call it hpdv2.
    """
    for name in ("model_a", "model_b"):
        told = pl.col(name) if name in rows.columns else pl.lit(None, pl.String)
        rows = rows.with_columns(told.fill_null(UNNAMED).replace("hpdv2", UNNAMED).alias(name))
    rows = rows.with_columns(outcome=pl.lit("a"))
    if "choice_dist" not in rows.columns:
        return rows
    counts = pl.col("choice_dist")
    if rows.schema["choice_dist"] == pl.String:
        # As JSON, Python and numpy show a list.
        form = r"^[\[(]\s*\d+(\.0*)?[\s,]+\d+(\.0*)?\s*[\])]$"
        numbers = counts.str.extract_all(r"\d+(\.0*)?").cast(pl.List(pl.Float64))
        counts = pl.when(counts.str.contains(form)).then(numbers)
    one, two = (counts.list.get(k, null_on_oob=True) for k in (0, 1))
    outcome = decided(one > two, one < two, one == two, pl.lit("a"))
    return rows.with_columns(votes_a=one, votes_b=two, outcome=outcome)


HPD_V3 = Format(
    "hpd_v3",
    "MizzenAI/HPDv3, train.json",
    ["path1 path2"],
    {
        "model_a": ("model1",),
        "model_b": ("model2",),
        "prompt": ("prompt",),
        "image_a": ("path1",),
        "image_b": ("path2",),
    },
    also=["choice_dist"],
    needs=("image_a", "image_b"),
    frame=_v3,
)


def _v2(records: Iterator[Record], found: Found) -> Iterator[Record]:
    for row, record in records:
        images = record.get("file_path") or record.get("image_path")
        shared = {"prompt": record.get("prompt")}
        rankings = record.get("raw_annotations") or record.get("raw_annotation")
        if isinstance(rankings, list) and rankings:
            for one in rankings:
                one = one if isinstance(one, dict) else {}
                said = {"images": images, "ranks": one.get("rank"), "rater": one.get("user_hash")}
                yield row, shared | said
        elif "rank" in record:
            yield row, shared | {"images": images, "ranks": record["rank"]}
        elif not isinstance(images, list) or len(images) < 2:
            found.fault(row, "file_path", "not two paths")
        else:
            chosen = record.get("human_preference")
            shared |= {"model_a": UNNAMED, "model_b": UNNAMED, "rater": record.get("user_hash")}
            if type(chosen) is int and 0 <= chosen < len(images):
                for other in images[:chosen] + images[chosen + 1 :]:
                    yield (
                        row,
                        shared | {"image_a": images[chosen], "image_b": other, "outcome": "a"},
                    )
            elif len(images) > 2:
                found.fault(row, "human_preference", f"not one of {len(images)} images")
            else:
                said = {"image_a": images[0], "image_b": images[1], "outcome": _outcome(chosen)}
                yield row, shared | said


def _outcome(preference: Any) -> Any:
    """Return a, b or tie for the two shares of preference, else what was there."""
    if not isinstance(preference, list) or len(preference) != 2:
        return preference
    one, two = preference
    if not all(isinstance(share, int | float) and 0 <= share <= 1 for share in preference):
        return preference
    return "tie" if one == two else "a" if one > two else "b"


HPD_V2 = Format(
    "hpd_v2",
    "ymhao/HPDv2, train.json and test.json; tgxs002/align_sd, preference_train.json",
    ["human_preference|raw_annotations|raw_annotation", "image_path rank"],
    lacks=["prompt_id"],  # ImageRewardDB's table of images, each with its rank
    records=_v2,
)


def _pairs(rows: pl.DataFrame, _: str | None) -> pl.DataFrame:
    """Turn `pref`, 1 for the left image and -1 for the right one, into an outcome."""
    side = pl.col("outcome").cast(pl.Float64, strict=False)
    outcome = decided(side == 1, side == -1, side == 0, pl.col("outcome").cast(pl.String))
    unnamed = pl.lit(UNNAMED)
    return rows.with_columns(model_a=unnamed, model_b=unnamed, outcome=outcome)


HPD_V2_PAIRS = Format(
    "hpd_v2_pairs",
    "ymhao/HPDv2, test_no_embeds.parquet",
    ["image_left_id image_right_id pref"],
    {
        "outcome": ("pref",),
        "prompt": ("prompt",),
        "image_a": ("image_left_id",),
        "image_b": ("image_right_id",),
        "rater": ("user_id",),
    },
    needs=("outcome", "image_a", "image_b"),
    frame=_pairs,
)
