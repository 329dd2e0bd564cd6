"""Model families: what the loop needs to know of a diffusers pipeline, told from its folder.

`pipeline.py` has what all families share (components, digests, LoRA, saving), `unet.py` Stable
Diffusion 1.x, 2.x and XL (noise and velocity prediction under a discrete schedule), `flow.py`
Stable Diffusion 3 and FLUX (flow matching), `text.py` their text encoders. What is done with the
errors is `objective.py`'s, and when, `loop.py`'s.
"""

import json
from pathlib import Path

from training.families.flow import Flux, StableDiffusion3
from training.families.pipeline import Family, ModelError
from training.families.unet import StableDiffusion, StableDiffusionXL

__all__ = ["FAMILIES", "Family", "ModelError", "open_family"]

FAMILIES: dict[str, type[Family]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
}
"""By `_class_name` of model_index.json."""


def open_family(base: str) -> Family:
    """Return the family of the pipeline at `base`, a folder or a name on the hub.

    Raises ModelError when there is no pipeline or its class is not among FAMILIES.
    """
    folder = Path(base)
    if not folder.is_dir():
        if folder.is_absolute():
            raise ModelError(f"model.base: there is no folder {base}")
        folder = _download(base)
    index = folder / "model_index.json"
    try:
        pipeline = json.loads(index.read_text()).get("_class_name")
    except (OSError, json.JSONDecodeError) as error:
        raise ModelError(f"model.base: {folder} is not a diffusers pipeline: {error}") from error
    if pipeline not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ModelError(f"model.base: {folder} is a {pipeline}; supported: {known}")
    return FAMILIES[pipeline](folder)


def _download(name: str) -> Path:
    """Fetch a pipeline's configuration and safetensors from the hub (or its local cache)."""
    from huggingface_hub import snapshot_download

    try:
        patterns = ["*.json", "*/*.json", "*/*.txt", "*/*.model", "*/*.safetensors"]
        return Path(
            snapshot_download(name, allow_patterns=patterns, ignore_patterns=["*.fp16.*", "*ema*"])
        )
    except Exception as error:
        raise ModelError(
            f"model.base: {name!r} is neither a folder here nor to be had from the hub: "
            f"{type(error).__name__}"
        ) from error
