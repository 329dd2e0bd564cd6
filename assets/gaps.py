"""Ratings to gaps: the expected quality gap of every vote, and the warehouse built with them."""

from collections.abc import Sequence
from typing import Any

import dagster as dg
import duckdb
import polars as pl

from arena.gaps.joint import JointReport
from arena.gaps.table import gaps_by
from arena.ratings.table import Ratings
from assets.lake import WAREHOUSE, Lake
from assets.pictures import markdown, small
from assets.stage import Chain
from assets.study import Study
from assets.tables import described
from assets.tracking import tracked
from training.study_file import gap_estimators


def gaps_stage(study: Study, chain: Chain) -> list[Any]:
    """Return the asset `gaps` and its checks."""
    lake, stage = Lake(study.lake), chain["gaps"]
    estimators = gap_estimators(study.raw)

    @stage.asset(
        study,
        group_name="arena",
        kinds={"duckdb", "parquet"},
        description="The expected quality gap of every vote; the warehouse is built with it.",
    )
    def gaps(context: dg.AssetExecutionContext) -> "dg.MaterializeResult[Any]":
        with tracked(study, chain, context, study.gap.model_dump()) as run:
            votes, fitted = lake.read("votes"), Ratings.read(lake.table("ratings"))
            for name in ("votes", "ratings"):
                run.dataset(name, lake.version(name), "infer")
            spread, signed = study.gap.spread, study.gap.signed
            found, joint = gaps_by(estimators, votes, fitted, spread, signed)
            version = lake.write("gaps", found)
            lake.build_warehouse(("votes", "ratings", "gaps"))
            strict = found.filter(pl.col("outcome") != "tie").select(
                mean_gap=pl.col("gap").mean(),
                median_gap=pl.col("gap").median(),
                largest_gap=pl.col("gap").max(),
                share_of_upsets=(pl.col("probability") < 0.5).mean(),
            )
            summary = {"gaps": found.height, **strict.fill_null(0.0).row(0, named=True)}
            if joint:
                summary |= as_metrics(joint)
                lake.write("joint", pl.DataFrame([as_metrics(joint)]))
            run.metrics(summary, dataset=("gaps", version))
            from arena.report import figures  # matplotlib, which nobody waits for at import

            histogram = figures.gap_histogram(
                {
                    name: found.select("outcome", gap=pl.col(column))
                    # A gap that is no number is the check's to report, not the picture's.
                    .filter(pl.col("gap").is_finite())
                    for name, column in gap_columns(estimators).items()
                }
            )
            run.figure("gaps.png", figures.png(histogram))
            return run.result(
                version,
                {
                    **summary,
                    **described(lake, "gaps", lineage_of(study, estimators)),
                    "histogram": small(histogram, "expected gaps"),
                    "warehouse": dg.MetadataValue.path(lake.where(WAREHOUSE)),
                },
            )

    @stage.check(study, "gaps_are_positive_and_finite")
    def gaps_are_positive_and_finite() -> dg.AssetCheckResult:
        """Every expected gap, its deviation and its probability is a number of the right sign."""
        found = lake.read("gaps")
        good = pl.lit(True)
        for name, column in gap_columns(estimators).items():
            gap, prefix = pl.col(column), column.removesuffix("gap")
            # Strict votes: a model that won is the better one. What all votes say may be no gap.
            strict = (pl.col("outcome") != "tie") & (name == "pairwise")
            right = pl.when(strict).then(gap > 0).otherwise((gap >= 0) | study.gap.signed)
            sd, probability = pl.col(f"{prefix}gap_sd"), pl.col(f"{prefix}probability")
            number = gap.is_finite() & sd.is_finite() & (sd >= 0) & probability.is_between(0, 1)
            known = (right & number).fill_null(False)
            # A vote without both images has no joint gap beside its pairwise one.
            good &= known if column == "gap" else known | gap.is_null()
        bad = found.filter(~good)
        return dg.AssetCheckResult(
            passed=bad.is_empty() and not found.is_empty(),
            metadata={
                "gaps": found.height,
                "bad": bad.height,
                "such_as": dg.MetadataValue.md(markdown(bad.head(5))),
            },
        )

    @stage.check(study, "joint_gap_converged")
    def joint_gap_converged() -> dg.AssetCheckResult:
        """Expectation propagation stood still before its sweeps ran out."""
        if "joint" not in estimators:
            return dg.AssetCheckResult(passed=True, description="no policy uses the joint gap")
        found = lake.read("joint").row(0, named=True)
        return dg.AssetCheckResult(
            passed=found["joint.converged"] == 1.0,
            severity=dg.AssetCheckSeverity.WARN,
            metadata=found,
        )

    @stage.check(study, "one_gap_a_vote")
    def one_gap_a_vote() -> dg.AssetCheckResult:
        """The warehouse holds one gap for each accepted vote, and the votes of the lake."""
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

    return [gaps, gaps_are_positive_and_finite, joint_gap_converged, one_gap_a_vote]


def gap_columns(estimators: Sequence[str]) -> dict[str, str]:
    """Return the column of `gaps` that holds each estimator's gap: the first has no prefix."""
    return {name: "gap" if k == 0 else f"{name}_gap" for k, name in enumerate(estimators)}


def lineage_of(study: Study, estimators: Sequence[str]) -> dict[str, list[tuple[dg.AssetKey, str]]]:
    """Return what each column is made from: a gap from the vote and the two models' ratings."""
    votes, ratings = study.key("votes"), study.key("ratings")
    found = {"vote_id": [(votes, "vote_id")], "outcome": [(votes, "outcome")]}
    vote = [(votes, name) for name in ("model_a", "model_b", "outcome")]
    rated = [*vote, (ratings, "mu"), (ratings, "sigma")]
    for column in gap_columns(estimators).values():
        found |= {f"{column}{end}": rated for end in ("", "_sd")}
        found[f"{column.removesuffix('gap')}probability"] = rated
    return found


def as_metrics(joint: JointReport) -> dict[str, float]:
    """Return how the joint gap came about as plain numbers."""
    s = joint.settings
    return {
        "joint.rho": s.rho,
        "joint.taste": s.taste,
        "joint.slip": s.slip,
        "joint.epsilon": s.epsilon,
        "joint.evidence": joint.evidence,
        "joint.sweeps": float(joint.sweeps),
        "joint.change": joint.change,
        "joint.converged": float(joint.converged),
    }
