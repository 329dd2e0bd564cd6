"""Votes that look unlike the others: warnings, with the rows to look at.

Each is a function from tables to a check's result; the stages say when they run.
"""

import dagster as dg
import numpy as np
import polars as pl
from scipy.special import ndtr, ndtri

from arena.prediction.calibration import predict
from arena.ratings.comparisons import A_WINS, B_WINS, Comparisons, in_time_order
from arena.ratings.table import Ratings
from assets.pictures import markdown

# Fewer strict votes than this tell no rater from a coin.
LEAST_VOTES = 30
# Favourites win this often by the arena's own account, or a coin would be no surprise.
CLEAR = 0.6
NEWEST = 0.1
SURPRISE = 0.001
WORTH_SAYING = 0.05
# How often, over all models together, sound votes may raise the alarm of a version of the ratings.
FALSE_ALARM = 0.001
# Moves are measured in no less than this share of the former sigma: one surprising vote among few
# is no jump.
LEAST_MOVE = 0.25


def raters_agree(
    votes: pl.DataFrame, ratings: Ratings
) -> tuple[dg.AssetCheckResult, pl.DataFrame]:
    """Find raters whose favourites win no more often than by a coin, though the arena says more.

    A rater is named who gave at least LEAST_VOTES strict votes between different models, for whom
    the arena expects its favourite to win more than CLEAR of them, and of whose share the lower end
    of the 95% interval (Clopper-Pearson) is not above one half and the upper end is below that
    expectation, corrected for the number of raters judged.

    The table of these raters is returned apart: a name in Dagster's history could not be forgotten.
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
    schema = {"rater": pl.String, "votes": pl.UInt32, "agreed": pl.Float64, "expected": pl.Float64}
    found = pl.DataFrame(odd, schema=schema)
    result = dg.AssetCheckResult(
        passed=found.is_empty(),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "raters_judged": counted.height,
            "raters_like_a_coin": found.height,
            "look_at": dg.MetadataValue.md(markdown(found.drop("rater").head(20))),
        },
    )
    return result, found


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


def ratings_moved_as_explained(before: Ratings | None, after: Ratings) -> dg.AssetCheckResult:
    """Find models whose rating moved by more than their own uncertainty explains.

    Of a posterior mean, the votes that are still to come move it by a variance that is known
    before: what they take from the posterior's own, Var(mu_new - mu_old) = sigma_old^2 + n tau^2 -
    sigma_new^2, with the n votes that the model got in between and the dynamics tau. So
    z = |mu_new - mu_old| / sqrt(that) is a standard normal's size as long as the votes are of the
    kind that was rated before; where votes went, the variance that came back counts. A model is
    named whose z passes the two-sided FALSE_ALARM quantile, corrected for the number of models.

    before: the version before this one, None where there was none. Ratings on another scale
    (another estimator, beta or tau) are not compared.
    """
    if before is None:
        return dg.AssetCheckResult(passed=True, description="there were no ratings before")
    if scale(before) != scale(after):
        said = "the ratings before had another estimator or other parameters"
        return dg.AssetCheckResult(passed=True, description=said)
    columns = ["model", "mu", "sigma", "votes"]
    both = before.table.select(columns).join(after.table.select(columns), on="model", suffix="_new")
    added = pl.col("votes_new") - pl.col("votes")
    dynamics = after.parameters.get("tau", 0.0) ** 2 * added.clip(0)
    explained = (pl.col("sigma") ** 2 + dynamics - pl.col("sigma_new") ** 2).abs().sqrt()
    floor = LEAST_MOVE * pl.col("sigma")
    moved = (pl.col("mu_new") - pl.col("mu")).abs()
    measured = both.select(
        "model",
        mu_before="mu",
        mu_now="mu_new",
        sigma_before="sigma",
        sigma_now="sigma_new",
        votes_added=added,
        z=moved / pl.max_horizontal(explained, floor),
    ).sort("z", "model", descending=[True, False])
    # Among many models some move far by chance: Bonferroni.
    most = float(-ndtri(FALSE_ALARM / 2 / max(both.height, 1)))
    jumped = measured.filter(pl.col("z") > most)
    return dg.AssetCheckResult(
        passed=jumped.is_empty(),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "models_compared": both.height,
            "models_that_jumped": jumped.height,
            "z_allowed": most,
            "largest_z": float(measured["z"][0]) if both.height else 0.0,
            "look_at": dg.MetadataValue.md(markdown(jumped.head(20))),
        },
    )


def scale(ratings: Ratings) -> tuple[object, ...]:
    """Return what the unit of mu depends on; the draw margin follows the votes and is not in it."""
    fixed = ("mu", "sigma", "beta", "tau")
    return ratings.estimator, *(ratings.parameters.get(name) for name in fixed)
