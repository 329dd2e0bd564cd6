"""The one rule by which a policy is called better, wherever that is said.

The terminal, the check, the champion and the comparison's page say the same of the same numbers:
by the headline scorer, over the same prompts and noise, with Holm's correction over every policy
and scorer that is compared at once.
"""

from collections.abc import Sequence

import polars as pl

from evaluation.intervals import ALPHA
from evaluation.statistics import Comparison, compare, with_holm

RULE = f"win_rate > 0.5 and p_holm < {ALPHA}"
BETTER, WORSE, NOT_TOLD_APART, ITSELF = "better", "worse", "not told apart", "the baseline"


def verdict(row: Comparison) -> str:
    """Return in two words how a policy stands to the baseline."""
    if row.policy == row.baseline:
        return ITSELF
    return {"better": BETTER, "worse": WORSE, "open": NOT_TOLD_APART}[row.verdict]


def compared(
    scores: pl.DataFrame, baseline: str, headline: str, scorers: Sequence[str]
) -> dict[str, Comparison]:
    """Return policy -> its comparison with the baseline by the headline scorer.

    scores: as `evaluation.statistics.compare` takes them; scorers: all that are shown together with
    the headline, for Holm's correction.
    """
    rows = [
        row
        for scorer in scorers
        if scorer in scores.columns
        for row in compare(scores, baseline, scorer).values()
    ]
    return {row.policy: row for row in with_holm(rows) if row.scorer == headline}
