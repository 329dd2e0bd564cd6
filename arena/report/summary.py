"""What a table of votes holds, counted once, for the terminal, the page and the pipeline."""

from dataclasses import dataclass
from datetime import datetime

import polars as pl


@dataclass(frozen=True)
class Summary:
    """Counts of a table of votes; first and last: the times of its votes, None without any."""

    votes: int
    ties: int
    models: int
    pairs: int
    same_model: int
    raters: int
    images: int
    shown: int
    prompts: int
    first: datetime | None
    last: datetime | None

    @property
    def days(self) -> str:
        """Return from when to when, such as "2024-02-12 to 2024-02-20", or nothing."""
        return f"{self.first:%Y-%m-%d} to {self.last:%Y-%m-%d}" if self.first else ""


def summary(votes: pl.DataFrame | pl.LazyFrame) -> Summary:
    """Return the counts of votes (columns `schema.VOTES`) in one pass; a lazy frame is streamed.

    shown: how often an image was shown, so that shown / images is the votes per image.
    """
    model_a, model_b = pl.col("model_a"), pl.col("model_b")
    pair = pl.struct(
        low=pl.min_horizontal(model_a, model_b), high=pl.max_horizontal(model_a, model_b)
    )
    found = (
        votes.lazy()
        .select(
            votes=pl.len(),
            ties=(pl.col("outcome") == "tie").sum(),
            models=_distinct("model_a", "model_b"),
            pairs=pair.filter(model_a != model_b).n_unique(),
            same_model=(model_a == model_b).sum(),
            raters=_distinct("rater"),
            images=_distinct("image_a", "image_b"),
            shown=pl.col("image_a").count() + pl.col("image_b").count(),
            prompts=pl.col("prompt").fill_null(pl.col("prompt_id")).drop_nulls().n_unique(),
            first=pl.col("created_at").min(),
            last=pl.col("created_at").max(),
        )
        .collect(engine="streaming")
    )
    return Summary(**found.row(0, named=True))


def _distinct(first: str, *more: str) -> pl.Expr:
    values = pl.col(first).unique()
    for name in more:
        values = values.append(pl.col(name).unique())
    return values.drop_nulls().n_unique()
