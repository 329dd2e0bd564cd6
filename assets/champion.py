"""Which policy serves: the rule that makes one the champion, and a person's word over the rule.

A trained policy is a version of the registered model named after the study, and its `candidate`.
It becomes `champion` when, by the headline scorer, it wins over the champion on the same prompts
and the same noise (`Comparison.verdict`, corrected over all challengers). Until there is a champion
the baseline's images stand for it.
Scores are compared only where the same scorer, by its weights, gave both on the same prompts. What
serves loads `models:/STUDY@champion` and never asks who that is.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from assets.jobs import plain
from assets.lake import Lake
from assets.lineage import RUN_ID, latest
from assets.pictures import markdown
from assets.scorecard import CONDITIONS
from assets.study import Study
from assets.tracking import Tracking
from assets.yardsticks import conditions
from evaluation.intervals import ALPHA
from evaluation.statistics import compare

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


@dataclass(frozen=True)
class Decision:
    """The version to crown, None to leave all as it is; why; and every challenger's numbers."""

    version: str | None
    said: str
    table: pl.DataFrame


def champion_stage(study: Study) -> list[Any]:
    """Return the asset `champion` and its check."""
    lake = Lake(study.lake)

    @dg.asset(
        deps=["scorecard"],
        group_name="evaluation",
        kinds={"mlflow"},
        code_version=f"2-{study.version('study', 'scorecard')}",
        description="The policy that serves: models:/STUDY@champion, by the stated rule.",
    )
    def champion(
        context: dg.AssetExecutionContext, tracking: Tracking
    ) -> "dg.MaterializeResult[Any]":
        rule = {"headline": study.scorecard.headline, "significant": ALPHA}
        with tracking.run(context, rule) as run:
            decision = decide(study, lake, run.client, context.instance)
            if decision.version is not None:
                crown(run.client, study.name, decision.version)
            standing = champion_of(run.client, study.name)
            run.metrics(
                {
                    f"{row['policy']}.{key}": row[key]
                    for row in decision.table.iter_rows(named=True)
                    for key in ("win_rate", "win_rate_low", "win_rate_high", "p_holm")
                }
            )
            return run.result(
                content_of(standing),
                {
                    "decision": decision.said,
                    "champion": f"version {standing.version}" if standing else "none",
                    "challengers": dg.MetadataValue.md(markdown(decision.table)),
                    "rule": f"win_rate > 0.5 and p_holm < {ALPHA}, no image missing",
                    "load": f"models:/{study.name}@champion",
                },
            )

    @dg.asset_check(asset=champion)
    def champion_can_be_loaded() -> dg.AssetCheckResult:
        """The champion's weights are where the registry says, so that what serves can load them."""
        client = Tracking.of(study).client()
        standing = champion_of(client, study.name)
        if standing is None:
            return dg.AssetCheckResult(passed=True, description="there is no champion yet")
        return check_loads(client, standing)

    return [champion, champion_can_be_loaded]


def decide(
    study: Study, lake: Lake, client: "MlflowClient", instance: dg.DagsterInstance
) -> Decision:
    """Return which version is to be crowned by the rule, and why."""
    now = conditions(study)
    standing = champion_of(client, study.name)
    challengers = {}
    for name, config in study.policies.items():
        made = latest(instance, dg.AssetKey("policy"), name) if config else None
        scored = latest(instance, dg.AssetKey("scorecard"), name) if made else None
        if made is None or scored is None or "mlflow_model_version" not in made.metadata:
            continue
        version = str(made.metadata["mlflow_model_version"].value)
        # As they were when it was scored: a scorer with other weights since then makes them stale.
        under = plain(scored.metadata).get(CONDITIONS, "unknown")
        tags = {CONDITIONS: under, "scorecard_run": str(scored.metadata[RUN_ID].value)}
        for key, value in tags.items():
            client.set_model_version_tag(study.name, version, key, value)
        entry = client.get_model_version(study.name, version)
        same = standing is not None and content_of(entry) == content_of(standing)
        if not same and "rolled_back" not in entry.tags and under == now:
            challengers[name] = version
    standing = champion_of(client, study.name)  # with the tags that it may just have been given
    none = pl.DataFrame(schema=COLUMNS)
    if not challengers:
        return Decision(None, "nobody challenges the champion", none)
    if standing is not None and standing.tags.get(CONDITIONS) != now:
        said = f"version {standing.version} was scored on other prompts, by another scorer or never"
        return Decision(None, f"{said}: promote by hand what should follow it", none)
    shown = [own_scores(lake, name, name) for name in challengers]
    incumbent = kept_scores(client, standing) if standing else None
    if incumbent is None:
        scored = latest(instance, dg.AssetKey("scorecard"), study.baseline)
        if scored is None or plain(scored.metadata).get(CONDITIONS) != now:
            said = f"{study.baseline} was scored on other prompts, by another scorer or never"
            return Decision(None, said, none)
        incumbent = own_scores(lake, study.baseline, study.baseline)
    incumbent = incumbent.with_columns(policy=pl.lit(STANDING))
    scores = pl.concat([incumbent, *shown], how="diagonal_relaxed")
    found = compare(scores, STANDING, study.scorecard.headline, seed=study.seed)
    table = pl.DataFrame(
        [
            {key: getattr(found[name], key) for key in list(COLUMNS)[2:6]}
            | {
                "policy": name,
                "version": version,
                "better": found[name].missing == 0 and found[name].verdict == "better",
            }
            for name, version in challengers.items()
        ],
        schema=COLUMNS,
    ).sort("win_rate", "policy", descending=[True, False])
    over = f"champion, version {standing.version}" if standing else f"baseline, {study.baseline}"
    best = table.filter("better")
    if best.is_empty():
        return Decision(None, f"no policy is shown to be better than the {over}", table)
    row = best.row(0, named=True)
    said = (
        f"{row['policy']} is champion: it wins {row['win_rate']:.1%} of the prompts over the "
        f"{over}, interval from {row['win_rate_low']:.1%} to {row['win_rate_high']:.1%}"
    )
    return Decision(row["version"], said, table)


