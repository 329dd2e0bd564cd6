"""Which policy serves: the rule that makes one the champion.

The rule is `assets.verdict`'s: a challenger that is better than the champion follows it, by its
newest version's own scores, or by people's votes about that version (champion.by); until there is
a champion the baseline's images stand for it. Scores are compared only where the same scorer, by
its weights, gave both on the same prompts. What a person pinned stays. What serves loads
`models:/STUDY@champion` and never asks who that is.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from arena.ratings.table import Ratings
from assets import inputs
from assets.evidence import evidence
from assets.lake import Lake
from assets.lineage import current_version
from assets.model_registry import (
    champion_of,
    content_of,
    crown,
    kept_scores,
    pinned,
    weight_files,
)
from assets.pictures import markdown
from assets.scorecard import CONDITIONS
from assets.stage import Chain
from assets.study import Study
from assets.tracking import Tracking, tracked
from assets.verdict import BETTER, RULES, by_votes, compared, verdict

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

STANDING = "champion or baseline"
COLUMNS = {
    "policy": pl.String,
    "version": pl.String,
    "win_rate": pl.Float64,
    "win_rate_low": pl.Float64,
    "win_rate_high": pl.Float64,
    "p_holm": pl.Float64,
    "better": pl.Boolean,
}
VOTED = {
    "policy": pl.String,
    "version": pl.String,
    "votes": pl.Int64,
    "difference": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "p_holm": pl.Float64,
    "verdict": pl.String,
}


@dataclass(frozen=True)
class Decision:
    """The version to crown, None to leave all as it is; why; and every challenger's numbers."""

    version: str | None
    said: str
    table: pl.DataFrame


def champion_stage(study: Study, chain: Chain) -> list[Any]:
    """Return the asset `champion` and its check."""
    stage = chain["champion"]

    @stage.asset(
        study,
        group_name="evaluation",
        kinds={"mlflow"},
        description="The policy that serves: models:/STUDY@champion, by the stated rule.",
    )
    def champion(context: dg.AssetExecutionContext) -> "dg.MaterializeResult[Any]":
        rule = {"headline": study.scorecard.headline, "rule": RULES[study.champion.by]}
        with tracked(study, chain, context, rule) as run:
            decision = decide_now(study, chain, run.client, context.instance)
            if decision.version is not None:
                crown(run.client, study.name, decision.version)
            standing = champion_of(run.client, study.name)
            keep_standing(Lake(study.lake), standing)
            run.metrics(
                {
                    f"{row['policy']}.{key}": value
                    for row in decision.table.iter_rows(named=True)
                    for key, value in row.items()
                    if isinstance(value, float) and math.isfinite(value)
                }
            )
            return run.result(
                content_of(standing),
                {
                    "decision": decision.said,
                    "champion": f"version {standing.version}" if standing else "none",
                    "challengers": dg.MetadataValue.md(markdown(decision.table)),
                    "rule": RULES[study.champion.by],
                    "load": f"models:/{study.name}@champion",
                },
            )

    @stage.check(study, "champion_can_be_loaded")
    def champion_can_be_loaded() -> dg.AssetCheckResult:
        """The champion's weights are where the registry says, so that what serves can load them."""
        client = Tracking.of(study).client()
        standing = champion_of(client, study.name)
        if standing is None:
            return dg.AssetCheckResult(passed=True, description="there is no champion yet")
        files = weight_files(client, standing)
        return dg.AssetCheckResult(
            passed=bool(files),
            metadata={"version": standing.version, "weights": ", ".join(files) or "none"},
        )

    return [champion, champion_can_be_loaded]


def keep_standing(lake: Lake, standing: "ModelVersion | None") -> None:
    """Write into the lake what votes call the champion: the voting page asks about it first."""
    names = [name_of(standing)] if standing else []
    lake.write("champion", pl.DataFrame({"model": names}, schema={"model": pl.String}))


def name_of(version: "ModelVersion") -> str:
    """Return what votes call a version: `arenapo@3` (`generations.weights_of`)."""
    return f"{version.tags['policy']}@{version.version}"


