"""How far the arena moved since a policy was trained: whether training again is worth a GPU.

Every pair of either training set counts once: one that both have by how much its gap changed, one
that came or went as a whole gap.

    change = (sum_common |g_new - g_old| + #came + #went) / (#common + #came + #went)

The gaps are in units of their own mean, as training takes them, so a change of 0.1 says that the
margins the policy was asked for moved by a tenth of the mean margin, on average.
"""

from dataclasses import dataclass

import polars as pl

from assets.lake import Lake
from assets.study import Study
from training.study_file import gap_column

# A policy's own copy of the training set, in its folder.
TRAINED_ON = "training_set.parquet"


@dataclass(frozen=True)
class Movement:
    """What is different between two training sets; moved: the mean over the common pairs."""

    common: int
    came: int
    went: int
    moved: float

    @property
    def change(self) -> float:
        """The measure of this module; 0 for equal sets, 1 where nothing is left."""
        pairs = self.common + self.came + self.went
        return (self.moved * self.common + self.came + self.went) / pairs if pairs else 0.0

    def __str__(self) -> str:
        return (
            f"{self.came} pairs came, {self.went} went, the gaps of the other {self.common} moved "
            f"by {self.moved:.3f} of the mean gap: change {self.change:.3f}"
        )


def movement(
    old: pl.DataFrame, new: pl.DataFrame, gap: str | None, spread: float = 0.0
) -> Movement:
    """Compare the training pairs of two sets by vote, winner and loser.

    gap: the column that holds the gaps, None where the objective uses none. spread: the policy's
    `margin_spread`.
    """
    key = ["vote_id", "image_winner", "image_loser"]
    columns = key + ([gap] if gap else [])
    before, after = (each.filter(pl.col("split") == "train").select(columns) for each in (old, new))
    if gap:
        own = pl.col(gap)
        wide = (own - own.mean()) * spread / own.std(ddof=0) + 1
        scaled = wide if spread else own / own.mean()
        before, after = before.with_columns(scaled), after.with_columns(scaled)
    common = before.join(after, on=key, suffix="_new", nulls_equal=True)
    moved = (common[f"{gap}_new"] - common[gap]).abs().mean() if gap and common.height else 0.0
    return Movement(
        common=common.height,
        came=after.height - common.height,
        went=before.height - common.height,
        moved=float(moved or 0.0),  # type: ignore[arg-type]
    )


def moved_since_training(study: Study, lake: Lake) -> dict[str, Movement | None]:
    """Return, for every trained policy, how far its training set moved; None: never trained."""
    new = lake.read("training_set")
    found: dict[str, Movement | None] = {}
    for name, config in study.policies.items():
        if config is None:
            continue
        path = lake.current("policies", name, TRAINED_ON)
        gap = gap_column(study.raw, config) if config.reads_gap else None
        old = pl.read_parquet(path) if path.exists() else None
        lacking = old is None or (gap is not None and gap not in old.columns)
        found[name] = (
            None if lacking or old is None else movement(old, new, gap, config.margin_spread)
        )
    return found
