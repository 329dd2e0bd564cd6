"""From a policy's name to the pipeline that draws: folders, hub names and public releases.

A policy is a base as it is; a base with a LoRA merged into it, with another denoiser, or with a
denoiser's state dict; or a whole pipeline of its own. Any text-to-image pipeline of diffusers
serves (Stable Diffusion 1 to 3, SDXL, FLUX, ...). Drawing is `generate`.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from evaluation import hub
from evaluation.errors import EvaluationError, first_line

Form = Literal["pipeline", "denoiser", "state", "lora"]
LORA_WEIGHTS = "pytorch_lora_weights.safetensors"
DENOISERS = ("unet", "transformer")
SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"


class Release(NamedTuple):
    """A public checkpoint of a preference-tuned model, in the form its authors published it in.

    hub : repository on the hub. base : the pipeline that it tunes.
    path : of the denoiser's folder, or of the LoRA's or state dict's file; "" is the root.
    """

    hub: str
    base: str
    form: Form
    path: str = ""


SPO = "SPO-Diffusion-Models"
RELEASES: dict[str, Release] = {
    # Diffusion-DPO, arXiv 2311.12908
    "dpo-sd1.5": Release("mhdang/dpo-sd1.5-text2image-v1", SD15, "denoiser", "unet"),
    "dpo-sdxl": Release("mhdang/dpo-sdxl-text2image-v1", SDXL, "denoiser", "unet"),
    # Diffusion-KTO, arXiv 2404.04465
    "kto-sd1.5": Release("jacklishufan/diffusion-kto", SD15, "denoiser", "unet"),
    # SPO, arXiv 2406.04314
    "spo-sd1.5": Release(f"{SPO}/SPO-SD-v1-5_4k-p_10ep", SD15, "pipeline"),
    "spo-sdxl": Release(f"{SPO}/SPO-SDXL_4k-p_10ep", SDXL, "pipeline"),
    "spo-sd1.5-lora": Release(
        f"{SPO}/SPO-SD-v1-5_4k-p_10ep_LoRA",
        SD15,
        "lora",
        "spo-sd-v1-5_4k-p_10ep_lora_diffusers.safetensors",
    ),
    "spo-sdxl-lora": Release(
        f"{SPO}/SPO-SDXL_4k-p_10ep_LoRA",
        SDXL,
        "lora",
        "spo_sdxl_10ep_4k-data_lora_diffusers.safetensors",
    ),
    # MaPO, arXiv 2406.06424
    "mapo-sdxl": Release("mapo-t2i/mapo-beta", SDXL, "denoiser"),
    # DDIM-InPO, arXiv 2503.18454, and SmPO, arXiv 2506.02698
    "inpo-sd1.5": Release("JaydenLu666/InPO-SD1.5", SD15, "denoiser", "unet"),
    "inpo-sdxl": Release("JaydenLu666/InPO-SDXL", SDXL, "denoiser", "unet"),
    "smpo-sd1.5": Release("JaydenLu666/SmPO-SD1.5", SD15, "denoiser", "unet"),
    "smpo-sdxl": Release("JaydenLu666/SmPO-SDXL", SDXL, "denoiser", "unet"),
    # Diffusion-SDPO, arXiv 2511.03317, on top of three objectives
    **{
        f"sdpo-{objective}-{short}": Release(
            "AIDC-AI/Diffusion-SDPO", base, "state", f"{short}/{objective}/unet.pth"
        )
        for objective in ("diffusion-dpo", "dspo", "dmpo")
        for short, base in (("sd1.5", SD15), ("sdxl", SDXL))
    },
}


@dataclass(frozen=True)
class Policy:
    """What draws: a base, and where it is not the base itself, what changes it and how.

    base, source : diffusers folders or hub names; source may be one file. path : see `Release`.
    """

    base: str
    source: str | None = None
    form: Form = "pipeline"
    path: str = ""

    def digest(self) -> str:
        """Digest of the weights and configurations that draw: of contents, or of hub names."""
        parts = [self.form, self.path]
        for name in (self.base, self.source):
            parts.append(hub.identity(name) or name if name else str(name))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def find_policy(base: str | None, name: str | None) -> Policy:
    """The policy that `--base` and `--policy` stand for.

    name : None (the base itself), a folder that training wrote, a release's name, or a hub name.
        A release brings its base along where none is given.
    Raises EvaluationError when it is none of these.
    """
    if name is None:
        if base is None:
            raise EvaluationError("give --base, a diffusers folder or hub name")
        return Policy(base)
    path = Path(name)
    if path.is_dir():
        return policy_with(lambda file: (path / file).is_file(), name, base)
    if path.is_file():
        if base is None:
            raise EvaluationError(f"{name}: changes a base; give --base as well")
        # In diffusers', peft's or kohya's names.
        lora = any("lora" in key.lower() for key in hub.read_state(path))
        return Policy(base, name, "lora" if lora else "state")
    if name in RELEASES:
        release = RELEASES[name]
        return Policy(base or release.base, release.hub, release.form, release.path)
    if name.count("/") == 1 and not name.startswith((".", "/")):
        return policy_with(lambda file: on_hub(name, file), name, base)
    raise EvaluationError(
        f"{name}: no such folder, and no release has that name; releases: {', '.join(RELEASES)}"
    )


def policy_with(holds: Callable[[str], bool], source: str, base: str | None) -> Policy:
    """The policy in a place of which `holds` says whether a file is there."""
    if holds("model_index.json"):
        return Policy(base or source, source)
    forms: list[tuple[str, Form, str]] = [(LORA_WEIGHTS, "lora", LORA_WEIGHTS)]
    forms += [(f"{part}/config.json", "denoiser", part) for part in DENOISERS]
    forms.append(("config.json", "denoiser", ""))
    for file, form, path in forms:
        if holds(file):
            if base is None:
                raise EvaluationError(f"{source}: changes a base; give --base as well")
            return Policy(base, source, form, path)
    raise EvaluationError(
        f"{source}: neither {LORA_WEIGHTS} nor model_index.json nor a denoiser is there, so it "
        "is not a policy; give the folder that training wrote (DIR/policy)"
    )


def on_hub(name: str, file: str) -> bool:
    """Whether a repository holds a file, by what was fetched before or by asking the hub."""
    from huggingface_hub import file_exists, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(name, file), str):
        return True
    return not hub.out_of_reach() and file_exists(name, file)


def load_pipeline(policy: Policy, device: str) -> Any:
    """The pipeline of a policy on a device, ready to draw.

    Weights are read in the precision that they run in: on a GPU fp16 for a UNet as it was
    published, bf16 for a transformer, whose activations leave fp16's range; fp32 on a CPU. Raises
    EvaluationError when the folders are not what they should be.
    """
    import diffusers
    import transformers

    for library in (transformers, diffusers):  # their bars and advice say nothing of the images
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    whole = policy.source is not None and policy.form == "pipeline"
    source = policy.source if whole and policy.source else policy.base
    local = hub.out_of_reach()
    try:
        pipeline = diffusers.DiffusionPipeline.from_pretrained(
            source,
            dtype=working_dtype(source, device),
            local_files_only=local,
            trust_remote_code=False,
        )
        if policy.source is not None and not whole:
            change(pipeline, policy)
    except EvaluationError:
        raise
    except Exception as error:  # the libraries raise whatever a strange folder makes of them
        for name in (policy.base, policy.source):
            if name and (said := hub.explained(name, error)) is not None:
                raise EvaluationError(f"{name}: {said}") from error
        reason = first_line(error)
        raise EvaluationError(f"{policy.source or source}: cannot be loaded: {reason}") from error
    if getattr(pipeline, "safety_checker", None) is not None:
        pipeline.safety_checker = None  # it would blacken images, and black images would be scored
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def working_dtype(source: str, device: str) -> Any:
    """The precision that a pipeline runs in, known before its weights are read."""
    import torch
    from diffusers import DiffusionPipeline

    if device == "cpu":
        return torch.float32
    parts = DiffusionPipeline.load_config(source, local_files_only=hub.out_of_reach())
    return torch.float16 if "unet" in parts else torch.bfloat16


def denoiser_name(pipeline: Any) -> str:
    """Name of the pipeline's part that is fine-tuned: unet or transformer."""
    for name in DENOISERS:
        if getattr(pipeline, name, None) is not None:
            return name
    raise EvaluationError(f"{type(pipeline).__name__} has neither a unet nor a transformer")


