"""Gaps as tables: written to parquet, or by several estimators at once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
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


@dataclass
class GapSummary:
    """Counts and moments of the gaps written so far."""

    strict: int = 0
    ties: int = 0
    without: int = 0  # votes that have no gap
    upsets: int = 0  # the model with the lower mu won
    low: float = np.inf
    high: float = -np.inf
    sums: np.ndarray = field(default_factory=lambda: np.zeros(2))  # of gap and gap^2, strict votes

    def add(self, gaps: pl.DataFrame) -> None:
        """Count one batch of gaps."""
        self.without += gaps["gap"].null_count()
        gaps = gaps.drop_nulls("gap")
        tie = (gaps["outcome"] == "tie").to_numpy()
        gap = gaps["gap"].to_numpy()
        strict = gap[~tie]
        self.ties += int(tie.sum())
        self.strict += len(strict)
        self.upsets += int((gaps["probability"].to_numpy()[~tie] < 0.5).sum())
        self.sums += (strict.sum(), (strict**2).sum())
        if len(gap):
            self.low, self.high = min(self.low, gap.min()), max(self.high, gap.max())

    def __str__(self) -> str:
        if self.strict + self.ties == 0:
            return "no votes, so no gaps"
        said = f"{self.strict + self.ties:,} gaps from {self.low:.4g} to {self.high:.4g}"
        if self.without:
            said += f"; {self.without:,} votes lack an image and have none"
        if self.strict == 0:
            return f"{said}; every vote is a tie"
        mean, square = self.sums / self.strict
        sd = np.sqrt(max(square - mean**2, 0.0))
        return (
            f"{said}; {self.strict:,} strict votes with mean {mean:.4g} and standard deviation "
            f"{sd:.4g}, the weaker model won {self.upsets / self.strict:.1%}; {self.ties:,} ties"
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
) -> tuple[GapSummary, JointReport | None]:
    """Write the gap of every vote, in input order, to one parquet file; how: as for `gaps_of`.

    A slice of the votes at a time, save for the joint gap, which needs all. Raises
    NotConvergedError, and writes nothing, where its sweeps were not enough.
    """
    summary, report = GapSummary(), None
    # Models, outcomes and gaps repeat, so parquet's dictionary holds each once; ids never repeat.
    repeats = [name for name in SCHEMA.names if name != "vote_id"]
    with (
        replacing(Path(out)) as aside,
        pq.ParquetWriter(aside, SCHEMA, use_dictionary=repeats) as writer,
    ):
        for some in [votes] if estimator == "joint" else votes.iter_slices(SLICE):
            gaps, report = gaps_of(some, ratings, estimator, **how)
            if report is not None:
                report.check()
            summary.add(gaps)
            writer.write_table(gaps.to_arrow().cast(SCHEMA))
    return summary, report


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
