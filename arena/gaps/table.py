"""Gaps as tables: written to parquet, or by several estimators at once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from arena.atomic import replacing
from arena.gaps.joint import JointReport, joint_gaps
from arena.gaps.pairwise import capability_gaps, pairwise_gaps
from arena.ratings.table import Ratings

SLICE = 1 << 20  # votes
SCHEMA = pa.schema(
    [(name, pa.large_string()) for name in ("vote_id", "winner", "loser", "outcome")]
    + [(name, pa.float64()) for name in ("gap", "gap_sd", "probability")]
)


def gaps_of(
    votes: pl.DataFrame,
    ratings: Ratings,
    estimator: str = "pairwise",
    spread: str = "posterior",
    signed: bool = False,
) -> tuple[pl.DataFrame, JointReport | None]:
    """Return the gaps of every vote by one estimator, and the joint one's report.

    estimator: pairwise, capability or joint. spread: not for joint, which infers its own.
    """
    if estimator == "joint":
        return joint_gaps(votes, ratings, signed)
    by_models = capability_gaps if estimator == "capability" else pairwise_gaps
    return by_models(votes, ratings, spread, signed), None


def write_gaps(
    votes: pl.DataFrame, ratings: Ratings, out: Path, estimator: str = "pairwise", **how: Any
) -> tuple[str, JointReport | None]:
    """Write the gap of every vote, in input order, to one parquet file; how: as for `gaps_of`.

    A slice of the votes at a time, save for the joint gap, which needs all. Returns `summary` and
    the joint report. Raises NotConvergedError, and writes nothing, where its sweeps were not
    enough.
    """
    report = None
    # Models, outcomes and gaps repeat, so parquet's dictionary holds each once; ids never repeat.
    repeats = [name for name in SCHEMA.names if name != "vote_id"]
    with replacing(Path(out)) as aside:
        with pq.ParquetWriter(aside, SCHEMA, use_dictionary=repeats) as writer:
            for some in [votes] if estimator == "joint" else votes.iter_slices(SLICE):
                gaps, report = gaps_of(some, ratings, estimator, **how)
                if report is not None:
                    report.check()
                writer.write_table(gaps.to_arrow().cast(SCHEMA))
        said = summary(pl.scan_parquet(aside))
    return said, report


def summary(gaps: pl.LazyFrame) -> str:
    """Return counts and moments of gaps (columns `schema.GAPS`) in a sentence."""
    gap, strict = pl.col("gap"), pl.col("outcome") != "tie"
    found = gaps.filter(gap.is_not_null()).select(
        pl.len(),
        strict.sum().alias("strict"),
        gap.min().alias("low"),
        gap.max().alias("high"),
        gap.filter(strict).mean().alias("mean"),
        gap.filter(strict).std(ddof=0).alias("sd"),
        (pl.col("probability") < 0.5).filter(strict).mean().alias("upsets"),
    )
    known, wins, low, high, mean, sd, upsets = found.collect(engine="streaming").row(0)
    without = gaps.select(gap.null_count()).collect(engine="streaming").item()
    if known == 0:
        return "no votes, so no gaps"
    said = f"{known:,} gaps from {low:.4g} to {high:.4g}"
    if without:
        said += f"; {without:,} votes lack an image and have none"
    if wins == 0:
        return f"{said}; every vote is a tie"
    return (
        f"{said}; {wins:,} strict votes with mean {mean:.4g} and standard deviation {sd:.4g}, the "
        f"weaker model won {upsets:.1%}; {known - wins:,} ties"
    )


def gaps_by(
    estimators: Sequence[str],
    votes: pl.DataFrame,
    ratings: Ratings,
    spread: str = "posterior",
    signed: bool = False,
) -> tuple[pl.DataFrame, JointReport | None]:
    """Return the gaps of every vote by each of these estimators, and the joint one's report.

    The first estimator has the plain columns of `schema.GAPS`; gap, gap_sd and probability of every
    other one follow with its name before them, such as joint_gap. A vote without both images has no
    joint gap: null.
    """
    names = dict.fromkeys(estimators)
    found = {name: gaps_of(votes, ratings, name, spread, signed) for name in names}
    (_, (first, _)), *others = found.items()
    numbers = pl.col("gap", "gap_sd", "probability")
    more = [gaps.select(numbers.name.prefix(f"{name}_")) for name, (gaps, _) in others]
    reports = [report for _, report in found.values() if report is not None]
    return pl.concat([first, *more], how="horizontal"), reports[0] if reports else None
