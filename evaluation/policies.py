"""From a policy's name to the pipeline that draws: folders, hub names and public releases.

A policy is a base as it is; a base with a LoRA merged into it, with another denoiser, or with a
denoiser's state dict; or a whole pipeline of its own. Any text-to-image pipeline of diffusers
serves (Stable Diffusion 1 to 3, SDXL, FLUX, ...). Drawing is `generate`.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation import hub
from evaluation.errors import EvaluationError
from evaluation.releases import RELEASES, Form
from evaluation.tables import digest

LORA_WEIGHTS = "pytorch_lora_weights.safetensors"
DENOISERS = ("unet", "transformer")


@dataclass(frozen=True)
class Policy:
    """What draws: a base, and where it is not the base itself, what changes it and how.

    base, source : diffusers folders or hub names. path : see `Release`.
    """

    base: str
    source: str | None = None
    form: Form = "pipeline"
    path: str = ""

    def digest(self) -> str:
        """Digest of the weights and configurations that draw: of contents, or of hub names."""
        parts = [self.form, self.path]
        for name in (self.base, self.source):
            folder = Path(name) if name else None
            if folder is not None and folder.is_dir():
                files = (path for path in folder.rglob("*") if path.is_file())
                parts.append(digest(files, folder))
            else:
                parts.append(str(name))
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
    if Path(name).is_dir():
        return policy_in(Path(name), base)
    if name in RELEASES:
        release = RELEASES[name]
        return Policy(base or release.base, release.hub, release.form, release.path)
    if name.count("/") == 1 and not name.startswith((".", "/")):
        return policy_with(lambda file: on_hub(name, file), name, base)
    raise EvaluationError(
        f"{name}: no such folder, and no release has that name; releases: {', '.join(RELEASES)}"
    )


def policy_in(folder: Path, base: str | None) -> Policy:
    """The policy in a local folder, by what lies there."""
    return policy_with(lambda file: (folder / file).is_file(), str(folder), base)


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


def quieten() -> None:
    """Silence the libraries' loading bars and advice: they say nothing about the images."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    import diffusers

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()


def load_pipeline(policy: Policy, device: str) -> Any:
    """The pipeline of a policy on a device, ready to draw.

    On a GPU in half precision: fp16 for a UNet as it was published, bf16 for a transformer, whose
    activations leave fp16's range. Raises EvaluationError when the folders are not what they
    should be.
    """
    quieten()
    import torch
    from diffusers import DiffusionPipeline

    whole = policy.source is not None and policy.form == "pipeline"
    source = policy.source if whole and policy.source else policy.base
    local = hub.out_of_reach()
    try:
        pipeline = DiffusionPipeline.from_pretrained(source, local_files_only=local)
        if policy.source is not None and not whole:
            change(pipeline, policy)
    except (OSError, ValueError, RuntimeError) as error:
        for name in (policy.base, policy.source):
            if local and isinstance(error, OSError) and name and not Path(name).is_dir():
                raise EvaluationError(
                    f"{name}: no such folder here, and the hub, which may have it, cannot be "
                    "reached; fetch it where it can, and give the folder"
                ) from error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EvaluationError(f"{policy.source or source}: cannot be loaded: {reason}") from error
    if getattr(pipeline, "safety_checker", None) is not None:
        pipeline.safety_checker = None  # it would blacken images, and black images would be scored
    pipeline.set_progress_bar_config(disable=True)
    if device == "cpu":
        dtype = torch.float32
    else:
        dtype = torch.float16 if denoiser_name(pipeline) == "unet" else torch.bfloat16
    return pipeline.to(device, dtype)


def denoiser_name(pipeline: Any) -> str:
    """Name of the pipeline's part that is fine-tuned: unet or transformer."""
    for name in DENOISERS:
        if getattr(pipeline, name, None) is not None:
            return name
    raise EvaluationError(f"{type(pipeline).__name__} has neither a unet nor a transformer")


def change(pipeline: Any, policy: Policy) -> None:
    """Put a LoRA, another denoiser or its state dict into a base's pipeline."""
    local = hub.out_of_reach()
    name = denoiser_name(pipeline)
    if policy.form == "lora":
        pipeline.load_lora_weights(
            policy.source, weight_name=policy.path or LORA_WEIGHTS, local_files_only=local
        )
        pipeline.fuse_lora()  # same images as with the adapter, at the base's speed
        pipeline.unload_lora_weights()
    elif policy.form == "denoiser":
        kind = type(getattr(pipeline, name))
        where = {"subfolder": policy.path} if policy.path else {}
        denoiser = kind.from_pretrained(policy.source, local_files_only=local, **where)
        pipeline.register_modules(**{name: denoiser})
    else:
        from evaluation.scorers.weights import find_file, read_state

        file = find_file(str(policy.source), str(policy.source), policy.path)
        getattr(pipeline, name).load_state_dict(read_state(file))


def native_side(pipeline: Any) -> int:
    """Side in pixels that the denoiser was trained at."""
    size = getattr(getattr(pipeline, denoiser_name(pipeline)).config, "sample_size", None)
    if not isinstance(size, int):  # FLUX keeps it with the pipeline
        size = pipeline.default_sample_size
    return size * pipeline.vae_scale_factor
