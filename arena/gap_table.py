"""Gaps written to parquet while the votes are read, so that their number is no matter."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from arena.atomic import replacing
from arena.gap import PairwiseGaps
from arena.ratings import Ratings
from arena.votes.stream import votes_in_batches

SCHEMA = pa.schema(
    [(name, pa.large_string()) for name in ("vote_id", "winner", "loser", "outcome")]
    + [(name, pa.float64()) for name in ("gap", "gap_sd", "probability")]
)


@dataclass
class GapSummary:
    """Counts and moments of the gaps written so far."""

    strict: int = 0
    ties: int = 0
    upsets: int = 0  # the model with the lower mu won
    low: float = np.inf
    high: float = -np.inf
    sums: np.ndarray = field(default_factory=lambda: np.zeros(2))  # of gap and gap^2, strict votes

    def add(self, gaps: pl.DataFrame) -> None:
        """Count one batch of gaps."""
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
        if self.strict == 0:
            return f"{said}; every vote is a tie"
        mean, square = self.sums / self.strict
        sd = np.sqrt(max(square - mean**2, 0.0))
        return (
            f"{said}; {self.strict:,} strict votes with mean {mean:.4g} and standard deviation "
            f"{sd:.4g}, the weaker model won {self.upsets / self.strict:.1%}; {self.ties:,} ties"
        )


def write_pairwise_gaps(
    paths: Sequence[Path],
    ratings: Ratings,
    out: Path,
    spread: str = "posterior",
    signed: bool = False,
) -> GapSummary:
    """Write the columns of `schema.GAPS` for every accepted vote, in input order, to `out`."""
    lookup = PairwiseGaps(ratings, spread, signed)
    summary = GapSummary()
    # Models, outcomes and gaps repeat, so parquet's dictionary holds each once; ids never repeat.
    repeats = [name for name in SCHEMA.names if name != "vote_id"]
    with (
        replacing(Path(out)) as aside,
        pq.ParquetWriter(aside, SCHEMA, use_dictionary=repeats) as writer,
    ):
        for votes in votes_in_batches(paths):
            gaps = lookup.of(votes)
            summary.add(gaps)
            writer.write_table(gaps.to_arrow().cast(SCHEMA))
    return summary
