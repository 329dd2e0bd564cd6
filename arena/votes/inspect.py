"""What `python -m arena inspect` says of the votes beyond their counts, line by line."""

from datetime import UTC, datetime

import numpy as np
import polars as pl

from arena.schema import UNNAMED
from arena.votes.open import Reading

# A rater who gave fewer votes tells little about itself.
FEW = 5


def lines_of(reading: Reading) -> list[str]:
    """Return one line for each thing that a person should know of these votes."""
    votes = reading.votes
    return [
        *_rankings(reading),
        *_unnamed(votes),
        *_images(votes),
        *_raters(votes),
        *_future(votes),
    ]


def _rankings(reading: Reading) -> list[str]:
    rankings = reading.rankings
    if rankings.is_empty():
        return []
    sizes = rankings["ranks"].list.len().to_numpy().astype(np.int64)
    tied = int((rankings["ranks"].list.n_unique().to_numpy() < sizes).sum())
    images = f"{sizes.min()} to {sizes.max()}" if np.ptp(sizes) else f"{sizes[0]}"
    pairs = int((sizes * (sizes - 1) // 2).sum())
    return [
        f"K-wise votes: {rankings.height:,} of {images} images, {tied:,} with ties; "
        f"{pairs:,} of the votes are their pairs"
    ]


def _unnamed(votes: pl.DataFrame) -> list[str]:
    unnamed = votes.filter((pl.col("model_a") == UNNAMED) | (pl.col("model_b") == UNNAMED)).height
    if not unnamed:
        return []
    return [
        f"models not named: in {unnamed:,} votes; their images share one prior, so they inform the "
        "joint gap and not the ratings"
    ]


def _images(votes: pl.DataFrame) -> list[str]:
    seen = pl.concat([votes["image_a"], votes["image_b"]]).drop_nulls()
    if seen.is_empty():
        return ["images: not named"]
    counts = seen.value_counts()["count"].to_numpy()
    more = int((counts > 1).sum())
    return [
        f"votes an image: {_spread(counts)}; "
        f"{more:,} images ({more / len(counts):.0%}) were compared more than once"
    ]


def _raters(votes: pl.DataFrame) -> list[str]:
    counts = votes["rater"].drop_nulls().value_counts()["count"].to_numpy()
    if not len(counts):
        return []
    few = int((counts < FEW).sum())
    return [f"votes a rater: {_spread(counts)}; {few:,} gave fewer than {FEW}"]


def _spread(counts: np.ndarray) -> str:
    return f"{counts.min():,} to {counts.max():,}, median {np.median(counts):g}"


def _future(votes: pl.DataFrame) -> list[str]:
    late = votes.filter(pl.col("created_at") > datetime.now(UTC))
    if late.is_empty():
        return []
    return [
        f"in the future: {late.height:,} votes, such as {late['vote_id'][0]} of "
        f"{late['created_at'][0]:%Y-%m-%d}; they count as the latest"
    ]
