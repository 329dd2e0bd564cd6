"""Policy to evidence: its images, their scores against the baseline's, and its K-Sort rating."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
from PIL import Image

from assets.jobs import POOL, numbers, run_job
from assets.lake import Lake, combined_hash, content_hash
from assets.lineage import latest
from assets.pictures import embedded
from assets.policy import policy_parameters
from assets.study import Study
from assets.tracking import Tracking
from assets.yardsticks import (
    conditions,
    drawing_inputs,
    prompts_of,
    prompts_version,
    yardsticks_version,
)
from evaluation.drift import Drift, drifts
from evaluation.prompts import read_prompts
from evaluation.scores import scores_of
from evaluation.statistics import Comparison, compare

# K-Sort Eval's own rule for a rating that has settled (arXiv 2602.09411).
SETTLED_SIGMA = 0.75
# The key of a scorecard's metadata that says under what its scores were made.
CONDITIONS = "conditions"


def scorecard_stages(study: Study, policies: dg.StaticPartitionsDefinition) -> list[Any]:
    """Return what evaluation reads, the three assets of a policy's evidence and their checks."""
    lake = Lake(study.lake)
    # A scorecard compares with the baseline, so it needs the baseline's images beside its own.
    with_baseline = dg.StaticPartitionMapping(
        {
            name: list(study.policies) if name == study.baseline else [name]
            for name in study.policies
        }
    )

    @dg.observable_source_asset(
        group_name="evaluation",
        description="The prompts that every policy draws, by content.",
    )
    def evaluation_prompts() -> dg.DataVersion:
        return dg.DataVersion(prompts_version(study))

    @dg.observable_source_asset(
        group_name="evaluation",
        description="The scorers' weights and the K-Sort data set, by content.",
    )
    def yardsticks() -> dg.DataVersion:
        return dg.DataVersion(yardsticks_version(study))

    @dg.asset(
        deps=["policy", evaluation_prompts],
        partitions_def=policies,
        group_name="evaluation",
        kinds={"diffusers"},
        pool=POOL,
        code_version=f"1-{study.version('generation')}",
        description="The policy's images: the same prompts, noise and steps for every policy.",
    )
    def generations(
        context: dg.AssetExecutionContext, tracking: Tracking
    ) -> "dg.MaterializeResult[Any]":
        name, settings = context.partition_key, study.generation
        parameters = settings.model_dump(exclude={"prompts"}) | {"policy": name}
        with tracking.run(context, parameters) as run:
            trained = study.policies[name] is not None
            weights = lake.current("policies", name) / "policy"
            inputs = drawing_inputs(study, lake, name)
            folder = lake.folder("generations", name, inputs)
            version, reported = run_job(
                context,
                study,
                run,
                [
                    *("evaluation", "generate", "--base", study.base, "--name", name),
                    *(("--policy", str(weights)) if trained else ()),
                    *("--prompts", str(prompts_of(study)), "--out", str(folder)),
                    *("--images-per-prompt", str(settings.images_per_prompt)),
                    *("--steps", str(settings.steps), "--guidance", str(settings.guidance)),
                    *("--seed", str(settings.seed), "--batch-size", str(settings.batch_size)),
                ],
            )
            run.metrics(numbers(reported))
            images = lake.publish("generations", name, inputs)
            from evaluation.figures import image_grid  # matplotlib, which import need not load

            grid = image_grid({name: images / "images.parquet"}, prompts=8)
            run.figure("images.png", grid)
            return run.result(
                version,
                {
                    **reported,
                    "folder": dg.MetadataValue.path(images),
                    "images_at_a_glance": embedded(grid, f"images of {name}"),
                },
            )

    @dg.asset_check(asset=generations, blocking=True, partitions_def=policies)
    def every_image_is_there(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        """One readable image for each prompt and seed, and none of a single colour."""
        prompts = read_prompts(prompts_of(study))
        expected = len(prompts) * study.generation.images_per_prompt
        return check_images(lake.current("generations", context.partition_key), expected)

    @dg.asset(
        deps=[dg.AssetDep(generations, partition_mapping=with_baseline), yardsticks],
        partitions_def=policies,
        group_name="evaluation",
        kinds={"torch", "mlflow"},
        pool=POOL,
        code_version=f"2-{study.version('scorecard', 'study')}",
        description="Scores of the policy's images, and its win rate over the baseline.",
    )
    def scorecard(
        context: dg.AssetExecutionContext, tracking: Tracking
    ) -> "dg.MaterializeResult[Any]":
        name = context.partition_key
        parameters = policy_parameters(study, name) | data_of(context.instance, name)
        with tracking.run(context, parameters) as run:
            shown = list(dict.fromkeys([name, study.baseline]))
            tables = {each: lake.current("generations", each) / "images.parquet" for each in shown}
            scores = lake.root / "judgments" / name / "scores.parquet"
            scores.parent.mkdir(parents=True, exist_ok=True)
            scored_under = conditions(study)
            chosen = [f"--scorer={scorer}" for scorer in study.scorecard.scorers]
            run_job(
                context,
                study,
                run,
                [
                    *("evaluation", "score", *map(str, tables.values()), *chosen),
                    *("--out", str(scores), "--warn"),
                    # The baseline is scored once for all policies.
                    *("--kept", str(lake.root / "cache" / "scores.sqlite")),
                ],
            )
            for each, path in tables.items():
                run.dataset(f"images of {each}", content_hash(path), path, "score")
            scored = pl.read_parquet(scores)
            found = comparisons(study, scored, name)
            # Without the images' paths, which differ from machine to machine.
            version = combined_hash(scored.drop("image", "embedding", strict=False).write_csv())
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
            model_id = model_of(context.instance, name)
            run.metrics(metrics, model_id)
            if model_id:
                run.uses_model(model_id)
            run.artifact(scores)
            from evaluation.figures import image_grid  # matplotlib, which import need not load

            grid = image_grid(tables, prompts=8)
            run.figure("against_the_baseline.png", grid)
            return run.result(
                version,
                {
                    **metrics,
                    CONDITIONS: scored_under,
                    "images": embedded(grid, f"{study.baseline} against {name}"),
                    "table": dg.MetadataValue.path(scores),
                },
            )

    @dg.asset_check(asset=scorecard, partitions_def=policies)
    def policy_beats_base(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        """The policy wins over the baseline by the headline scorer: its corrected p is below 5%."""
        name = context.partition_key
        if name == study.baseline:
            return dg.AssetCheckResult(passed=True, description="this is the baseline")
        scores = pl.read_parquet(lake.root / "judgments" / name / "scores.parquet")
        return check_win(comparisons(study, scores, name)[study.scorecard.headline])

    @dg.asset_check(asset=scorecard, partitions_def=policies)
    def every_image_is_scored(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        """Each image has a score by each scorer: all weights were there, every image readable."""
        name = context.partition_key
        scores = pl.read_parquet(lake.root / "judgments" / name / "scores.parquet")
        return check_scored(scores, [each.partition("=")[0] for each in study.scorecard.scorers])

    @dg.asset_check(asset=scorecard, partitions_def=policies)
    def light_and_diversity_are_kept(
        context: dg.AssetCheckExecutionContext,
    ) -> dg.AssetCheckResult:
        """A policy that wins has not done so by darker, paler or ever the same images."""
        name, headline = context.partition_key, study.scorecard.headline
        scores = pl.read_parquet(lake.root / "judgments" / name / "scores.parquet")
        return check_drift(
            comparisons(study, scores, name)[headline],
            drifts(scores_of(scores, [headline]), study.baseline),
        )

    @dg.asset(
        deps=[generations, yardsticks],
        partitions_def=policies,
        group_name="evaluation",
        kinds={"trueskill"},
        pool=POOL,
        code_version=f"1-{study.version('ksort', 'study')}",
        description="The policy's rating among known models (K-Sort Eval).",
    )
    def ksort_rating(
        context: dg.AssetExecutionContext, tracking: Tracking
    ) -> "dg.MaterializeResult[Any]":
        name = context.partition_key
        parameters = policy_parameters(study, name) | data_of(context.instance, name)
        parameters["judge"] = study.ksort.judge
        with tracking.run(context, parameters) as run:
            settings = study.generation
            weights = lake.current("policies", name) / "policy"
            trained = study.policies[name] is not None
            result = ksort_result(lake, name)
            result.parent.mkdir(parents=True, exist_ok=True)
            version, reported = run_job(
                context,
                study,
                run,
                [
                    *("evaluation", "ksort", "--dataset", str(study.ksort.dataset)),
                    # Drawn for the instances that are met only.
                    *("--images", str(lake.root / "cache" / "ksort" / name)),
                    *("--base", study.base, *(("--policy", str(weights)) if trained else ())),
                    *("--steps", str(settings.steps), "--guidance", str(settings.guidance)),
                    *("--judge", study.judge, "--out", str(result), "--seed", str(study.seed)),
                ],
            )
            model_id = model_of(context.instance, name)
            run.metrics({f"ksort.{key}": v for key, v in numbers(reported).items()}, model_id)
            run.artifact(result)
            return run.result(version, {**reported, "rounds_table": dg.MetadataValue.path(result)})

    @dg.asset_check(asset=ksort_rating, partitions_def=policies)
    def ksort_rating_settled(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        """K-Sort Eval stopped because the rating was certain, not because instances ran out."""
        return check_settled(json.loads(ksort_result(lake, context.partition_key).read_text()))

    return [
        evaluation_prompts,
        yardsticks,
        generations,
        every_image_is_there,
        scorecard,
        policy_beats_base,
        every_image_is_scored,
        light_and_diversity_are_kept,
        ksort_rating,
        ksort_rating_settled,
    ]


def comparisons(study: Study, scores: pl.DataFrame, name: str) -> dict[str, Comparison]:
    """Return one policy's comparison with the baseline by each scorer."""
    return {
        scorer: compare(scores, study.baseline, scorer)[name]
        for scorer in (each.partition("=")[0] for each in study.scorecard.scorers)
    }


def model_of(instance: dg.DagsterInstance, name: str) -> str | None:
    """Return the LoggedModel of a policy's newest weights, None for an untouched base."""
    made = latest(instance, dg.AssetKey("policy"), name)
    found = made.metadata.get("mlflow_model_id") if made else None
    return str(found.value) if found is not None else None


def data_of(instance: dg.DagsterInstance, name: str) -> dict[str, str]:
    """Return the hash of what a policy was trained on, as a parameter; none for the base."""
    made = latest(instance, dg.AssetKey("policy"), name)
    found = made.metadata.get("training_set") if made else None
    return {"training_set": str(found.value)} if found is not None else {}


def ksort_result(lake: Lake, name: str) -> Path:
    """Return where a policy's K-Sort Eval result lies."""
    return lake.root / "judgments" / name / "ksort.json"


def as_metrics(comparison: Comparison) -> dict[str, float]:
    """Return a comparison's numbers, as far as there are any, for MLflow and Dagster."""
    found = {
        "mean": comparison.mean,
        "mean_low": comparison.mean_low,
        "mean_high": comparison.mean_high,
        "mean_difference": comparison.mean_difference,
        "mean_difference_low": comparison.mean_difference_low,
        "mean_difference_high": comparison.mean_difference_high,
        "win_rate": comparison.win_rate,
        "win_rate_low": comparison.win_rate_low,
        "win_rate_high": comparison.win_rate_high,
        "p_holm": comparison.p_holm,
        "prompts": comparison.prompts,
    }
    return {key: value for key, value in found.items() if math.isfinite(value)}


def check_win(comparison: Comparison) -> dg.AssetCheckResult:
    """Look whether the policy wins, by the one rule that the page and the champion have as well."""
    return dg.AssetCheckResult(
        passed=comparison.verdict == "better",
        severity=dg.AssetCheckSeverity.WARN,
        metadata=as_metrics(comparison),
    )


def check_scored(scores: pl.DataFrame, scorers: Sequence[str]) -> dg.AssetCheckResult:
    """Look for images without a score."""
    missing = {name: scores[name].null_count() for name in scorers if name in scores.columns}
    missing |= {name: scores.height for name in scorers if name not in scores.columns}
    return dg.AssetCheckResult(
        passed=not any(missing.values()),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={f"without {name}": count for name, count in missing.items()},
    )


def check_drift(comparison: Comparison, found: Sequence[Drift]) -> dg.AssetCheckResult:
    """Look whether a policy that wins has darkened or collapsed."""
    fallen = [one.measure for one in found if one.fallen]
    return dg.AssetCheckResult(
        passed=comparison.verdict != "better" or not fallen,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"fallen": ", ".join(fallen) or "none"}
        | {one.measure: one.difference for one in found},
    )


def check_settled(result: Mapping[str, Any]) -> dg.AssetCheckResult:
    """Look whether K-Sort Eval's rating became as certain as its authors ask for."""
    return dg.AssetCheckResult(
        passed=result["sigma"] < SETTLED_SIGMA,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"sigma": result["sigma"], "rounds": len(result["rounds"])},
    )


def check_images(folder: Path, expected: int) -> dg.AssetCheckResult:
    """Open every generated image of a policy and look for missing, broken and blank ones."""
    table = pl.read_parquet(folder / "images.parquet")
    broken, blank = [], []
    for name in table["image"]:
        try:
            with Image.open(folder / name) as image:
                extremes = image.convert("L").getextrema()
        except OSError:
            broken.append(name)
            continue
        if extremes[0] == extremes[1]:
            blank.append(name)
    return dg.AssetCheckResult(
        passed=table.height == expected and not broken and not blank,
        metadata={
            "images": table.height,
            "expected": expected,
            "broken": ", ".join(broken[:5]) or "none",
            "blank": ", ".join(blank[:5]) or "none",
        },
    )
