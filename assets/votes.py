"""Votes in: the files people have become one table, and every row of them is accounted for."""

from typing import Any

import dagster as dg
import polars as pl

from arena.votes.open import Reading, read_votes
from assets.lake import Lake, content_hash
from assets.study import Study
from assets.tracking import Tracking

FAMILIAR_SHARE_OF_REJECTIONS = 0.01


def votes_stage(study: Study, watch: "dg.AutomationCondition[Any] | None" = None) -> list[Any]:
    """Return the observed vote files, the asset `votes` and its checks.

    watch: when the daemon looks at the files; None for only when somebody asks.
    """
    lake = Lake(study.lake)

    @dg.observable_source_asset(
        group_name="data",
        automation_condition=watch,
        description="The files of votes and images that the study names, by content.",
        metadata={
            f"source_{i}": dg.MetadataValue.path(p) for i, p in enumerate(study.votes.sources)
        },
    )
    def vote_files() -> dg.DataVersion:
        # Images are part of it: a picture replaced under the same name must be encoded anew.
        images = [study.votes.images] if study.votes.images else []
        return dg.DataVersion(content_hash(*study.votes.sources, *images))

    @dg.asset(
        deps=[vote_files],
        group_name="data",
        kinds={"polars", "parquet"},
        code_version=f"1-{study.version('votes')}",
        description="Every usable vote, one row each, in the order of the files.",
    )
    def votes(context: dg.AssetExecutionContext, tracking: Tracking) -> "dg.MaterializeResult[Any]":
        with tracking.run(context, {"sources": len(study.votes.sources)}) as run:
            reading = read_votes(study.votes.sources, resolve_images=study.votes.images is None)
            version = lake.write("votes", reading.votes)
            lake.write("rejected", reading.rejected)
            lake.write("intake", intake(reading))
            for path in study.votes.sources:
                run.dataset(path.name, content_hash(path), path, "votes")
            counts = describe(reading)
            run.metrics(counts)
            return run.result(
                version,
                {
                    **counts,
                    "by_outcome": dg.MetadataValue.md(by_outcome(reading.votes)),
                    "rejections": dg.MetadataValue.md(reasons(reading.rejected)),
                    "table": dg.MetadataValue.path(lake.table("votes")),
                },
            )

    @dg.asset_check(asset=votes, blocking=True)
    def no_vote_lost() -> dg.AssetCheckResult:
        """Rows in = rows accepted + rows rejected + exact duplicates."""
        counted = lake.read("intake").row(0, named=True)
        accepted, rejected = lake.read("votes").height, lake.read("rejected").height
        lost = counted["rows"] - accepted - rejected - counted["duplicates"]
        return dg.AssetCheckResult(
            passed=lost == 0,
            metadata={**counted, "accepted": accepted, "rejected": rejected, "lost": lost},
        )

    @dg.asset_check(asset=votes)
    def rejections_are_few() -> dg.AssetCheckResult:
        """At most one row in a hundred could not be used."""
        rejected = lake.read("rejected")
        share = rejected.height / max(lake.read("intake").item(0, "rows"), 1)
        return dg.AssetCheckResult(
            passed=share <= FAMILIAR_SHARE_OF_REJECTIONS,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"share": share, "reasons": dg.MetadataValue.md(reasons(rejected))},
        )

    return [vote_files, votes, no_vote_lost, rejections_are_few]


def intake(reading: Reading) -> pl.DataFrame:
    """Return one row: what came in, kept apart from the tables that must add up to it."""
    return pl.DataFrame({"rows": [reading.rows], "duplicates": [reading.duplicates]})


def describe(reading: Reading) -> dict[str, int]:
    """Return the counts that a person asks for first."""
    votes = reading.votes
    return {
        "rows": reading.rows,
        "accepted": votes.height,
        "rejected": reading.rejected.height,
        "duplicates": reading.duplicates,
        "models": pl.concat([votes["model_a"], votes["model_b"]]).n_unique(),
        "images": pl.concat([votes["image_a"], votes["image_b"]]).drop_nulls().n_unique(),
        "prompts": votes["prompt"].drop_nulls().n_unique(),
        "raters": votes["rater"].drop_nulls().n_unique(),
        "ties": votes.filter(pl.col("outcome") == "tie").height,
        "same_model": votes.filter(pl.col("model_a") == pl.col("model_b")).height,
    }


def by_outcome(votes: pl.DataFrame) -> str:
    """Return a small table: source, outcome, votes."""
    counted = votes.group_by("source", "outcome").len("votes").sort("source", "outcome")
    return markdown(counted)


def reasons(rejected: pl.DataFrame) -> str:
    """Return the reasons for rejections, the commonest first, each with one row to look at."""
    if rejected.is_empty():
        return "none"
    return markdown(
        rejected.group_by("reason", "column")
        .agg(pl.len().alias("rows"), pl.col("file").first(), pl.col("row").first().alias("such as"))
        .sort("rows", descending=True)
        .head(10)
    )


def markdown(table: pl.DataFrame) -> str:
    """Return a frame as a markdown table, as Dagster's pages show it."""
    lines = ["| " + " | ".join(table.columns) + " |", "|" + " --- |" * table.width]
    for row in table.iter_rows():
        cells = (f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)
