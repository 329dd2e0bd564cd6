"""Model families: what the loop needs to know of a diffusers pipeline, told from its folder.

A family is a declaration of 15 to 35 lines (`stable_diffusion.py`, `packed.py`, `unpacked.py`)
over what all share (`family.py`; on disk, `folder.py`) and one of two forward processes
(`process.py`). `adapter.py` puts LoRAs on them, `hub.py` fetches them. What is done with the errors
is `objective.py`'s, and when, `loop.py`'s.
"""

import json
from pathlib import Path

from training.families.family import Family, PromptEncoder, Texts
from training.families.folder import refuse_code
from training.families.hub import fetched
from training.families.packed import Chroma, Flux, Flux2, Flux2Klein, QwenImage
from training.families.process import ModelError
from training.families.stable_diffusion import (
    StableDiffusion,
    StableDiffusion3,
    StableDiffusionXL,
)
from training.families.unpacked import Lumina2, Sana, ZImage

__all__ = ["FAMILIES", "Family", "ModelError", "PromptEncoder", "Texts", "open_family"]

KINDS: tuple[type[Family], ...] = (
    *(StableDiffusion, StableDiffusionXL, StableDiffusion3),
    *(Flux, Chroma, Flux2, Flux2Klein, QwenImage, ZImage, Sana, Lumina2),
)
FAMILIES: dict[str, type[Family]] = {kind.pipeline: kind for kind in KINDS}
"""By `_class_name` of model_index.json."""


def open_family(
    base: str, *, revision: str | None = None, weights: bool = True, memo: Path | None = None
) -> Family:
    """Return the family of the pipeline at `base`, a folder or a name on the hub.

    Without `weights` only configurations are fetched from the hub: enough for a plan. `memo` is a
    folder in which digests of files are remembered. Raises ModelError when there is no pipeline,
    when it brings code or pickles, or when its class is not among FAMILIES.
    """
    folder = Path(base)
    if folder.is_file():
        raise ModelError(
            f"model.base: {base} is a single file: load it once with the pipeline's "
            "from_single_file, save it with save_pretrained, and name that folder"
        )
    if not folder.is_dir():
        if folder.is_absolute():
            raise ModelError(f"model.base: there is no folder {base}")
        folder = fetched(base, revision, weights)
    index = folder / "model_index.json"
    try:
        named = json.loads(index.read_text())
        pipeline = named.get("_class_name")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"model.base: {folder} is not a diffusers pipeline: {error}") from error
    refuse_code(folder, named)
    if pipeline not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ModelError(f"model.base: {folder} is a {pipeline}; supported: {known}")
    return FAMILIES[pipeline](folder, memo)
