"""The registered model of a study: its versions, who is a candidate, who serves, and pins.

Every trained policy whose weights are sound is a version, and its newest one is
`candidate-<policy>`. `champion` is what serves: `models:/<study>@champion`. A person's choice is
pinned: the rule leaves it alone until it is unpinned.
"""

import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

PINNED = "pinned"
NOBODY = "none"
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def log_weights(
    client: "MlflowClient",
    experiment: str,
    run_id: str,
    name: str,
    folder: Path,
    base: str,
    parameters: Mapping[str, Any],
) -> str:
    """Keep a policy's weights as a LoggedModel and return its id.

    A LoRA is kept as `mlflow.diffusers` does, with its base, so that
    `mlflow.diffusers.load_model` gives a pipeline; other weights as the files they are. So is a
    LoRA where peft is not installed, which needs torch: on a machine that only orchestrates.
    """
    plain = {key: str(value) for key, value in parameters.items() if value is not None}
    model = client.create_logged_model(
        experiment, name, source_run_id=run_id, params=plain, model_type="diffusion"
    )
    loras = sorted(folder.glob("*lora*.safetensors"))
    if loras and find_spec("peft"):
        from mlflow.diffusers import save_model

        with tempfile.TemporaryDirectory() as aside:
            packed = Path(aside) / "model"
            save_model(
                str(loras[0]),
                str(packed),
                base_model=base,
                pip_requirements=["diffusers", "peft", "torch", "transformers"],
            )
            client.log_model_artifacts(model.model_id, str(packed))
    else:
        client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def register(
    client: "MlflowClient", model: str, model_id: str, run_id: str, tags: Mapping[str, str]
) -> str:
    """Make a LoggedModel a version, its policy's candidate, and return the version.

    tags: of the version; `policy` and `data_version` among them.
    """
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = client.create_model_version(
        model, f"models:/{model_id}", run_id=run_id, model_id=model_id, tags=dict(tags)
    )
    client.set_registered_model_alias(model, f"candidate-{tags['policy']}", version.version)
    return str(version.version)


def versions(client: "MlflowClient", model: str) -> "list[ModelVersion]":
    """Return all versions with their aliases, the oldest first; none where there is no model."""
    found = client.search_model_versions(f"name = '{model}'", max_results=10_000)
    # A search leaves out the aliases.
    whole = [client.get_model_version(model, each.version) for each in found]
    return sorted(whole, key=lambda each: int(each.version))


def champion_of(client: "MlflowClient", model: str) -> "ModelVersion | None":
    """Return the version that serves, None where there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(model, "champion")
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
        return None


def content_of(version: "ModelVersion | None") -> str:
    """Return the content hash of a version's weights, "none" where there is no version."""
    return str(version.tags["data_version"]) if version else NOBODY


def model_id_of(version: "ModelVersion") -> str:
    """Return the id of a version's LoggedModel (MLflow 3 leaves the field model_id empty)."""
    return str(version.source).rpartition("/")[2]


def crown(client: "MlflowClient", model: str, version: str) -> None:
    """Make a version the champion, and remember on it whom it followed."""
    before = champion_of(client, model)
    if before is not None and str(before.version) == version:
        return
    client.set_model_version_tag(
        model, version, "before", str(before.version) if before else NOBODY
    )
    client.set_registered_model_alias(model, "champion", version)


def pinned(client: "MlflowClient", model: str) -> str | None:
    """Return the version (or "none") that a person put here and nobody unpinned."""
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_registered_model(model).tags.get(PINNED)
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
        return None
    return str(found) if found else None


def pin(client: "MlflowClient", model: str, version: str) -> None:
    """Make a version champion by a person's word, which holds until `unpin`."""
    crown(client, model, version)
    client.set_registered_model_tag(model, PINNED, version)


def unpin(client: "MlflowClient", model: str) -> None:
    """Let the rule decide again. Raises ValueError where nothing is pinned."""
    if pinned(client, model) is None:
        raise ValueError(f"nothing is pinned in {model}: the rule decides already")
    client.delete_registered_model_tag(model, PINNED)


def roll_back(client: "MlflowClient", model: str) -> str | None:
    """Pin the champion's predecessor and return its version, None where there was none.

    Raises ValueError without a champion, or where the predecessor was cleaned away.
    """
    standing = champion_of(client, model)
    if standing is None:
        raise ValueError(f"{model} has no champion, so there is nothing to roll back")
    before = str(standing.tags.get("before", NOBODY))
    if before == NOBODY:
        client.delete_registered_model_alias(model, "champion")
        client.set_registered_model_tag(model, PINNED, NOBODY)
        return None
    if not client.search_model_versions(f"name = '{model}' and version_number = {before}"):
        raise ValueError(f"version {before} of {model}, the champion before, was cleaned away")
    client.set_registered_model_alias(model, "champion", before)
    client.set_registered_model_tag(model, PINNED, before)
    return before


def version_called(client: "MlflowClient", model: str, who: str) -> "ModelVersion":
    """Return a version by its number, or a policy's newest one by the policy's name.

    Raises ValueError naming those that exist.
    """
    known = versions(client, model)
    found = [each for each in known if who in (str(each.version), each.tags.get("policy"))]
    if not found:
        listed = ", ".join(f"{each.version} ({each.tags.get('policy', '?')})" for each in known)
        raise ValueError(
            f"{model} has no version or policy {who!r}; there are {listed or 'none yet'}"
        )
    return found[-1]


def weight_files(client: "MlflowClient", version: "ModelVersion") -> list[str]:
    """Return the names of the weights that a version's model holds, wherever it is kept."""
    model_id, found, open_ = model_id_of(version), [], [None]
    while open_:
        for each in client.list_logged_model_artifacts(model_id, open_.pop()):
            if each.is_dir:
                open_.append(each.path)
            elif each.path.endswith(".safetensors"):
                found.append(str(each.path))
    return sorted(found)


def kept_scores(client: "MlflowClient", version: "ModelVersion") -> pl.DataFrame:
    """Return the scores that a version was judged by: its images in the lake may be gone."""
    with tempfile.TemporaryDirectory() as folder:
        path = client.download_artifacts(version.tags["scorecard_run"], "scores.parquet", folder)
        return pl.read_parquet(path).filter(pl.col("policy") == version.tags["policy"])
