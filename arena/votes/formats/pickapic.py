"""Pick-a-Pic v1 and v2 (Kirstain et al., 2023): parquet or webdataset tars, images or none.

One row is one comparison: `caption`, `model_0`, `model_1`, `label_0`, `label_1` (1 and 0, or 0.5
each for a tie). The images' bytes (`jpg_0`, `jpg_1`) are never read here: an image is named by its
uid, and `images` finds its bytes when a training set needs them.
"""

import polars as pl

from arena.votes.layout import Format, decided

NAMES = {
    "model_a": ("model_0",),
    "model_b": ("model_1",),
    "outcome": ("label_0",),
    "prompt": ("caption",),
    "image_a": ("image_0_uid",),
    "image_b": ("image_1_uid",),
    "rater": ("user_id",),
    "vote_id": ("vote_id",),
    "created_at": ("created_at",),
}


def _outcome(rows: pl.DataFrame, _: str | None) -> pl.DataFrame:
    """Turn the two labels into an outcome; a row without a label keeps what it says."""
    one, two = (pl.col(name).cast(pl.Float64, strict=False) for name in ("outcome", "label_1"))
    told = pl.format(
        "{} and {}", *(pl.col(n).cast(pl.String).fill_null("none") for n in ("outcome", "label_1"))
    )
    unlabelled = pl.lit(False)
    if "has_label" in rows.columns:
        unlabelled = pl.col("has_label").cast(pl.String).str.to_lowercase().is_in(["false", "0"])
    tie = (one == 0.5) & (two == 0.5)
    outcome = decided((one == 1) & (two == 0), (one == 0) & (two == 1), tie, told)
    no_label = pl.when(unlabelled.fill_null(False)).then(pl.lit("no label"))
    return rows.with_columns(outcome=no_label.otherwise(outcome))


PICKAPIC = Format(
    "pickapic",
    "yuvalkirstain/pickapic_v2 and pickapic_v2_no_images",
    ["label_0|label_1"],
    NAMES,
    also=["label_1", "has_label"],
    needs=("model_a", "model_b", "outcome", "label_1"),
    frame=_outcome,
)
