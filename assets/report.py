"""The end of the chain: every policy of the study in one table, with figures and a page."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from arena.ratings.table import Ratings
from assets.content import frame_version
from assets.evidence import evidence
from assets.lake import Lake
from assets.lineage import CODE_VERSION, DATA_VERSION, RUN_ID, latest_record, told
from assets.pictures import embedded, markdown
from assets.stage import Chain
from assets.study import Study
from assets.tables import described
from assets.tracking import tracked
from assets.verdict import BETTER, ITSELF, by_votes, compared, verdict
from evaluation.prompts import training_prompts

COLUMNS = {
    "policy": pl.String,
    "objective": pl.String,
    "mean_score": pl.Float64,
    "win_rate": pl.Float64,
    "win_rate_low": pl.Float64,
    "win_rate_high": pl.Float64,
    "p_holm": pl.Float64,
    "verdict": pl.String,
    "votes": pl.Int64,
    "votes_mu": pl.Float64,
    "votes_sigma": pl.Float64,
    "ksort_mu": pl.Float64,
    "ksort_sigma": pl.Float64,
    "ksort_score": pl.Float64,
}
LINEAGE = ("asset", "policy", "content", "code", "mlflow_run", "dagster_run", "model_version")


def report_stage(study: Study, chain: Chain) -> list[Any]:
    """Return the asset `report` and its checks."""
    lake, stage = Lake(study.lake), chain["report"]

    @stage.asset(
        study,
        group_name="evaluation",
        kinds={"matplotlib"},
        description="All policies side by side, best first by the headline scorer.",
    )
    def report(context: dg.AssetExecutionContext) -> "dg.MaterializeResult[Any]":
        with tracked(study, chain, context, {"headline": study.scorecard.headline}) as run:
            found = evidence(context.instance, study, chain)
            shown, left_out = comparable(found, study.baseline)
            called = dict(found.select("policy", "voted_as").iter_rows())
            table = standings(study, lake, {name: called[name] for name in shown})
            version = lake.write("report", table)
            came_from = lineage(context.instance, study, chain)
            lake.write("lineage", came_from)
            run.artifact(lake.table("lineage"))
            ksort = {
                name: json.loads(lake.ksort(name).read_text()) for name in shown if study.ksort
            }
            folder = lake.path("reports")
            # matplotlib, which nobody waits for at import
            from evaluation.comparison.figures import image_grid, win_rate_chart
            from evaluation.comparison.page import write_comparison

            trained = training_prompts(lake.table("training_set"))
            headline = study.scorecard.headline
            ordered = sorted(study.scorer_names, key=lambda each: each != headline)
            numbers, written = write_comparison(
                all_scores(lake, shown), study.baseline, folder, ksort, trained, ordered
            )
            known = len(numbers["prompts_in_training"])
            led = [row for row in numbers["comparisons"] if row["scorer"] == headline]
            chart = win_rate_chart(pl.DataFrame(led), study.baseline)
            tables = {name: lake.current("generations", name) / "images.parquet" for name in shown}
            grid = image_grid(tables, prompts=6)
            for name, png in {"win_rates.png": chart, "images.png": grid}.items():
                run.figure(name, png, pictures=name == "images.png")
                (folder / name).write_bytes(png)
            lake.put(folder)
            for path in written:
                run.artifact(path, texts=shows_texts(path))
            rows = table.iter_rows(named=True)
            keys = ("mean_score", "win_rate", "votes_mu", "votes_sigma", "ksort_score")
            run.metrics(
                {"prompts_in_training": known}
                | {
                    f"{row['policy']}.{k}": row[k]
                    for row in rows
                    for k in keys
                    if row[k] is not None
                }
            )
            run.dataset("report", version, "report")
            cards = (told(context.instance, study, "scorecard", name).get(RUN_ID) for name in shown)
            return run.result(
                frame_version(table),
                {
                    "standings": dg.MetadataValue.md(markdown(table)),
                    "left_out": dg.MetadataValue.md(markdown(left_out)),
                    "lineage": dg.MetadataValue.md(markdown(came_from)),
                    "win_rates": embedded(chart, "win rate over the baseline"),
                    "images": embedded(grid, "every policy, same prompts and noise"),
                    "scorecards_in_mlflow": dg.MetadataValue.url(
                        run.comparison([str(each) for each in cards if each])
                    ),
                    "prompts_in_training": known,
                    "page": dg.MetadataValue.path(lake.where("reports/comparison.html")),
                    **described(lake, "report"),
                },
            )

    @stage.check(study, "every_policy_is_reported")
    def every_policy_is_reported() -> dg.AssetCheckResult:
        """Each policy of the study is in the table, with numbers for its mean and its rating."""
        table = lake.read("report")
        numbers = ["mean_score", *(["ksort_mu"] if study.ksort else [])]
        whole = table.filter(pl.all_horizontal(pl.col(name).is_finite() for name in numbers))
        missing = sorted(set(study.policies) - set(whole["policy"]))
        return dg.AssetCheckResult(
            passed=not missing,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"missing": ", ".join(missing) or "none"},
        )

    @stage.check(study, "some_policy_beats_the_baseline")
    def some_policy_beats_the_baseline() -> dg.AssetCheckResult:
        """Some policy is better than the baseline, by the study's rule."""
        return check_better(lake.read("report"))

    return [report, every_policy_is_reported, some_policy_beats_the_baseline]


