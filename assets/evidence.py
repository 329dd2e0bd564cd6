"""Which scores may be used: those of the newest images, drawn by the newest weights.

One row for each policy, with the reason where its scores say nothing about its newest version. The
champion, the report and the metrics on a model rest on this and on nothing else.
"""

import dagster as dg
import polars as pl

from assets.generations import VOTED_AS, WEIGHTS
from assets.lineage import DATA_VERSION, RUN_ID, findings, latest, plain
from assets.scorecard import CONDITIONS, IMAGES
from assets.stage import Chain
from assets.study import Study

SCHEMA = {
    "policy": pl.String,
    "trained": pl.Boolean,
    "version": pl.String,
    "voted_as": pl.String,
    "weights": pl.String,
    "conditions": pl.String,
    "scorecard_run": pl.String,
    "problem": pl.String,
}


def evidence(instance: dg.DagsterInstance, study: Study, chain: Chain) -> pl.DataFrame:
    """Return a row of SCHEMA for each policy; problem: null where its scores may be used."""
    rows = []
    for name, config in study.policies.items():
        made = {
            stage: latest(instance, study.key(stage), name)
            for stage in ("policy", "generations", "scorecard")
        }
        said = {stage: plain(one.metadata) if one else {} for stage, one in made.items()}
        versions = {
            stage: (one.tags or {}).get(DATA_VERSION) if one else None
            for stage, one in made.items()
        }
        rows.append(
            {
                "policy": name,
                "trained": config is not None,
                "version": said["generations"].get("mlflow_model_version"),
                "voted_as": said["generations"].get(VOTED_AS),
                "weights": versions["policy"],
                "conditions": said["scorecard"].get(CONDITIONS),
                "scorecard_run": said["scorecard"].get(RUN_ID),
                "problem": _problem(instance, study, chain, name, said, versions),
            }
        )
    return pl.DataFrame(rows, schema=SCHEMA)


def _problem(
    instance: dg.DagsterInstance,
    study: Study,
    chain: Chain,
    name: str,
    said: dict[str, dict[str, object]],
    versions: dict[str, str | None],
) -> str | None:
    absent = [stage for stage, version in versions.items() if version is None]
    if absent:
        return f"its {absent[0]} was never made"
    for stage in ("policy", "generations"):
        for finding in findings(instance, study, chain[stage], name):
            if not finding.passed:
                return str(finding)
    if said["generations"].get(WEIGHTS) != versions["policy"]:
        return "its images are of weights before the newest"
    if said["scorecard"].get(IMAGES) != versions["generations"]:
        return "its scores are of images before the newest"
    if study.policies[name] is not None and "mlflow_model_version" not in said["generations"]:
        return "its weights were not registered"
    return None
