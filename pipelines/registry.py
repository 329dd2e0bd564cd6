"""What MLflow holds of a study that nothing needs any more: old runs and superseded weights.

`mlflow gc` removes whatever is marked deleted, a person's mistakes and other studies' runs among
them; so what goes is removed by its id, with its files.
"""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.champion import champion_of
from assets.lineage import RUN_ID, latest
from assets.study import Study
from assets.tracking import Tracking
from pipelines.costs import size
from pipelines.definitions import ARENA, POLICY, REPORT

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

Old = Iterator[tuple[str, str, int, Callable[[], object]]]


def opened(study: Study) -> "MlflowClient | None":
    """Return a client of the study's store, None where there is no store yet."""
    tracking = Tracking.of(study)
    return tracking.client() if (Path(tracking.store) / "mlflow.db").exists() else None


def policies_with_an_alias(study: Study) -> set[str]:
    """Return the policies of which some version is champion, candidate or called otherwise."""
    client = opened(study)
    versions = _versions(client, study) if client else []
    return {str(each.tags.get("policy")) for each in versions if each.aliases}


def old_models(study: Study, instance: dg.DagsterInstance) -> Old:
    """Find superseded versions, with their weights: (version, its policy, bytes, remove)."""
    client = opened(study)
    if client is None:
        return
    kept = {str(version.version) for version in kept_versions(study, instance, client)}
    for version in _versions(client, study):
        if str(version.version) not in kept:
            folder = _weights(client, version)
            yield (
                str(version.version),
                str(version.tags.get("policy")),
                size(folder) if folder.exists() else 0,
                partial(_remove_version, client, version, folder),
            )


def kept_versions(
    study: Study, instance: dg.DagsterInstance, client: "MlflowClient"
) -> "list[ModelVersion]":
    """Return the versions that stay.

    Those with an alias, the newest `retention.models` of each policy, what the newest
    materialisations name, and as many predecessors of the champion as one could roll back to.
    """
    versions = _versions(client, study)
    by_number = {str(each.version): each for each in versions}
    kept = {str(each.version) for each in versions if each.aliases}
    counts: dict[str, int] = {}
    for number in sorted(by_number, key=int, reverse=True):
        policy = str(by_number[number].tags.get("policy"))
        counts[policy] = counts.get(policy, 0) + 1
        if counts[policy] <= study.retention.models:
            kept.add(number)
    for name in study.policies:
        made = latest(instance, dg.AssetKey("policy"), name)
        if made and "mlflow_model_version" in made.metadata:
            kept.add(str(made.metadata["mlflow_model_version"].value))
    standing = champion_of(client, study.name)
    earlier = standing.tags.get("before") if standing else None
    for _ in range(study.retention.models):
        if earlier in by_number:
            kept.add(str(earlier))
            earlier = by_number[str(earlier)].tags.get("before")
    return [by_number[number] for number in sorted(kept, key=int) if number in by_number]


def old_runs(study: Study, instance: dg.DagsterInstance, before: float) -> Old:
    """Find runs that started before `before` and nothing refers to: (id, name, bytes, remove)."""
    client = opened(study)
    experiment = client.get_experiment_by_name(study.name) if client else None
    if client is None or experiment is None:
        return
    runs = {run.info.run_id: run for run in _all_runs(client, experiment.experiment_id)}
    roots = set()
    for name in (*ARENA, *POLICY, *REPORT):
        for part in list(study.policies) if name in POLICY else [None]:
            made = latest(instance, dg.AssetKey(name), part)
            if made and RUN_ID in made.metadata:
                roots.add(str(made.metadata[RUN_ID].value))
    for version in kept_versions(study, instance, client):
        roots |= {str(version.run_id), str(version.tags.get("scorecard_run"))}
    recent = {
        id
        for id, run in runs.items()
        if run.info.status == "RUNNING" or run.info.start_time / 1000 >= before
    }
    kept = _with_upstream(runs, roots | recent)
    for id, run in runs.items():
        if id not in kept:
            folder = Path(run.info.artifact_uri.removeprefix("file://"))
            yield (
                id,
                str(run.info.run_name),
                size(folder) if folder.exists() else 0,
                partial(_remove_run, client, id, folder.parent),
            )


def _with_upstream(runs: dict[str, Any], ids: set[str]) -> set[str]:
    """Add the runs that others came from, as their tags tell, and what those came from."""
    kept, open_ = set(), list(ids)
    while open_:
        id = open_.pop()
        if id in kept or id not in runs:
            continue
        kept.add(id)
        tags = runs[id].data.tags.items()
        open_ += [value for key, value in tags if key.startswith("upstream.")]
    return kept


def _all_runs(client: "MlflowClient", experiment_id: str) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_runs([experiment_id], max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _versions(client: "MlflowClient", study: Study) -> "list[ModelVersion]":
    found = client.search_model_versions(f"name = '{study.name}'", max_results=10_000)
    # A search leaves out the aliases.
    return [client.get_model_version(study.name, each.version) for each in found]


def _weights(client: "MlflowClient", version: "ModelVersion") -> Path:
    model = client.get_logged_model(version.source.rpartition("/")[2])
    return Path(model.artifact_location.removeprefix("file://"))


def _remove_version(client: "MlflowClient", version: "ModelVersion", folder: Path) -> None:
    client.delete_model_version(version.name, version.version)
    client._tracking_client.store._hard_delete_logged_model(version.source.rpartition("/")[2])
    shutil.rmtree(folder.parent, ignore_errors=True)


def _remove_run(client: "MlflowClient", run_id: str, folder: Path) -> None:
    client.delete_run(run_id)
    client._tracking_client.store._hard_delete_run(run_id)
    shutil.rmtree(folder, ignore_errors=True)
