"""Votes to ratings: a Gaussian capability for every model, and whether it predicts anything."""

import json
import shutil
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from arena.prediction.held_out import BASELINES, evaluate
from arena.ratings.comparisons import Comparisons, pairs_table
from arena.ratings.table import Ratings, estimator
from assets.anomalies import raters_agree, ratings_moved_as_explained
from assets.content import combined_hash
from assets.lake import Lake, table_name
from assets.lineage import DATA_VERSION, latest
from assets.model_registry import model_id_of, versions
from assets.pictures import markdown, small
from assets.stage import Chain
from assets.study import Study
from assets.tables import described
from assets.tracking import tracked

if TYPE_CHECKING:
    from mlflow import MlflowClient

# The arena is asked to predict the last fifth of the votes from the rest.
HELD_OUT_SHARE = 0.2
# The table that holds the version of the ratings before this one.
BEFORE = "ratings_before"


def ratings_stage(study: Study, chain: Chain) -> list[Any]:
    """Return the asset `ratings` and its checks."""
    lake, stage = Lake(study.lake), chain["ratings"]

    @stage.asset(
        study,
        group_name="arena",
        kinds={"numba", "parquet"},
        description="A Gaussian capability for every model.",
    )
    def ratings(context: dg.AssetExecutionContext) -> "dg.MaterializeResult[Any]":
        parameters = {"estimator": study.arena.estimator, **study.arena.parameters}
        with tracked(study, chain, context, parameters) as run:
            keep_before(study, lake, context.instance)
            votes = lake.read("votes")
            run.dataset("votes", lake.version("votes"), "fit")
            comparisons = Comparisons.of(votes, lake.read("rankings"))
            fitted = estimator(study.arena.estimator, **study.arena.parameters).fit(comparisons)
            fitted.write(lake.target("ratings"))
            lake.put(lake.target("ratings"))
            lake.write("pairs", pairs_table(comparisons))
            table = fitted.table
            on_votes = ("votes", lake.version("votes"))
            measured = {f"mu.{row['model']}": row["mu"] for row in table.iter_rows(named=True)}
            measured |= {f"fitted.{key}": value for key, value in fitted.parameters.items()}
            run.metrics(measured, dataset=on_votes)
            for model_id, about in of_versions(run.client, study, table).items():
                run.metrics(about, model_id, on_votes)
            from arena.report import figures  # matplotlib, which nobody waits for at import

            leaderboard = figures.leaderboard(fitted)
            run.figure("leaderboard.png", figures.png(leaderboard))
            run.artifact(lake.table("ratings"))
            return run.result(
                version_of(lake, fitted),
                {
                    **described(lake, "ratings"),
                    "models": table.height,
                    "groups": table["group"].n_unique(),
                    **{f"{fitted.estimator}.{k}": v for k, v in fitted.parameters.items()},
                    "leaderboard": small(leaderboard, "capability of every model"),
                    "observed_against_predicted": small(
                        figures.win_rates(comparisons, fitted), "observed and predicted win rates"
                    ),
                    "standings": dg.MetadataValue.md(markdown(table)),
                },
            )

    @stage.check(study, "every_model_connected")
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

    @stage.check(study, "arena_predicts_held_out_votes")
    def arena_predicts_held_out_votes() -> dg.AssetCheckResult:
        """Ratings from the first votes predict the last ones better than the outcomes' shares."""
        made = estimator(study.arena.estimator, **study.arena.parameters)
        comparisons = Comparisons.of(lake.read("votes"), lake.read("rankings"))
        try:
            later = evaluate(comparisons, {"arena": made}, blocks=1, first=1.0 - HELD_OUT_SHARE)
        except ValueError as error:  # too few votes: said, and no reason to stop
            return dg.AssetCheckResult(
                passed=False, severity=dg.AssetCheckSeverity.WARN, description=str(error)
            )
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

    @stage.check(study, "raters_agree_with_the_arena")
    def raters_agree_with_the_arena() -> dg.AssetCheckResult:
        """No rater votes as a coin would where the arena has clear favourites."""
        votes, fitted = lake.read("votes"), Ratings.read(lake.table("ratings"))
        result, named = raters_agree(votes, fitted)
        lake.write("raters_like_a_coin", named)
        return result

    @stage.check(study, "ratings_did_not_jump")
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


def of_versions(
    client: "MlflowClient", study: Study, table: pl.DataFrame
) -> dict[str, dict[str, float]]:
    """Return LoggedModel -> the metrics of its rating, for each version that was voted about.

    table: of the ratings. Its models that are called `arenapo@3` are versions of policies.
    """
    rated = {row["model"]: row for row in table.iter_rows(named=True)}
    ours = [name for name in rated if name.rpartition("@")[0] in study.policies]
    found = versions(client, study.name) if ours else []
    return {
        model_id_of(each): {
            f"votes.{key}": row[column]
            for key, column in (("mu", "mu"), ("sigma", "sigma"), ("count", "votes"))
        }
        for each in found
        if (row := rated.get(f"{each.tags.get('policy')}@{each.version}")) is not None
    }


def keep_before(study: Study, lake: Lake, instance: dg.DagsterInstance) -> None:
    """Keep the ratings that are about to be replaced.

    Only those of a materialisation that came to its end: a run that was killed after it wrote its
    own is followed by one that must still be compared with the version before both.
    """
    path, made = lake.table("ratings"), latest(instance, study.key("ratings"), None)
    version = (made.tags or {}).get(DATA_VERSION) if made else None
    if path.exists() and version_of(lake, Ratings.read(path)) == version:
        with lake.writing(table_name(BEFORE)) as aside:
            shutil.copyfile(path, aside)


def version_of(lake: Lake, fitted: Ratings) -> str:
    """Return the version of the ratings: their table, and the parameters that give it a scale."""
    scale = json.dumps([fitted.estimator, fitted.parameters], sort_keys=True)
    return combined_hash(lake.version("ratings"), scale)
