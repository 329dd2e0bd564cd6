"""The scorecard: the scores of a policy's images, and its win rate over the baseline."""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from assets import inputs
from assets.content import frame_version
from assets.generations import DRAWN_UNDER, WEIGHTS
from assets.jobs import POOL, run_job
from assets.lake import Lake
from assets.lineage import named, told
from assets.pictures import embedded
from assets.policy import policy_parameters
from assets.run import Run
from assets.stage import Chain
from assets.store import private_folder
from assets.study import Study
from assets.tracking import tracked
from evaluation.comparison.drift import Drift, drifts
from evaluation.comparison.scores import scores_of
from evaluation.comparison.statistics import Comparison, compare

# In the metadata: under what the scores were made, and whose images they are.
CONDITIONS = "conditions"
IMAGES = "images_version"


def scorecard_stage(study: Study, chain: Chain) -> list[Any]:
    """Return the observed yardsticks, the asset `scorecard` and its check."""
    lake, stage = Lake(study.lake), chain["scorecard"]

    @dg.observable_source_asset(
        key=study.key("yardsticks"),
        group_name="evaluation",
        description="The scorers' and the judge's files and the K-Sort data set, by content.",
    )
    def yardsticks() -> dg.DataVersion:
        return dg.DataVersion(inputs.yardsticks(study))

    @stage.asset(
        study,
        group_name="evaluation",
        kinds={"torch", "mlflow"},
        pool=POOL,
        description="Scores of the policy's images, and its win rate over the baseline.",
    )
    def scorecard(context: dg.AssetExecutionContext) -> "dg.MaterializeResult[Any]":
        name = context.partition_key
        drawn = told(context.instance, study, "generations", name)
        beside = told(context.instance, study, "generations", study.baseline)
        parameters = policy_parameters(study, name) | {"training_set": drawn.get("training_set")}
        with tracked(study, chain, context, parameters) as run:
            if drawn.get(DRAWN_UNDER) != beside.get(DRAWN_UNDER):
                raise RuntimeError(
                    f"the images of {name} and of {study.baseline} are of other prompts or were "
                    "drawn otherwise; draw both anew"
                )
            shown = list(dict.fromkeys([name, study.baseline]))
            tables = {each: lake.current("generations", each) / "images.parquet" for each in shown}
            scores = lake.scores(name)
            private_folder(scores.parent)
            chosen = [f"--scorer={scorer}" for scorer in study.scorecard.scorers]
            run_job(
                context,
                study,
                run,
                [
                    *("evaluation", "score", *map(str, tables.values()), *chosen),
                    *("--out", str(scores), "--warn"),
                    # The baseline is scored once for all policies.
                    *("--kept", str(lake.cache / "scores.sqlite")),
                ],
            )
            lake.put(scores)
            scored = pl.read_parquet(scores)
            found = comparisons(study, scored, name)
            metrics = {
                f"{scorer}.{key}": value
                for scorer, comparison in found.items()
                for key, value in as_metrics(comparison).items()
            }
            table = scores_of(scored, [study.scorecard.headline])
            for drift in drifts(table, study.baseline):
                for key in ("difference", "low", "high"):
                    metrics[f"drift.{drift.measure}.{key}"] = getattr(drift, key)
            metrics = {key: value for key, value in metrics.items() if math.isfinite(value)}
            on = ("evaluation_prompts", drawn[DRAWN_UNDER])
            # The model whose weights drew these images, whatever was trained since.
            model_id = drawn.get("mlflow_model_id")
            run.metrics(metrics, model_id, on)
            if model_id:
                run.uses_model(model_id)
            keep_scores(run, scored)
            # matplotlib, which import need not load
            from evaluation.comparison.figures import image_grid

            grid = image_grid(tables, prompts=8)
            run.figure("against_the_baseline.png", grid, pictures=True)
            kept = (WEIGHTS, "mlflow_model_id", "mlflow_model_version", "training_set")
            return run.result(
                # Without the images' paths, which differ from machine to machine.
                frame_version(scored.drop("image", "embedding", strict=False)),
                {
                    **metrics,
                    **{key: drawn[key] for key in kept if key in drawn},
                    IMAGES: run.inputs[named("generations", name)] or "",
                    CONDITIONS: inputs.conditions(study, drawn[DRAWN_UNDER]),
                    "images": embedded(grid, f"{study.baseline} against {name}"),
                    "table": dg.MetadataValue.path(lake.where(f"judgments/{name}/scores.parquet")),
                },
            )

    @stage.check(study, "every_image_is_scored")
    def every_image_is_scored(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        """Every image has a score by every scorer, a number."""
        scores = pl.read_parquet(lake.scores(context.partition_key))
        return check_scores(scores, study.scorer_names)

    @stage.check(study, "light_and_diversity_are_kept")
    def light_and_diversity_are_kept(
        context: dg.AssetCheckExecutionContext,
    ) -> dg.AssetCheckResult:
        """A policy that wins has not done so by darker, paler or ever the same images."""
        name, headline = context.partition_key, study.scorecard.headline
        scores = pl.read_parquet(lake.scores(name))
        return check_drift(
            comparisons(study, scores, name)[headline],
            drifts(scores_of(scores, [headline]), study.baseline),
        )

    return [yardsticks, scorecard, every_image_is_scored, light_and_diversity_are_kept]


def keep_scores(run: Run, scored: pl.DataFrame) -> None:
    """Keep the scores as an artifact: the champion is compared by them when its images are gone.

    Without the images' paths; where the study is private, a prompt's id stands for the prompt.
    """
    table = scored.drop("image", "embedding", strict=False)
    if run.private:
        table = table.with_columns(prompt=pl.col("prompt_id"))
    with tempfile.TemporaryDirectory() as folder:
        table.write_parquet(Path(folder) / "scores.parquet")
        run.artifact(Path(folder) / "scores.parquet")


def comparisons(study: Study, scores: pl.DataFrame, name: str) -> dict[str, Comparison]:
    """Return one policy's comparison with the baseline by each scorer that scored."""
    return {
        scorer: compare(scores, study.baseline, scorer)[name]
        for scorer in study.scorer_names
        if scorer in scores.columns
    }


def as_metrics(comparison: Comparison) -> dict[str, float]:
    """Return a comparison's numbers, as far as there are any, for MLflow and Dagster."""
    keys = ("mean", "mean_difference", "win_rate")
    kept = [f"{key}{end}" for key in keys for end in ("", "_low", "_high")]
    found = {key: float(getattr(comparison, key)) for key in [*kept, "prompts", "p_holm"]}
    return {key: value for key, value in found.items() if math.isfinite(value)}


def check_drift(comparison: Comparison, found: Sequence[Drift]) -> dg.AssetCheckResult:
    """Look whether a policy that wins has darkened or collapsed."""
    fallen = [one.measure for one in found if one.fallen]
    return dg.AssetCheckResult(
        passed=comparison.verdict != "better" or not fallen,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"fallen": ", ".join(fallen) or "none"}
        | {one.measure: one.difference for one in found},
    )


def check_scores(scores: pl.DataFrame, scorers: list[str]) -> dg.AssetCheckResult:
    """Count the images that a scorer gave no number."""
    missing = {
        name: scores.height
        if name not in scores.columns
        else scores.height - int(scores[name].is_finite().fill_null(False).sum())
        for name in scorers
    }
    without = {name: count for name, count in missing.items() if count}
    return dg.AssetCheckResult(
        passed=not without,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"images": scores.height, "without_a_score": str(without or "none")},
    )
