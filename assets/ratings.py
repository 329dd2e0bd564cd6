"""Votes to ratings: a Gaussian capability for every model, and whether it predicts anything."""

import re
import shutil
from typing import Any

import dagster as dg
import polars as pl

from arena.atomic import replacing
from arena.prediction.held_out import BASELINES, evaluate
from arena.ratings.comparisons import Comparisons, pairs_table
from arena.ratings.table import Ratings, estimator
from assets.anomalies import raters_agree, ratings_moved_as_explained
from assets.lake import Lake, content_hash
from assets.lineage import DATA_VERSION, latest
from assets.pictures import markdown, small
from assets.study import Study
from assets.tracking import Tracking

# The arena is asked to predict the last fifth of the votes from the rest.
HELD_OUT_SHARE = 0.2
# The tag of the weekly run that was to fit every rating anew: every run does now.
REFIT = "arenapo/refit"
# The table that holds the version of the ratings before this one.
BEFORE = "ratings_before"


def ratings_stage(study: Study) -> list[Any]:
    """Return the asset `ratings` and its checks."""
    lake = Lake(study.lake)

    @dg.asset(
        deps=["votes"],
        group_name="arena",
        kinds={"numba", "parquet"},
        code_version=f"1-{study.version('arena')}",
        description="A Gaussian capability for every model (TrueSkill).",
    )
    def ratings(
        context: dg.AssetExecutionContext, tracking: Tracking
    ) -> "dg.MaterializeResult[Any]":
        parameters = {"estimator": study.arena.estimator, **study.arena.parameters}
        with tracking.run(context, parameters) as run:
            keep_before(lake, context.instance)
            votes = lake.read("votes")
            run.dataset("votes", content_hash(lake.table("votes")), lake.table("votes"), "fit")
            comparisons = Comparisons.of(votes, lake.read("rankings"))
            fitted = estimator(study.arena.estimator, **study.arena.parameters).fit(comparisons)
            fitted.write(lake.table("ratings"))
            lake.write("pairs", pairs_table(comparisons))
            table = fitted.table
            # MLflow takes few signs in a name, and a model may be called anything.
            run.metrics(
                {
                    f"mu.{re.sub(r'[^A-Za-z0-9_. -]|[.](?=[.])', '_', row['model'])}": row["mu"]
                    for row in table.iter_rows(named=True)
                }
            )
            run.metrics({f"fitted.{key}": value for key, value in fitted.parameters.items()})
            from arena.report import figures  # matplotlib, which nobody waits for at import

            leaderboard = figures.leaderboard(fitted)
            run.figure("leaderboard.png", figures.png(leaderboard))
            run.artifact(lake.table("ratings"))
            return run.result(
                content_hash(lake.table("ratings")),
                {
                    "models": table.height,
                    "groups": table["group"].n_unique(),
                    **{f"{fitted.estimator}.{k}": v for k, v in fitted.parameters.items()},
                    "leaderboard": small(leaderboard, "capability of every model"),
                    "observed_against_predicted": small(
                        figures.win_rates(comparisons, fitted), "observed and predicted win rates"
                    ),
                    "table": dg.MetadataValue.md(markdown(table)),
                },
            )

    @dg.asset_check(asset=ratings)
    def every_model_connected() -> dg.AssetCheckResult:
        """Every model can be compared with every other one through a chain of votes."""
        table = Ratings.read(lake.table("ratings")).table
        groups = table.group_by("group").agg(pl.col("model").sort()).sort("group")
        return dg.AssetCheckResult(
            passed=groups.height == 1,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                "groups": groups.height,
                "apart": dg.MetadataValue.md(
                    markdown(groups.with_columns(pl.col("model").list.join(", ")))
                ),
            },
        )

    @dg.asset_check(asset=ratings)
    def arena_predicts_held_out_votes() -> dg.AssetCheckResult:
        """Ratings from the first votes predict the last ones better than the outcomes' shares."""
        made = estimator(study.arena.estimator, **study.arena.parameters)
        comparisons = Comparisons.of(lake.read("votes"), lake.read("rankings"))
        later = evaluate(comparisons, {"arena": made}, blocks=1, first=1.0 - HELD_OUT_SHARE)
        frozen = later.overall().filter(prediction="frozen")
        loss = dict(frozen.select("method", "log_loss").iter_rows())
        baseline = min(loss[name] for name in BASELINES)
        return dg.AssetCheckResult(
            passed=loss["arena"] < baseline,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                "log_loss": loss["arena"],
                "baseline_log_loss": baseline,
                "votes_held_out": frozen["votes"][0],
            },
        )

    @dg.asset_check(asset=ratings)
    def raters_agree_with_the_arena() -> dg.AssetCheckResult:
        """No rater votes as a coin would where the arena has clear favourites."""
        return raters_agree(lake.read("votes"), Ratings.read(lake.table("ratings")))

    @dg.asset_check(asset=ratings)
    def ratings_did_not_jump() -> dg.AssetCheckResult:
        """No rating moved since the version before by more than its own sigma explains."""
        path = lake.table(BEFORE)
        before = Ratings.read(path) if path.exists() else None
        return ratings_moved_as_explained(before, Ratings.read(lake.table("ratings")))

    return [
        ratings,
        every_model_connected,
        arena_predicts_held_out_votes,
        raters_agree_with_the_arena,
        ratings_did_not_jump,
    ]


def keep_before(lake: Lake, instance: dg.DagsterInstance) -> None:
    """Keep the ratings that are about to be replaced.

    Only those of a materialisation that came to its end: a run that was killed after it wrote its
    own is followed by one that must still be compared with the version before both.
    """
    path, made = lake.table("ratings"), latest(instance, dg.AssetKey("ratings"), None)
    version = (made.tags or {}).get(DATA_VERSION) if made else None
    if path.exists() and content_hash(path) == version:
        with replacing(lake.table(BEFORE)) as aside:
            shutil.copyfile(path, aside)
