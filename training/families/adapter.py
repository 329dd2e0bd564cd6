"""LoRAs on a denoiser: added, switched off, saved for others, loaded from others."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.config import PolicyConfig
from training.families.family import Family
from training.families.folder import quiet
from training.families.process import ModelError

ADAPTER_FILE = "pytorch_lora_weights.safetensors"


def add_adapter(family: Family, denoiser: Any, config: PolicyConfig) -> list[Any]:
    """Put a trainable LoRA (arXiv 2106.09685) on the target layers; return those layers.

    They are what is switched off for the reference: `denoiser.disable_adapters()` would search
    every module for them twice a step. Raises ModelError where a target names no layer.
    """
    from peft import LoraConfig
    from peft.tuners.tuners_utils import BaseTunerLayer

    targets = config.targets or family.targets
    adapter = LoraConfig(
        r=config.rank,
        lora_alpha=config.lora_alpha or config.rank,
        lora_dropout=config.lora_dropout,
        use_dora=config.dora,
        init_lora_weights="gaussian",
        target_modules=list(targets),
    )
    names = [name for name, _ in denoiser.named_modules()]
    if config.targets:  # a family's own list may name layers that only its other models have
        absent = [t for t in targets if not any(n == t or n.endswith(f".{t}") for n in names)]
        if absent:
            some = ", ".join(absent)
            raise ModelError(f"train.targets: no such layer in {family.folder}: {some}")
    try:
        denoiser.add_adapter(adapter)
    except ValueError as error:
        raise ModelError(f"train.targets: no such layer in {family.folder}: {error}") from error
    return [module for module in denoiser.modules() if isinstance(module, BaseTunerLayer)]


def save_adapter(family: Family, denoiser: Any, folder: Path) -> None:
    """Write the LoRA as the pipeline's `load_lora_weights(folder)` reads it: under PEFT's names.

    A UNet's is also written to kohya/, in the key layout of ComfyUI and A1111; ComfyUI reads the
    transformers' as diffusers writes them.
    """
    import diffusers
    from diffusers.utils import convert_state_dict_to_kohya
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import save_file

    layers = {k: v.float().contiguous() for k, v in get_peft_model_state_dict(denoiser).items()}
    adapter = denoiser.peft_config["default"]
    # A set's order is another one in each process, and equal policies have equal files.
    stated = {k: sorted(v) if isinstance(v, set) else v for k, v in adapter.to_dict().items()}
    # Rank, alpha and DoRA are in the metadata: without it alpha would be read as the rank.
    getattr(diffusers, family.pipeline).save_lora_weights(
        folder,
        **{
            f"{family.trained}_lora_layers": layers,
            f"{family.trained}_lora_adapter_metadata": stated,
        },
        weight_name=ADAPTER_FILE,
    )
    if family.trained == "unet":
        (folder / "kohya").mkdir()
        named = convert_state_dict_to_kohya({f"unet.{k}": v for k, v in layers.items()})
        alpha = torch.tensor(float(adapter.lora_alpha))
        named = {k: alpha.clone() if k.endswith(".alpha") else v for k, v in named.items()}
        save_file({k: v.contiguous() for k, v in named.items()}, folder / "kohya/lora.safetensors")


def adapter_file(source: str) -> Path:
    """Return the file of a LoRA, named by itself or by its folder. Raises ModelError."""
    path = Path(source)
    file = path / ADAPTER_FILE if path.is_dir() else path
    if not file.exists():
        raise ModelError(f"model.adapter: there is no file or folder {source}, or no {file.name}")
    if file.suffix != ".safetensors":
        raise ModelError(f"model.adapter: {file} is no .safetensors file: nothing else is read")
    return file


def fuse_adapter(family: Family, denoiser: Any, source: str) -> None:
    """Add a LoRA to the denoiser's own weights: its own or another trainer's, a folder or a file.

    Reads diffusers' layout and kohya's. Raises ModelError where the file holds no LoRA for this
    denoiser, or one whose layers it does not have.
    """
    file = adapter_file(source)
    pipe = family.assembled((), **{family.trained: denoiser})
    try:
        with quiet():
            pipe.load_lora_weights(file.parent, weight_name=file.name, adapter_name="start")
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        raise ModelError(
            f"model.adapter: {file} is no LoRA for {family.pipeline}: {first}"
        ) from error
    refuse_missing(denoiser, file, "start")
    with quiet():
        denoiser.fuse_lora(adapter_names=["start"])
        denoiser.unload_lora()


def refuse_missing(denoiser: Any, file: Path, adapter: str) -> None:
    """Raise ModelError where a LoRA file holds another number of layers than were loaded.

    diffusers skips layers that it cannot place with a warning, or without.
    """
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        keys = [key for key in opened.keys() if not key.startswith(("text_encoder", "lora_te"))]  # noqa: SIM118
    there = {key for key in keys if _is_up(key)}
    loaded = sum(1 for _ in lora_layers(denoiser, adapter))
    if loaded != len(there):
        some = ", ".join(sorted(there)[:3])
        raise ModelError(
            f"{file}: of its {len(there)} layers {loaded} were placed in the model (such as "
            f"{some}): it was made for another model, or its keys are of an unknown layout"
        )


def lora_layers(denoiser: Any, adapter: str) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, second factor) of every layer that has the LoRA `adapter`."""
    for name, module in denoiser.named_modules():
        factors = getattr(module, "lora_B", None)
        if factors is not None and adapter in factors:
            yield name, factors[adapter].weight


def _is_up(key: str) -> bool:
    return any(part in key for part in ("lora_B", "lora.up", "lora_up", "up.weight"))