def change(pipeline: Any, policy: Policy) -> None:
    """Put a LoRA, another denoiser or its state dict into a base's pipeline."""
    name, source = denoiser_name(pipeline), str(policy.source)
    if policy.form == "denoiser":
        where = {"subfolder": policy.path} if policy.path else {}
        denoiser = type(getattr(pipeline, name)).from_pretrained(
            source, torch_dtype=pipeline.dtype, local_files_only=hub.out_of_reach(), **where
        )
        pipeline.register_modules(**{name: denoiser})
        return
    file = hub.find_file(source, source, policy.path or LORA_WEIGHTS)
    if policy.form == "lora":
        pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
        count_layers(pipeline, file)
        pipeline.fuse_lora()  # same images as with the adapter, at the base's speed
        pipeline.unload_lora_weights()
    else:
        getattr(pipeline, name).load_state_dict(hub.read_state(file))


def count_layers(pipeline: Any, file: Path) -> None:
    """Raise EvaluationError where the base took fewer LoRA layers than the file holds.

    diffusers leaves out what fits nowhere, and then draws the base as if it were the policy.
    """
    ends = (".lora_A.weight", ".lora_down.weight", ".lora.down.weight", "_lora.down.weight")
    held = sum(key.endswith(ends) for key in hub.read_state(file))
    parts = [part for part in pipeline.components.values() if hasattr(part, "named_modules")]
    taken = sum(
        name.endswith(".lora_A")
        for part in {id(part): part for part in parts}.values()
        for name, _ in part.named_modules()
    )
    if taken < held:
        raise EvaluationError(
            f"{file}: only {taken} of its {held} LoRA layers fit the base; it was trained on "
            "another one, or its keys are in two conventions"
        )


def native_side(pipeline: Any) -> int:
    """Side in pixels that the denoiser was trained at."""
    size = getattr(getattr(pipeline, denoiser_name(pipeline)).config, "sample_size", None)
    if not isinstance(size, int):  # FLUX keeps it with the pipeline
        size = getattr(pipeline, "default_sample_size", None)
    # Z-Image keeps it nowhere: its pipeline draws 1024 pixels where it is told nothing.
    return size * pipeline.vae_scale_factor if size else 1024