def comparable(table: pl.DataFrame, baseline: str) -> tuple[list[str], pl.DataFrame]:
    """Return the policies that can stand in one table, and the others with the reason.

    Scored under the baseline's conditions: the same prompts, drawn alike, by the same scorer.
    Raises RuntimeError where the baseline itself has no scores to compare with.
    """
    own = table.row(by_predicate=pl.col("policy") == baseline, named=True)
    if own["problem"] is not None:
        raise RuntimeError(f"{baseline}, the baseline, cannot be compared with: {own['problem']}")
    other = pl.col("conditions") != own["conditions"]
    said = pl.when(pl.col("problem").is_null() & other).then(
        pl.lit("it was scored on other prompts, drawn otherwise, or by another scorer")
    )
    marked = table.with_columns(problem=said.otherwise("problem"))
    left_out = marked.drop_nulls("problem").select("policy", "problem")
    return marked.filter(pl.col("problem").is_null())["policy"].to_list(), left_out


def standings(study: Study, lake: Lake, shown: dict[str, str]) -> pl.DataFrame:
    """Return one row for each policy shown, best mean score of the headline scorer first.

    shown: policy -> what votes call the version whose images were scored.
    """
    headline = study.scorecard.headline
    found = compared(all_scores(lake, list(shown)), study.baseline, headline, study.scorer_names)
    ratings = Ratings.read(lake.table("ratings"))
    rated = {row["model"]: row for row in ratings.table.iter_rows(named=True)}
    by_people = by_votes(ratings, shown[study.baseline], list(shown.values()), study.champion.votes)
    rows = []
    for name in shown:
        config, one = study.policies[name], found[name]
        ksort = json.loads(lake.ksort(name).read_text()) if study.ksort else {}
        itself, people = name == study.baseline, rated.get(shown[name], {})
        word = ITSELF if itself else by_people[shown[name]].verdict
        rates = ("win_rate", "win_rate_low", "win_rate_high", "p_holm")
        rows.append(
            {
                "policy": name,
                "objective": config.objective if config else "none",
                "mean_score": one.mean,
                **{key: None if itself else getattr(one, key) for key in rates},
                "verdict": word if study.champion.by == "votes" else verdict(one),
                "votes": people.get("votes", 0),
                "votes_mu": people.get("mu"),
                "votes_sigma": people.get("sigma"),
                **{f"ksort_{key}": ksort.get(key) for key in ("mu", "sigma", "score")},
            }
        )
    return pl.DataFrame(rows, schema=COLUMNS).sort("mean_score", descending=True)


def check_better(table: pl.DataFrame) -> dg.AssetCheckResult:
    """Look whether the table calls a policy better than the baseline."""
    better = table.filter(pl.col("verdict") == BETTER)["policy"].to_list()
    return dg.AssetCheckResult(
        passed=bool(better),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"better": ", ".join(better) or "none", "compared": table.height - 1},
    )


def lineage(instance: dg.DagsterInstance, study: Study, chain: Chain) -> pl.DataFrame:
    """Return one row for everything the report rests on: its content, its code and its runs."""
    rows = []
    for stage in chain.values():
        for policy in stage.partitions(study):
            record = latest_record(instance, study.key(stage.name), policy)
            if stage.name == "report" or record is None:
                continue
            said = told(instance, study, stage.name, policy)
            made = record.asset_materialization
            tags = (made.tags if made else None) or {}
            version = said.get("mlflow_model_version")
            rows.append(
                {
                    "asset": stage.name,
                    "policy": policy,
                    "content": tags.get(DATA_VERSION),
                    "code": tags.get(CODE_VERSION),
                    "mlflow_run": said.get(RUN_ID),
                    "dagster_run": record.run_id,
                    "model_version": str(version) if version else None,
                }
            )
    return pl.DataFrame(rows, schema=dict.fromkeys(LINEAGE, pl.String))


def all_scores(lake: Lake, shown: list[str]) -> pl.DataFrame:
    """Return every policy's scored images in one table, each image once."""
    return pl.concat(
        [pl.read_parquet(lake.scores(name)).filter(pl.col("policy") == name) for name in shown],
        how="diagonal",
    )


def shows_texts(path: Path) -> bool:
    """Tell whether a file of the comparison holds prompts or images."""
    return path.name.startswith(("comparison.", "images"))
