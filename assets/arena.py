"""Votes to reward: ratings of the models, the expected gap of every vote, the training set."""

import re
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pyarrow.parquet as pq

from arena import figures
from arena.atomic import replacing
from arena.calibration import held_out
from arena.continuing import fit_or_continue
from arena.gap import pairwise_gaps
from arena.ratings import Ratings, estimator
from arena.votes.comparisons import Comparisons, pairs_table
from assets.lake import Lake, content_hash
from assets.pictures import small
from assets.study import Study
from assets.tracking import Tracking
from assets.votes import markdown
from training.pairs import build_pairs

# The arena is asked to predict the last fifth of the votes from the rest.
HELD_OUT_SHARE = 0.2


def arena_stages(study: Study) -> list[Any]:
    """Return the assets `ratings`, `gaps` and `training_set` with their checks."""
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
            votes = lake.read("votes")
            run.dataset("votes", content_hash(lake.table("votes")), lake.table("votes"), "fit")
            comparisons = Comparisons.of(votes)
            chosen = estimator(study.arena.estimator, **study.arena.parameters)
            fitted, fit = fit_or_continue(chosen, comparisons, lake.table("ratings"))
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
            leaderboard = figures.leaderboard(fitted)
            run.figure("leaderboard.png", figures.png(leaderboard))
            run.artifact(lake.table("ratings"))
            return run.result(
                content_hash(lake.table("ratings")),
                {
                    "fit": fit,
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
        score = held_out(lake.read("votes"), made, share=HELD_OUT_SHARE)
        return dg.AssetCheckResult(
            passed=score.log_loss < score.baseline_log_loss,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={
                "log_loss": score.log_loss,
                "baseline_log_loss": score.baseline_log_loss,
                "votes_held_out": score.votes,
            },
        )

    @dg.asset(
        deps=["votes", ratings],
        group_name="arena",
        kinds={"duckdb", "parquet"},
        code_version=f"1-{study.version('gap')}",
        description="The expected quality gap of every vote; the warehouse is built with it.",
    )
    def gaps(context: dg.AssetExecutionContext, tracking: Tracking) -> "dg.MaterializeResult[Any]":
        with tracking.run(context, study.gap.model_dump()) as run:
            votes, fitted = lake.read("votes"), Ratings.read(lake.table("ratings"))
            for name in ("votes", "ratings"):
                run.dataset(name, content_hash(lake.table(name)), lake.table(name), "infer")
            found = pairwise_gaps(votes, fitted, study.gap.spread)
            version = lake.write("gaps", found)
            lake.build_warehouse({name: lake.table(name) for name in ("votes", "ratings", "gaps")})
            strict = found.filter(pl.col("outcome") != "tie").select(
                mean_gap=pl.col("gap").mean(),
                median_gap=pl.col("gap").median(),
                largest_gap=pl.col("gap").max(),
                share_of_upsets=(pl.col("probability") < 0.5).mean(),
            )
            summary = {"gaps": found.height, **strict.fill_null(0.0).row(0, named=True)}
            run.metrics(summary)
            histogram = figures.gap_histogram({study.gap.estimator: found})
            run.figure("gaps.png", figures.png(histogram))
            return run.result(
                version,
                {
                    **summary,
                    "histogram": small(histogram, "expected gaps"),
                    "warehouse": dg.MetadataValue.path(lake.warehouse),
                },
            )

    @dg.asset_check(asset=gaps, blocking=True)
    def gaps_are_positive_and_finite() -> dg.AssetCheckResult:
        """Every expected gap, its deviation and its probability is a number of the right sign."""
        found = lake.read("gaps")
        bad = found.filter(
            ~(
                pl.col("gap").is_finite()
                & (pl.col("gap") > 0)
                & pl.col("gap_sd").is_finite()
                & (pl.col("gap_sd") >= 0)
                & pl.col("probability").is_between(0, 1)
            ).fill_null(False)
        )
        return dg.AssetCheckResult(
            passed=bad.is_empty() and not found.is_empty(),
            metadata={
                "gaps": found.height,
                "bad": bad.height,
                "such_as": dg.MetadataValue.md(markdown(bad.head(5))),
            },
        )

    @dg.asset_check(asset=gaps, blocking=True)
    def one_gap_a_vote() -> dg.AssetCheckResult:
        """The warehouse holds one gap for each accepted vote, and the votes of the lake."""
        import duckdb

        database = duckdb.connect(str(lake.warehouse), read_only=True)
        try:
            counts = {
                name: int(database.execute(f"SELECT count(*) FROM {name}").fetchall()[0][0])
                for name in ("votes", "ratings", "gaps")
            }
            unmatched = database.execute(
                "SELECT count(*) FROM votes ANTI JOIN gaps USING (vote_id)"
            ).fetchall()[0][0]
        finally:
            database.close()
        accepted = lake.read("votes").height
        return dg.AssetCheckResult(
            passed=accepted == counts["votes"] == counts["gaps"] and unmatched == 0,
            metadata={**counts, "accepted": accepted, "votes_without_a_gap": int(unmatched)},
        )

    @dg.asset(
        deps=["votes", gaps],
        group_name="arena",
        kinds={"pyarrow", "parquet"},
        code_version=f"1-{study.version('training_set')}",
        description="Winner, loser and gap of every vote with images, split by prompt.",
    )
    def training_set(
        context: dg.AssetExecutionContext, tracking: Tracking
    ) -> "dg.MaterializeResult[Any]":
        with tracking.run(context, study.training_set.model_dump()) as run:
            for name in ("votes", "gaps"):
                run.dataset(name, content_hash(lake.table(name)), lake.table(name), "pair")
            pairs = build_pairs(
                pq.read_table(lake.table("votes")),
                pq.read_table(lake.table("gaps")),
                held_out=study.training_set.held_out,
                seed=study.seed,
            )
            with replacing(lake.table("training_set")) as aside:
                pq.write_table(pairs, aside)
            frame = lake.read("training_set")
            train = frame.filter(pl.col("split") == "train")
            summary = {
                "pairs": frame.height,
                "train": train.height,
                "held_out": frame.height - train.height,
                "left_out": lake.read("votes").height - frame.height,
                "images": pl.concat([frame["image_winner"], frame["image_loser"]]).n_unique(),
                "prompts": frame["prompt"].n_unique(),
                "mean_gap": float(np.mean(train["gap"].to_numpy())) if train.height else 0.0,
            }
            run.metrics(summary)
            return run.result(
                content_hash(lake.table("training_set")),
                {**summary, "table": dg.MetadataValue.path(lake.table("training_set"))},
            )

    @dg.asset_check(asset=training_set, blocking=True)
    def splits_share_no_prompt() -> dg.AssetCheckResult:
        """No prompt is both trained on and held out, and there is something to train on."""
        frame = lake.read("training_set")
        splits = frame.group_by("prompt").agg(pl.col("split").n_unique().alias("splits"))
        shared = splits.filter(pl.col("splits") > 1)
        train = frame.filter(pl.col("split") == "train").height
        return dg.AssetCheckResult(
            passed=shared.is_empty() and train > 0,
            metadata={
                "shared": shared.height,
                "train": train,
                "such_as": ", ".join(shared["prompt"].head(3).to_list()) or "none",
            },
        )

    return [
        ratings,
        every_model_connected,
        arena_predicts_held_out_votes,
        gaps,
        gaps_are_positive_and_finite,
        one_gap_a_vote,
        training_set,
        splits_share_no_prompt,
    ]
