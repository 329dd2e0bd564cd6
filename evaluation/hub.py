"""Weights on this machine or on the hub: found, identified, read (never unpickled), or explained.

A machine that cannot reach the hub hears so at once.
"""

import hashlib
import os
import socket
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from evaluation.errors import EvaluationError, MissingWeights, first_line


@cache
def out_of_reach() -> bool:
    """Whether the hub's name cannot be resolved: then only what was fetched before can serve.

    Asked first because the hub's own client tries for minutes before it says so. Behind a proxy
    the name need not resolve here, so there the client finds out by itself.
    """
    if getproxies():
        return False
    host = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return True
    return False


@cache
def revision(name: str) -> str | None:
    """The commit of a repository: as fetched before, else as the hub says; None where unknown."""
    import httpx
    from huggingface_hub import constants, model_info

    place = f"models--{name.replace('/', '--')}"
    path = Path(constants.HF_HUB_CACHE) / place / "refs" / "main"
    if name and path.is_file():
        return path.read_text().strip()
    if not name or out_of_reach():
        return None
    try:
        return model_info(name, timeout=20).sha
    except (OSError, ValueError, httpx.HTTPError):  # what is wrong is said where it is loaded
        return None


def identity(source: str) -> str | None:
    """Hash of a folder's or file's names and content, the revision of a hub name, or None."""
    path = Path(source)
    if not source or not (path.is_file() or path.is_dir()):
        return revision(source)
    root = path if path.is_dir() else path.parent
    files = path.rglob("*") if path.is_dir() else [path]
    total = hashlib.sha256()
    for file in sorted(one for one in files if one.is_file()):
        total.update(f"{file.relative_to(root).as_posix()}\0".encode())
        with file.open("rb") as content:
            total.update(hashlib.file_digest(content, "sha256").digest())
    return total.hexdigest()


def find_file(scorer: str, source: str, name: str) -> Path:
    """The file that SOURCE stands for: itself, the file `name` in it, or that file on the hub.

    Raises MissingWeights, which says where to put it.
    """
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        if (path / name).is_file():
            return path / name
        raise MissingWeights(f"{scorer}: {source} holds no {name}; put it there")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(source, name, local_files_only=out_of_reach()))
    except (OSError, ValueError) as error:
        raise MissingWeights(
            f"{scorer}: no weights: {source} is not here and cannot be fetched from the hub; put "
            f"{name} into a folder and give {scorer}=FOLDER"
        ) from error


def read_state(path: Path) -> dict[str, Any]:
    """Read a checkpoint's tensors from .safetensors, or with weights_only=True.

    Raises EvaluationError for a file that is none.
    """
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        state: dict[str, Any] = content.get("state_dict", content)
    except Exception as error:  # both raise whatever their readers of zip, JSON and pickle raise
        said = f"{path}: not a checkpoint of tensors: {first_line(error)}"
        raise EvaluationError(said) from error
    return state


def explained(name: str, error: Exception) -> str | None:
    """What to do about a repository or folder that could not be loaded; None where it is unclear.

    Gated, misspelt, rate-limited, out of reach, a single file, half precision alone.
    """
    from huggingface_hub import errors

    chain, link = [], error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__  # type: ignore[assignment]
    if any(isinstance(one, errors.GatedRepoError) for one in chain):
        return f"accept its licence at https://huggingface.co/{name} and log in (hf auth login)"
    if any(isinstance(one, errors.RepositoryNotFoundError) for one in chain):
        return "the hub has no such repository; check the spelling, or log in (hf auth login)"
    if any("429" in str(one)[:400] for one in chain if isinstance(one, errors.HfHubHTTPError)):
        return "the hub limits how often it is asked; log in (hf auth login) or try again later"
    path = Path(name)
    if path.suffix in (".safetensors", ".ckpt") and path.is_file():
        return (
            "a single file; turn it into a folder with "
            "StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER), and so for "
            "its own family"
        )
    halves = path.rglob("*.fp16.safetensors") if path.is_dir() else ()
    if any(not one.with_name(one.name.replace(".fp16", "")).exists() for one in halves):
        return (
            "holds half precision alone; load it once with DiffusionPipeline.from_pretrained("
            'FOLDER, variant="fp16") and save_pretrained it into another folder'
        )
    if not path.exists() and isinstance(error, OSError) and out_of_reach():
        return (
            "no such folder here, and the hub, which may have it, cannot be reached; fetch it "
            "where it can, and give the folder"
        )
    return None
