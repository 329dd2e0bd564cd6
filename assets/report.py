"""The end of the chain: every policy of the study in one table, with figures and a page."""

import json
from typing import Any

import dagster as dg
import polars as pl

from assets.lake import Lake, content_hash
from assets.lineage import DATA_VERSION, RUN_ID, latest, latest_record
from assets.pictures import embedded, markdown
from assets.scorecard import comparisons, ksort_result
from assets.study import Study
from assets.tracking import Tracking, comparison_link
from evaluation.prompts import training_prompts

COLUMNS = {
    "policy": pl.String,
    "objective": pl.String,
    "mean_score": pl.Float64,
    "win_rate": pl.Float64,
    "win_rate_low": pl.Float64,
    "win_rate_high": pl.Float64,
    "ksort_mu": pl.Float64,
    "ksort_sigma": pl.Float64,
    "ksort_score": pl.Float64,
}

LINEAGE = ("asset", "policy", "content", "code", "mlflow_run", "dagster_run", "model_version")
OF_A_POLICY = ("policy", "generations", "scorecard", "ksort_rating")


def report_stage(study: Study) -> list[Any]:
    """Return the asset `report` and its check."""
    lake = Lake(study.lake)

    @dg.asset(
        deps=["scorecard", "ksort_rating", "champion"],
        group_name="evaluation",
        kinds={"matplotlib"},
        code_version=f"2-{study.version('study', 'scorecard')}",
        description="All policies side by side, best first by the headline scorer.",
    )
    def report(
        context: dg.AssetExecutionContext, tracking: Tracking
    ) -> "dg.MaterializeResult[Any]":
        with tracking.run(context, {"headline": study.scorecard.headline}) as run:
            table = standings(study, lake)
            version = lake.write("report", table)
            came_from = lineage(context.instance, study)
            lake.write("lineage", came_from)
            run.artifact(lake.table("lineage"))
            folder = lake.root / "reports"
            ksort = {
                name: json.loads(ksort_result(lake, name).read_text()) for name in study.policies
            }
            # matplotlib, which nobody waits for at import
            from evaluation.figures import image_grid, win_rate_chart
            from evaluation.page import write_comparison

            trained = training_prompts(lake.table("training_set"))
            headline = study.scorecard.headline
            scorers = [each.partition("=")[0] for each in study.scorecard.scorers]
            ordered = sorted(scorers, key=lambda each: each != headline)
            written = write_comparison(
                all_scores(study, lake), study.baseline, folder, ksort, trained, ordered
            )
            numbers = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
            known = len(numbers["prompts_in_training"])
            rows = [row for row in numbers["comparisons"] if row["scorer"] == headline]
            chart = win_rate_chart(pl.DataFrame(rows), study.baseline)
            images = {
                name: lake.current("generations", name) / "images.parquet"
                for name in study.policies
            }
            grid = image_grid(images, prompts=6)
            for name, png in {"win_rates.png": chart, "images.png": grid}.items():
                run.figure(name, png)
                (folder / name).write_bytes(png)
            for path in written:
                run.artifact(path)
            run.metrics(
                {"prompts_in_training": known}
                | {
                    f"{row['policy']}.{key}": row[key]
                    for row in table.iter_rows(named=True)
                    for key in ("mean_score", "win_rate", "ksort_score")
                    if row[key] is not None
                }
            )
            run.dataset(
                "report", content_hash(lake.table("report")), lake.table("report"), "report"
            )
            return run.result(
                version,
                {
                    "standings": dg.MetadataValue.md(markdown(table)),
                    "lineage": dg.MetadataValue.md(markdown(came_from)),
                    "win_rates": embedded(chart, "win rate over the baseline"),
                    "images": embedded(grid, "every policy, same prompts and noise"),
                    "scorecards_in_mlflow": dg.MetadataValue.url(
                        comparison_link(run, scorecard_runs(context.instance, study))
                    ),
                    "prompts_in_training": known,
                    "page": dg.MetadataValue.path(folder / "comparison.html"),
                },
            )

    @dg.asset_check(asset=report)
    def every_policy_is_reported() -> dg.AssetCheckResult:
        """Each policy of the study has a mean score and a K-Sort rating that are numbers."""
        table = lake.read("report")
        whole = table.filter(pl.col("mean_score").is_finite() & pl.col("ksort_mu").is_finite())
        missing = sorted(set(study.policies) - set(whole["policy"]))
        return dg.AssetCheckResult(
            passed=not missing, metadata={"missing": ", ".join(missing) or "none"}
        )

    return [report, every_policy_is_reported]


def standings(study: Study, lake: Lake) -> pl.DataFrame:
    """Return one row a policy, best mean score of the headline scorer first."""
    rows = []
    for name, config in study.policies.items():
        scores = pl.read_parquet(lake.root / "judgments" / name / "scores.parquet")
        found = comparisons(study, scores, name)[study.scorecard.headline]
        ksort = json.loads(ksort_result(lake, name).read_text())
        baseline = name == study.baseline
        rows.append(
            {
                "policy": name,
                "objective": config.objective if config else "none",
                "mean_score": found.mean,
                "win_rate": None if baseline else found.win_rate,
                "win_rate_low": None if baseline else found.win_rate_low,
                "win_rate_high": None if baseline else found.win_rate_high,
                "ksort_mu": ksort["mu"],
                "ksort_sigma": ksort["sigma"],
                "ksort_score": ksort["score"],
            }
        )
    return pl.DataFrame(rows, schema=COLUMNS).sort("mean_score", descending=True)


def scorecard_runs(instance: dg.DagsterInstance, study: Study) -> list[str]:
    """Return the MLflow run of every policy's newest scorecard."""
    made = (latest(instance, dg.AssetKey("scorecard"), name) for name in study.policies)
    return [str(each.metadata[RUN_ID].value) for each in made if each]


def lineage(instance: dg.DagsterInstance, study: Study) -> pl.DataFrame:
    """Return one row for everything the report rests on: its content, its code and its runs."""
    shared = [(name, None) for name in ("votes", "ratings", "gaps", "training_set", "champion")]
    own = [(stage, name) for name in study.policies for stage in OF_A_POLICY]
    rows = []
    for asset, partition in [*shared, *own]:
        record = latest_record(instance, dg.AssetKey(asset), partition)
        if record is None or (made := record.asset_materialization) is None:
            continue
        version, run = made.metadata.get("mlflow_model_version"), made.metadata.get(RUN_ID)
        tags = made.tags or {}
        rows.append(
            {
                "asset": asset,
                "policy": partition,
                "content": tags.get(DATA_VERSION),
                "code": tags.get("dagster/code_version"),
                "mlflow_run": str(run.value) if run else None,
                "dagster_run": record.run_id,
                "model_version": str(version.value) if version else None,
            }
        )
    return pl.DataFrame(rows, schema=dict.fromkeys(LINEAGE, pl.String))


def all_scores(study: Study, lake: Lake) -> pl.DataFrame:
    """Return every policy's scored images in one table, each image once."""
    return pl.concat(
        pl.read_parquet(lake.root / "judgments" / name / "scores.parquet").filter(
            pl.col("policy") == name
        )
        for name in study.policies
    )
