"""Votes that look unlike the others: warnings, with the rows to look at.

Each is a function from tables to a check's result; the stages say when they run.
"""

import dagster as dg
import numpy as np
import polars as pl
from scipy.special import ndtr

from arena.calibration import predict
from arena.ratings import Ratings
from arena.votes.comparisons import A_WINS, B_WINS, Comparisons, in_time_order
from assets.pictures import markdown

# Fewer strict votes than this tell no rater from a coin.
LEAST_VOTES = 30
# Favourites win this often by the arena's own account, or a coin would be no surprise.
CLEAR = 0.6
NEWEST = 0.1
SURPRISE = 0.001
WORTH_SAYING = 0.05


def raters_agree(votes: pl.DataFrame, ratings: Ratings) -> dg.AssetCheckResult:
    """Find raters whose favourites win no more often than by a coin, though the arena says more.

    A rater is named who gave at least LEAST_VOTES strict votes between different models, for whom
    the arena expects its favourite to win more than CLEAR of them, and of whose share the lower end
    of the 95% interval (Clopper-Pearson) is not above one half and the upper end is below that
    expectation, corrected for the number of raters judged.
    """
    from scipy.stats import binomtest  # slow to load, and rarely needed

    strict = votes.filter(
        (pl.col("outcome") != "tie")
        & (pl.col("model_a") != pl.col("model_b"))
        & pl.col("rater").is_not_null()
    )
    strict = in_time_order(strict)
    p = predict(ratings, Comparisons.of(strict))
    win = p[:, A_WINS] / np.maximum(p[:, [A_WINS, B_WINS]].sum(1), 1e-12)
    favourite = pl.Series(np.where(win >= 0.5, "a", "b"))
    counted = (
        strict.select("rater", agreed=strict["outcome"] == favourite, said=np.maximum(win, 1 - win))
        .group_by("rater")
        .agg(votes=pl.len(), agreed=pl.col("agreed").sum(), expected=pl.col("said").mean())
        .filter((pl.col("votes") >= LEAST_VOTES) & (pl.col("expected") > CLEAR))
    )
    odd = []
    for row in counted.sort("rater").iter_rows(named=True):
        test = binomtest(row["agreed"], row["votes"])
        # Among many raters some look odd by chance: Bonferroni.
        high = test.proportion_ci(1.0 - 0.05 / counted.height).high
        if test.proportion_ci(0.95).low <= 0.5 and high < row["expected"]:
            odd.append({**row, "agreed": row["agreed"] / row["votes"]})
    found = pl.DataFrame(odd, schema=["rater", "votes", "agreed", "expected"])
    return dg.AssetCheckResult(
        passed=found.is_empty(),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "raters_judged": counted.height,
            "raters_like_a_coin": found.height,
            "look_at": dg.MetadataValue.md(markdown(found.head(20))),
        },
    )


def ties_are_steady(votes: pl.DataFrame) -> dg.AssetCheckResult:
    """Compare the share of ties in the newest tenth of the votes with that of the rest.

    Fails where a two-proportion test has p < SURPRISE and the shares are WORTH_SAYING apart: raters
    were told something else, or a page changed.
    """
    tie = (in_time_order(votes)["outcome"] == "tie").to_numpy()
    newest = max(1, round(NEWEST * len(tie)))
    before, after = tie[:-newest], tie[-newest:]
    shares = [float(part.mean()) if len(part) else float("nan") for part in (before, after)]
    surprise = 1.0
    if len(before) and 0 < tie.mean() < 1:
        error = np.sqrt(tie.mean() * (1 - tie.mean()) * (1 / len(before) + 1 / len(after)))
        surprise = float(2 * ndtr(-abs(shares[1] - shares[0]) / error))
    apart = abs(shares[1] - shares[0])
    return dg.AssetCheckResult(
        passed=not (surprise < SURPRISE and apart > WORTH_SAYING),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "share_before": shares[0],
            "share_in_the_newest": shares[1],
            "newest_votes": int(newest),
            "p": surprise,
        },
    )