def own_scores(lake: Lake, name: str, policy: str) -> pl.DataFrame:
    """Return the scores of one policy's own images."""
    table = pl.read_parquet(lake.root / "judgments" / name / "scores.parquet")
    return table.filter(pl.col("policy") == policy)


def kept_scores(client: "MlflowClient", version: "ModelVersion") -> pl.DataFrame:
    """Return the scores that a version was crowned with: its images in the lake may be gone."""
    with tempfile.TemporaryDirectory() as folder:
        path = client.download_artifacts(version.tags["scorecard_run"], "scores.parquet", folder)
        return pl.read_parquet(path).filter(pl.col("policy") == version.tags["policy"])


def champion_of(client: "MlflowClient", model: str) -> "ModelVersion | None":
    """Return the version that serves, None where there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(model, "champion")
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None


def content_of(version: "ModelVersion | None") -> str:
    """Return the content hash of a version's weights, "none" where there is no version."""
    return str(version.tags["data_version"]) if version else "none"


def crown(client: "MlflowClient", model: str, version: str) -> None:
    """Make a version the champion, and remember on it whom it followed."""
    before = champion_of(client, model)
    if before is not None and str(before.version) == version:
        return
    client.set_model_version_tag(
        model, version, "before", str(before.version) if before else "none"
    )
    client.set_registered_model_alias(model, "champion", version)


def roll_back(client: "MlflowClient", model: str) -> str | None:
    """Make the champion's predecessor champion again; the rule leaves the one that goes alone.

    Returns the predecessor's version, None where there was none. Raises ValueError without a
    champion.
    """
    standing = champion_of(client, model)
    if standing is None:
        raise ValueError(f"{model} has no champion, so there is nothing to roll back")
    before = standing.tags.get("before", "none")
    client.set_model_version_tag(model, standing.version, "rolled_back", "by hand")
    if before == "none":
        client.delete_registered_model_alias(model, "champion")
        return None
    if not client.search_model_versions(f"name = '{model}' and version_number = {before}"):
        raise ValueError(f"version {before} of {model}, the champion before, was cleaned away")
    client.set_registered_model_alias(model, "champion", before)
    return str(before)


def version_called(client: "MlflowClient", model: str, who: str) -> "ModelVersion":
    """Return a version by its number, or a policy's newest one by the policy's name.

    Raises ValueError naming those that exist.
    """
    versions = client.search_model_versions(f"name = '{model}'")
    named = [each for each in versions if who in (str(each.version), each.tags.get("policy"))]
    if not named:
        known = sorted((int(each.version), each.tags.get("policy", "?")) for each in versions)
        listed = ", ".join(f"{number} ({policy})" for number, policy in known) or "none yet"
        raise ValueError(f"{model} has no version or policy {who!r}; there are {listed}")
    return max(named, key=lambda each: int(each.version))


def check_loads(client: "MlflowClient", version: "ModelVersion") -> dg.AssetCheckResult:
    """Look whether a version's weights are among the files that its model holds."""
    # The registry keeps the model as models:/ID, and MLflow 3 leaves the field model_id empty.
    model = client.get_logged_model(version.source.rpartition("/")[2])
    folder = Path(model.artifact_location.removeprefix("file://"))
    files = [path.name for path in folder.rglob("*.safetensors")]
    return dg.AssetCheckResult(
        passed=bool(files),
        metadata={"version": version.version, "weights": ", ".join(files) or "none"},
    )
