"""Weights that scorers' authors published as single files: found and read, never unpickled."""

from pathlib import Path

import torch

from evaluation import hub
from evaluation.errors import EvaluationError, MissingWeights


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
        return Path(hf_hub_download(source, name, local_files_only=hub.out_of_reach()))
    except (OSError, ValueError) as error:
        raise MissingWeights(
            f"{scorer}: no weights: {source} is not here and cannot be fetched from the hub; put "
            f"{name} into a folder and give {scorer}=FOLDER"
        ) from error


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read a checkpoint's tensors from .safetensors, or with weights_only=True."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its unpickler and zip reader raise
        reason = str(error).strip().splitlines()[0]
        raise EvaluationError(f"{path}: not a checkpoint of tensors: {reason}") from error
    return content.get("state_dict", content)
