"""Pipelines on the hub: what of a repository is fetched, and what its refusals mean."""

import json
from pathlib import Path, PurePosixPath
from typing import Any

from training.families.folder import plain_files, refuse_pickles
from training.families.process import ModelError

CONFIGURATIONS = ["model_index.json", "*/config.json", "*/scheduler_config.json"]


def fetched(name: str, revision: str | None, weights: bool) -> Path:
    """Return the folder of a pipeline on the hub, fetched now or before.

    Without `weights` its configurations only. Raises ModelError with what to do.
    """
    from huggingface_hub import HfApi, snapshot_download

    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=CONFIGURATIONS))
        if weights:
            index = json.loads((folder / "model_index.json").read_text())
            files = wanted(HfApi().list_repo_files(name, revision=revision), index)
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=files))
    except ModelError:
        raise
    except Exception as error:
        local = _fetched_before(name, revision)
        if local is None:
            raise ModelError(f"model.base: {name!r} {_reason(name, revision, error)}") from error
        return local
    return folder


def wanted(files: list[str], index: dict[str, Any]) -> list[str]:
    """Return which of a repository's files its pipeline reads.

    Files of the components that model_index.json names, without variants (`model.fp16...`). Raises
    ModelError for a component whose weights are a pickle.
    """
    kept = ["model_index.json"]
    for component in (name for name, value in index.items() if isinstance(value, list)):
        own = [PurePosixPath(file) for file in files if PurePosixPath(file).parent.name == component
               and len(PurePosixPath(file).parts) == 2]  # fmt: skip
        refuse_pickles(component, [path.name for path in own])
        kept += [f"{component}/{name}" for name in plain_files([path.name for path in own])]
    return kept


def _fetched_before(name: str, revision: str | None) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except Exception:
        return None


def _reason(name: str, revision: str | None, error: Exception) -> str:
    """Say in a sentence why the hub gave nothing, and what to do."""
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return (
            f"is gated: accept its licence at https://huggingface.co/{name} and log in with "
            "`hf auth login`"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"has no revision {revision!r} on the hub: see model.revision"
    if isinstance(error, errors.HFValidationError):
        return "is neither a folder here nor a name OWNER/MODEL on the hub"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "is neither a folder here nor on the hub (misspelt, or private: `hf auth login`)"
    if isinstance(error, errors.RemoteEntryNotFoundError | FileNotFoundError):
        return (
            "is no diffusers pipeline (it has no model_index.json): load its single file once with "
            "the pipeline's from_single_file, save it with save_pretrained, and name that folder"
        )
    if status == 429:
        return "was refused for too many requests: wait, or log in with `hf auth login`"
    first = (str(error).splitlines() or [""])[0]
    return (
        "is no folder here and the hub cannot be reached "
        f"({type(error).__name__}: {first}): name a folder, or check the network"
    )
