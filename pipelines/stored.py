"""What MLflow holds of a study that nothing needs any more: old runs and superseded weights.

`mlflow gc` does not do: with a run's id it still removes every experiment and every model that
anybody marked as deleted, other studies' among them. So what goes is removed by its id.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.lineage import RUN_ID, told
from assets.model_registry import champion_of, model_id_of, versions
from assets.stage import Chain
from assets.study import Study
from assets.tracking import Tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

Old = Iterator[tuple[str, str, int, Callable[[], object]]]


def opened(study: Study) -> "MlflowClient | None":
    """Return a client of the study's store, None where there is no store yet."""
    tracking = Tracking.of(study)
    return tracking.client() if tracking.exists else None


def policies_with_an_alias(study: Study) -> set[str]:
    """Return the policies of which some version is champion, candidate or called otherwise."""
    client = opened(study)
    found = versions(client, study.name) if client else []
    return {str(each.tags.get("policy")) for each in found if each.aliases}


def old_models(study: Study, instance: dg.DagsterInstance) -> Old:
    """Find superseded versions, with their weights: (version, its policy, bytes, remove)."""
    client = opened(study)
    if client is None:
        return
    kept = {str(version.version) for version in kept_versions(study, instance, client)}
    for version in versions(client, study.name):
        if str(version.version) not in kept:
            list_ = partial(client.list_logged_model_artifacts, model_id_of(version))
            yield (
                str(version.version),
                str(version.tags.get("policy")),
                _bytes(list_),
                partial(_remove_version, study, client, version),
            )


def kept_versions(
    study: Study, instance: dg.DagsterInstance, client: "MlflowClient"
) -> "list[ModelVersion]":
    """Return the versions that stay.

    Those with an alias, the newest `retention.models` of each policy, what the newest
    materialisations name, and as many predecessors of the champion as one could roll back to.
    """
    by_number = {str(each.version): each for each in versions(client, study.name)}
    kept = {number for number, each in by_number.items() if each.aliases}
    counts: dict[str, int] = {}
    for number in reversed(by_number):
        policy = str(by_number[number].tags.get("policy"))
        counts[policy] = counts.get(policy, 0) + 1
        if counts[policy] <= study.retention.models:
            kept.add(number)
    for name in study.policies:
        kept.add(str(told(instance, study, "policy", name).get("mlflow_model_version")))
    standing = champion_of(client, study.name)
    earlier = standing.tags.get("before") if standing else None
    for _ in range(study.retention.models):
        if earlier in by_number:
            kept.add(str(earlier))
            earlier = by_number[str(earlier)].tags.get("before")
    return [each for number, each in by_number.items() if number in kept]


def old_runs(study: Study, chain: Chain, instance: dg.DagsterInstance, before: float) -> Old:
    """Find runs that started before `before` and nothing refers to: (id, name, bytes, remove)."""
    client = opened(study)
    experiment = client.get_experiment_by_name(study.name) if client else None
    if client is None or experiment is None:
        return
    runs = {run.info.run_id: run for run in _all_runs(client, experiment.experiment_id)}
    roots = {
        str(told(instance, study, stage.name, policy).get(RUN_ID))
        for stage in chain.values()
        for policy in stage.partitions(study)
    }
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
            list_ = partial(client.list_artifacts, id)
            yield id, str(run.info.run_name), _bytes(list_), partial(_remove_run, study, client, id)


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


def _bytes(list_: Callable[[str | None], Any]) -> int:
    """Add up the artifacts that a listing tells of, in every folder."""
    total, folders = 0, [None]
    while folders:
        for each in list_(folders.pop()):
            folders += [each.path] if each.is_dir else []
            total += 0 if each.is_dir else each.file_size or 0
    return total


def _remove_version(study: Study, client: "MlflowClient", version: "ModelVersion") -> None:
    """Remove a version and its LoggedModel for good; a server keeps it, marked as deleted."""
    model = client.get_logged_model(model_id_of(version))
    client.delete_model_version(version.name, version.version)
    client.delete_logged_model(model.model_id)
    if Tracking.of(study).folder is not None:
        _remove_files(model.artifact_location)
        client._tracking_client.store._hard_delete_logged_model(model.model_id)


def _remove_run(study: Study, client: "MlflowClient", run_id: str) -> None:
    """Remove a run and its artifacts for good; a server keeps it, marked as deleted."""
    where = client.get_run(run_id).info.artifact_uri
    client.delete_run(run_id)
    if Tracking.of(study).folder is not None:
        _remove_files(where)
        client._tracking_client.store._hard_delete_run(run_id)


def _remove_files(uri: str) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    get_artifact_repository(uri).delete_artifacts()