def decide_now(
    study: Study, chain: Chain, client: "MlflowClient", instance: dg.DagsterInstance
) -> Decision:
    """Gather what the rule needs, as it is now, and apply the rule."""
    lake, none = Lake(study.lake), pl.DataFrame(schema=COLUMNS)
    prompts = current_version(instance, study, chain, ("evaluation_prompts", None)) or ""
    now = inputs.conditions(study, inputs.drawn_under(study, prompts))
    table = evidence(instance, study, chain)
    usable = table.filter(pl.col("problem").is_null() & (pl.col("conditions") == now))
    for row in usable.filter("trained").iter_rows(named=True):
        for key in (CONDITIONS, "scorecard_run"):
            client.set_model_version_tag(study.name, row["version"], key, row[key])
    standing = champion_of(client, study.name)
    if held := pinned(client, study.name):
        what = "nobody" if held == "none" else f"version {held}"
        return Decision(
            None, f"a person pinned {what}; `promote --unpin` lets the rule decide", none
        )
    voted = study.champion.by == "votes"
    able = table.filter(pl.col("problem").is_null()) if voted else usable
    challengers = able.filter("trained", pl.col("weights") != content_of(standing))
    if challengers.is_empty():
        left = [f"{row[0]}: {row[1]}" for row in table.select("policy", "problem").rows() if row[1]]
        return Decision(None, "; ".join(["nobody challenges the champion", *left]), none)
    if voted:
        (base,) = table.filter(policy=study.baseline)["voted_as"]
        called = name_of(standing) if standing else str(base)
        return decide_by_votes(
            challengers, Ratings.read(lake.table("ratings")), called, study.champion.votes
        )
    if standing is not None and standing.tags.get(CONDITIONS) != now:
        said = f"version {standing.version} was scored on other prompts, by another scorer or never"
        return Decision(None, f"{said}: promote by hand what should follow it", none)
    if standing is None and study.baseline not in usable["policy"]:
        said = f"{study.baseline} was scored on other prompts, by another scorer or never"
        return Decision(None, said, none)
    own = {name: own_scores(lake, name) for name in usable["policy"]}
    if standing is None:
        incumbent, over = own.pop(study.baseline), f"baseline, {study.baseline}"
    else:
        incumbent = kept_scores(client, standing)
        over = f"champion, version {standing.version}"
        own = {name: own[name] for name in challengers["policy"]}
    return decide(
        challengers,
        pl.concat([incumbent.with_columns(policy=pl.lit(STANDING)), *own.values()], how="diagonal"),
        study.scorecard.headline,
        [name for name in study.scorer_names if name in incumbent.columns],
        over,
    )


def decide(
    challengers: pl.DataFrame,
    scores: pl.DataFrame,
    headline: str,
    scorers: list[str],
    over: str,
) -> Decision:
    """Return which challenger follows the champion, and why; a function of frames alone.

    challengers: policy, version. scores: policy, prompt, seed and a column for each scorer; those
    of the one that stands are called STANDING. over: how that one is called in the sentence.
    """
    found = compared(scores, STANDING, headline, scorers)
    rows = [
        {key: getattr(found[policy], key) for key in list(COLUMNS)[2:6]}
        | {
            "policy": policy,
            "version": version,
            "better": found[policy].missing == 0 and verdict(found[policy]) == BETTER,
        }
        for policy, version in challengers.select("policy", "version").iter_rows()
    ]
    table = pl.DataFrame(rows, schema=COLUMNS).sort("win_rate", "policy", descending=[True, False])
    best = table.filter("better")
    if best.is_empty():
        return Decision(None, f"no policy is shown to be better than the {over}", table)
    row = best.row(0, named=True)
    said = (
        f"{row['policy']} is champion: it wins {row['win_rate']:.1%} of the prompts over the "
        f"{over}, interval from {row['win_rate_low']:.1%} to {row['win_rate_high']:.1%}"
    )
    return Decision(row["version"], said, table)


def decide_by_votes(
    challengers: pl.DataFrame, ratings: Ratings, standing: str, least: int
) -> Decision:
    """Return which challenger follows the champion by people's votes, and why; of frames alone.

    challengers: policy, version, and voted_as, the version's name among the ratings. standing: the
    champion's name there, or the baseline's. least: the votes that each needs (`verdict.by_votes`).
    """
    named = list(challengers.select("policy", "version", "voted_as").iter_rows())
    found = by_votes(ratings, standing, [name for *_, name in named], least)
    rows = [
        {"policy": policy, "version": version, **dataclasses.asdict(found[name])}
        for policy, version, name in named
    ]
    table = pl.DataFrame(rows, schema=VOTED).fill_nan(None)
    table = table.sort("difference", "policy", descending=[True, False], nulls_last=True)
    best = table.filter(verdict=BETTER)
    if best.is_empty():
        about = ", ".join(f"{row['policy']} {row['verdict']}" for row in table.to_dicts())
        said = f"by people's votes no policy is shown to be better than {standing}: {about}"
        return Decision(None, f"{said} (of at least {least} about each)", table)
    row = best.row(0, named=True)
    said = (
        f"{row['policy']} is champion: by {row['votes']} votes people rate it "
        f"{row['difference']:.2f} above {standing}, interval from {row['low']:.2f} to "
        f"{row['high']:.2f}"
    )
    return Decision(row["version"], said, table)


def own_scores(lake: Lake, name: str) -> pl.DataFrame:
    """Return the scores of a policy's own images, without the images' paths."""
    table = pl.read_parquet(lake.scores(name)).filter(pl.col("policy") == name)
    return table.drop("image", strict=False)
