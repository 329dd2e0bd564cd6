"""Votes in: the files people have become one table, and every row of them is accounted for."""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from arena.votes.faults import VotesError
from arena.votes.identity import fingerprint
from arena.votes.intake import arrivals, take_in
from arena.votes.options import Options
from arena.votes.sources import File, as_url, present, remote_rows, without_query
from assets.anomalies import ties_are_steady
from assets.brought import brought, is_object
from assets.content import remembered
from assets.forgotten import as_stored, leave_out, left_out, list_version
from assets.lake import Lake
from assets.lineage import DATA_VERSION, SUCH_AS
from assets.pictures import markdown
from assets.stage import Chain
from assets.study import Study
from assets.tables import described
from assets.tracking import tracked

FAMILIAR_SHARE_OF_REJECTIONS = 0.01
COUNTED = ("rows", "accepted", "rejected", "duplicates")
# A file this young may still be written; a look by the daemon leaves it for the next one.
SETTLED_SECONDS = 60
# Where people vote for each study, as JSON {study: URL}, while the pages are served.
VOTING = "ARENAPO_VOTING_PAGES"
# The tag of a run that a sensor asked for: it takes in settled files only.
BY_SENSOR = "arenapo/by_sensor"


def voting_page(study: Study) -> dict[str, dg.MetadataValue[Any]]:
    """Return the link to the page on which people vote for a study, while it is served."""
    url = json.loads(os.environ.get(VOTING, "{}")).get(study.name)
    return {"voting page": dg.MetadataValue.url(url)} if url else {}


def votes_stage(study: Study, chain: Chain) -> list[Any]:
    """Return the observed vote files, the asset `votes` and its checks."""
    lake, stage = Lake(study.lake), chain["votes"]

    @dg.observable_source_asset(
        key=study.key("vote_files"),
        group_name="data",
        description="The files of votes that the study names, by content.",
        metadata={
            f"source_{i}": dg.MetadataValue.path(without_query(source))
            for i, source in enumerate(study.votes.sources)
        },
    )
    def vote_files() -> dg.DataVersion:
        return dg.DataVersion(observed(study))

    @stage.asset(
        study,
        group_name="data",
        kinds={"polars", "parquet"},
        description="Every usable vote, one row each, in the order of the files.",
        metadata=voting_page(study),
        freshness_policy=dg.FreshnessPolicy.time_window(
            fail_window=timedelta(days=study.automation.quiet_days)
        ),
    )
    def votes(context: dg.AssetExecutionContext) -> "dg.MaterializeResult[Any]":
        with tracked(study, chain, context, {"sources": len(study.votes.sources)}) as run:
            settled = time.time() - SETTLED_SECONDS if BY_SENSOR in context.run.tags else None
            before = lake.read("intake") if lake.table("intake").exists() else None
            # What is looked at now is what the votes are made from, whoever looked before.
            seen = observed(study, settled)
            context.instance.report_runless_asset_event(observation(study, seen))
            run.inputs["vote_files"] = seen
            files, quarantined = taken_in(study, lake, sources_of(study, settled), before)
            salt = options(study).salt
            without = {n for name in study.votes.without for n in as_stored(salt, name)}
            forgotten = leave_out(lake, without)
            arrived = arrivals(files, before)
            lake.write("intake", files)
            lake.write("quarantined", quarantined)
            for name, content in files.select("file", "fingerprint").iter_rows():
                called = "a file of votes" if run.private else Path(name).name
                run.dataset(called, content.partition(":")[2], "votes")
            counts = describe(lake) | {"quarantined": quarantined.height, "forgotten": forgotten}
            run.metrics(counts)
            return run.result(
                lake.version("votes", "rankings"),
                {
                    **counts,
                    **described(lake, "votes"),
                    "by_outcome": dg.MetadataValue.md(by_outcome(lake)),
                    "rejections": dg.MetadataValue.md(reasons(lake.read("rejected"))),
                    "quarantine": dg.MetadataValue.md(markdown(quarantined)),
                    "files": dg.MetadataValue.md(by_arrival(arrived)),
                },
            )

    @stage.check(study, "no_vote_lost")
    def no_vote_lost() -> dg.AssetCheckResult:
        """Rows in = rows accepted + rejected + exact duplicates + those of forgotten raters."""
        files, rankings = lake.read("intake"), lake.read("rankings")
        accepted = pairwise(lake.read("votes", "ranking")) + int(rankings["rows"].sum())
        counted = {name: int(files[name].sum()) for name in COUNTED}
        lost = counted["rows"] - accepted - lake.read("rejected").height - counted["duplicates"]
        lost -= left_out(lake)
        astray = files.filter(
            pl.col("rows") != pl.sum_horizontal("accepted", "rejected", "duplicates")
        )
        return dg.AssetCheckResult(
            passed=lost == 0 and astray.is_empty(),
            metadata={
                **counted,
                "accepted": accepted,
                "forgotten": left_out(lake),
                "lost": lost,
                "files_that_do_not_add_up": dg.MetadataValue.md(markdown(astray)),
            },
        )

    @stage.check(study, "rejections_are_few")
    def rejections_are_few() -> dg.AssetCheckResult:
        """At most one row in a hundred could not be used."""
        rejected = lake.read("rejected")
        share = rejected.height / max(int(lake.read("intake")["rows"].sum()), 1)
        return dg.AssetCheckResult(
            passed=share <= FAMILIAR_SHARE_OF_REJECTIONS,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"share": share, "reasons": dg.MetadataValue.md(reasons(rejected))},
        )

    @stage.check(study, "every_file_is_read")
    def every_file_is_read() -> dg.AssetCheckResult:
        """No file among the votes is quarantined."""
        found = lake.read("quarantined")
        return dg.AssetCheckResult(
            passed=found.is_empty(),
            severity=dg.AssetCheckSeverity.WARN,
            description=f"{found.height} files are left out" if found.height else None,
            metadata={
                "quarantined": found.height,
                SUCH_AS: "; ".join(found["reason"].head(3)) or "none",
                "files": dg.MetadataValue.md(markdown(found)),
            },
        )

    @stage.check(study, "share_of_ties_is_steady")
    def share_of_ties_is_steady() -> dg.AssetCheckResult:
        """The newest tenth of the votes has as many ties as the rest, within chance."""
        return ties_are_steady(lake.read("votes", "outcome", "created_at"))

    checks = [no_vote_lost, rejections_are_few, every_file_is_read, share_of_ties_is_steady]
    return [vote_files, votes, *checks]


