"""Votes in: the files people have become one table, and every row of them is accounted for."""

import hashlib
import os
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from arena.votes.deliveries import fingerprint
from arena.votes.faults import VotesError
from arena.votes.intake import arrivals, take_in
from arena.votes.reading import Options
from arena.votes.sources import File, as_url, expanded, remote_rows
from assets.anomalies import ties_are_steady
from assets.lake import Lake, content_hash
from assets.pictures import markdown
from assets.study import Study
from assets.tracking import Tracking

FAMILIAR_SHARE_OF_REJECTIONS = 0.01
COUNTED = ("rows", "accepted", "rejected", "duplicates")


def votes_stage(study: Study) -> list[Any]:
    """Return the observed vote files, the asset `votes` and its checks."""
    lake = Lake(study.lake)

    @dg.observable_source_asset(
        group_name="data",
        description="The files of votes and images that the study names, by content.",
        metadata={
            f"source_{i}": dg.MetadataValue.path(p) for i, p in enumerate(study.votes.sources)
        },
    )
    def vote_files() -> dg.DataVersion:
        return dg.DataVersion(observed(study))

    @dg.asset(
        deps=[vote_files],
        group_name="data",
        kinds={"polars", "parquet"},
        code_version=f"3-{study.version('votes')}",
        description="Every usable vote, one row each, in the order of the files.",
    )
    def votes(context: dg.AssetExecutionContext, tracking: Tracking) -> "dg.MaterializeResult[Any]":
        with tracking.run(context, {"sources": len(study.votes.sources)}) as run:
            files = take_in(
                study.votes.sources,
                *(lake.table(name) for name in ("votes", "rankings", "rejected")),
                options=options(study),
                replaces=study.votes.replaces,
                most_rejected=study.votes.most_rejected,
            )
            before = lake.read("intake") if lake.table("intake").exists() else None
            arrived = arrivals(files, before)
            lake.write("intake", files)
            for name, content in files.select("file", "fingerprint").iter_rows():
                run.dataset(Path(name).name, content.partition(":")[2], Path(name), "votes")
            counts = describe(lake)
            run.metrics(counts)
            return run.result(
                content_hash(lake.table("votes"), lake.table("rankings")),
                {
                    **counts,
                    "by_outcome": dg.MetadataValue.md(by_outcome(lake)),
                    "rejections": dg.MetadataValue.md(reasons(lake.read("rejected"))),
                    "files": dg.MetadataValue.md(by_arrival(arrived)),
                    "table": dg.MetadataValue.path(lake.table("votes")),
                },
            )

    @dg.asset_check(asset=votes, blocking=True)
    def no_vote_lost() -> dg.AssetCheckResult:
        """Rows in = rows accepted + rows rejected + exact duplicates."""
        files, rankings = lake.read("intake"), lake.read("rankings")
        accepted = pairwise(lake.read("votes", "ranking")) + int(rankings["rows"].sum())
        counted = {name: int(files[name].sum()) for name in COUNTED}
        lost = counted["rows"] - accepted - lake.read("rejected").height - counted["duplicates"]
        astray = files.filter(
            pl.col("rows") != pl.sum_horizontal("accepted", "rejected", "duplicates")
        )
        return dg.AssetCheckResult(
            passed=lost == 0 and astray.is_empty(),
            metadata={
                **counted,
                "accepted": accepted,
                "lost": lost,
                "files_that_do_not_add_up": dg.MetadataValue.md(markdown(astray)),
            },
        )

    @dg.asset_check(asset=votes)
    def rejections_are_few() -> dg.AssetCheckResult:
        """At most one row in a hundred could not be used."""
        rejected = lake.read("rejected")
        share = rejected.height / max(int(lake.read("intake")["rows"].sum()), 1)
        return dg.AssetCheckResult(
            passed=share <= FAMILIAR_SHARE_OF_REJECTIONS,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"share": share, "reasons": dg.MetadataValue.md(reasons(rejected))},
        )

    @dg.asset_check(asset=votes)
    def share_of_ties_is_steady() -> dg.AssetCheckResult:
        """The newest tenth of the votes has as many ties as the rest, within chance."""
        return ties_are_steady(lake.read("votes", "outcome", "created_at"))

    return [vote_files, votes, no_vote_lost, rejections_are_few, share_of_ties_is_steady]


def observed(study: Study) -> str:
    """Return a hash of what the arena reads of every source, and of the images beside them.

    Of a remote table the number of its rows is asked; its content is read when it is taken in.
    """
    parts = []
    for source in study.votes.sources:
        url = as_url(source)
        if url is None:
            files = expanded(Path(source))
            parts += [f"{file.name} {fingerprint(File(file, str(file)))}" for file in files]
        else:
            parts.append(f"{url} {remote_rows(url)}")
    # Images are part of it: a picture replaced under the same name must be encoded anew.
    parts += [content_hash(study.votes.images)] if study.votes.images else []
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def options(study: Study) -> Options:
    """Return how the study wants its files read.

    Raises VotesError where the variable that should hold the salt is not set: hashing without it
    would give other names than the last time.
    """
    variable = study.votes.rater_salt
    salt = os.environ.get(variable) if variable else None
    if variable and not salt:
        raise VotesError(
            f"{study.path}: votes.rater_salt names the environment variable {variable}, "
            "which is not set; set it to the secret under which raters are hashed"
        )
    return Options(
        study.votes.format,
        salt=salt,
        images="resolved" if study.votes.images is None else "ids",
        images_from=study.path.parent,
    )


def pairwise(votes: pl.DataFrame) -> int:
    """Count the votes that are no pair of a ranking."""
    return int(votes["ranking"].null_count())


def describe(lake: Lake) -> dict[str, int]:
    """Return the counts that a person asks for first."""
    files = lake.read("intake")
    votes = pl.scan_parquet(lake.table("votes"))
    model_a, model_b = pl.col("model_a"), pl.col("model_b")
    return {
        **{name: int(files[name].sum()) for name in COUNTED},
        "files": files.height,
        "votes": votes.select(pl.len()).collect().item(),
        "rankings": lake.read("rankings").height,
        "models": _distinct(votes, "model_a", "model_b"),
        "images": _distinct(votes, "image_a", "image_b"),
        "prompts": _distinct(votes, "prompt"),
        "raters": _distinct(votes, "rater"),
        "ties": votes.filter(pl.col("outcome") == "tie").select(pl.len()).collect().item(),
        "same_model": votes.filter(model_a == model_b).select(pl.len()).collect().item(),
    }


def _distinct(votes: pl.LazyFrame, *columns: str) -> int:
    parts = [votes.select(x=pl.col(name)).drop_nulls().unique() for name in columns]
    return int(pl.concat(parts).select(pl.col("x").n_unique()).collect(engine="streaming").item())


def by_outcome(lake: Lake) -> str:
    """Return a small table: source, outcome, votes."""
    votes = pl.scan_parquet(lake.table("votes"))
    counted = votes.group_by("source", "outcome").len("votes").sort("source", "outcome")
    return markdown(counted.head(60).collect())


def by_arrival(arrived: pl.DataFrame) -> str:
    """Return how many files came, stayed, changed or went since the last time, and their rows."""
    counted = arrived.group_by("arrival").agg(
        pl.len().alias("files"), pl.col("rows").sum(), pl.col("file").first().alias("such as")
    )
    return markdown(counted.sort("arrival"))


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