class NothingYet(ValueError):
    """The sources are empty: no file of votes has come so far."""


def observation(study: Study, version: str) -> dg.AssetObservation:
    """Return the observation of the vote files that the next votes are made from."""
    return dg.AssetObservation(study.key("vote_files"), tags={DATA_VERSION: version})


def observed(study: Study, settled: float | None = None) -> str:
    """Return a hash of what the arena reads of every source, and of the raters that it forgets.

    settled: files written after this time do not count yet. Of a remote table the number of its
    rows is asked; its content is read when it is taken in. Raises NothingYet where no file is.
    """
    parts = []
    for source in sources_of(study, settled):
        if isinstance(source, File):
            called = source.name.partition("?")[0].rpartition("/")[2]
            parts.append(f"{called} {remembered('votes', source.path, print_of)}")
        else:
            parts.append(f"{source} {remote_rows(source)}")
    forgotten = list_version(Lake(study.lake))
    parts += [f"without {forgotten}"] if forgotten else []
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def print_of(path: Path) -> str:
    """Return a file's fingerprint; one that cannot be opened has none, and is quarantined."""
    try:
        return fingerprint(File(path, str(path)))
    except VotesError as error:
        return f"unreadable: {error}"


def sources_of(study: Study, settled: float | None = None) -> list[File | str]:
    """Return every file that the study names, in order, and the URLs that stay where they are.

    Raises NothingYet where folders and patterns are empty, VotesError where a store cannot be read.
    """
    found: list[File | str] = []
    young = 0
    for source in study.votes.sources:
        if is_object(source):
            found += brought(str(source))
            continue
        here = str(source).startswith("file://") or as_url(source) is None
        named = Path(str(source).removeprefix("file://")) if here else str(source)
        for each in present([named]):
            if isinstance(each, str):
                found.append(str(as_url(each)))
            elif settled is not None and each.exists() and each.stat().st_mtime > settled:
                young += 1
            else:
                found.append(File(each, str(each)))
    if not found:
        where = ", ".join(map(without_query, study.votes.sources))
        more = f" ({young} are younger than a minute)" if young else ""
        raise NothingYet(f"no votes yet{more}: no file in {where}; drop one there")
    return found


def taken_in(
    study: Study, lake: Lake, sources: Sequence[File | str], before: pl.DataFrame | None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read the votes, without the files that cannot be; return (the files read, those left out).

    Raises VotesError for a file that was accepted before and cannot be read now, and where no file
    can be read.
    """
    places = [lake.target(name) for name in ("votes", "rankings", "rejected")]
    files = take_in(
        sources,
        *places,
        options=options(study),
        replaces=study.votes.replaces,
        most_rejected=study.votes.most_rejected,
        before=before,
    )
    lake.put(*places)
    left_out = files.drop_nulls("fault").select("file", reason="fault")
    return files.filter(pl.col("fault").is_null()), left_out


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
        columns=study.votes.columns,
        outcomes=study.votes.outcomes,
        dimension=study.votes.dimension,
        images="resolved" if study.votes.images is None else "ids",
        images_from=study.path.parent,
        image_roots=study.votes.image_roots,
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
