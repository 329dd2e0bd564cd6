"""Images of one policy for a list of prompts, the same noise for every policy.

Image (prompt_id, k) starts from noise drawn on the CPU from a generator seeded with
hash(prompt_id, k, seed). So every policy answers the same draw (common random numbers: what
differs between two policies is the policies), and neither batch size nor device changes it.

Each PNG carries its prompt and a digest of everything that made it (base, policy, steps,
guidance, seed, resolution). A second run keeps the images whose digest is still right and makes
the others, so an interrupted run goes on image by image and a changed policy never keeps an old
image. Scoring is not done here.
"""

import hashlib
import io
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
from PIL import Image, PngImagePlugin

from evaluation import hub
from evaluation.errors import EvaluationError
from evaluation.tables import digest, write_bytes, write_parquet

LORA_WEIGHTS = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class Settings:
    """How images are drawn: steps of the scheduler, guidance scale, seed and side in pixels."""

    steps: int
    guidance: float
    seed: int
    resolution: int | None = None  # None: the size the base was trained at


@dataclass(frozen=True)
class Target:
    """One image to make: what it shows, which noise it starts from and where it goes."""

    prompt: str
    noise_seed: int
    path: Path


@dataclass(frozen=True)
class Outcome:
    """What a generation did: images made now, images kept from before, seconds of drawing."""

    made: int
    kept: int
    seconds: float


def noise_seed(prompt_id: str, k: int, seed: int) -> int:
    """Seed in [0, 2^63) of the noise of image k of a prompt, the same for every policy."""
    text = json.dumps([prompt_id, k, seed])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def image_name(prompt_id: str, k: int) -> str:
    """File name of an image: the id with unsafe characters quoted, a dash, k."""
    return f"{quote(prompt_id, safe=' ')}-{k}.png"


def quieten() -> None:
    """Silence the libraries' loading bars and advice: they say nothing about the images."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    import diffusers

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()


def load_pipeline(base: str, policy: Path | None, device: str) -> Any:
    """Load a diffusers pipeline, with a LoRA merged into it or replaced by a full policy.

    Parameters
    ----------
    base : a diffusers folder or hub name.
    policy : None (the base itself), a folder with pytorch_lora_weights.safetensors, or a folder
        that diffusers loads as a whole (model_index.json).

    Raises EvaluationError when the folders are not what they should be.
    """
    import torch

    quieten()
    from diffusers import DiffusionPipeline

    source = base
    lora = policy is not None and (policy / LORA_WEIGHTS).is_file()
    if policy is not None and not lora:
        if not (policy / "model_index.json").is_file():
            raise EvaluationError(
                f"{policy}: neither {LORA_WEIGHTS} nor model_index.json is there, so it is not a "
                "policy; give the folder that training wrote (DIR/policy)"
            )
        source = str(policy)
    dtype = torch.float32 if device == "cpu" else torch.float16
    try:
        pipeline = DiffusionPipeline.from_pretrained(source, local_files_only=hub.out_of_reach())
        if lora:
            pipeline.load_lora_weights(str(policy))
            pipeline.fuse_lora()  # same images as with the adapter, at the base's speed
            pipeline.unload_lora_weights()
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise EvaluationError(f"{policy or source}: cannot be loaded: {reason}") from error
    if getattr(pipeline, "safety_checker", None) is not None:
        pipeline.safety_checker = None  # it would blacken images, and black images would be scored
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device, dtype)


def source_digest(base: str, policy: Path | None) -> str:
    """Digest of the weights and configurations that draw: of contents, or of a hub name."""
    parts = [base]
    for i, folder in enumerate([Path(base)] if policy is None else [Path(base), policy]):
        if folder.is_dir():
            files = (path for path in folder.rglob("*") if path.is_file())
            parts[i:] = [digest(files, folder)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def is_current(path: Path, prompt: str, made_by: str) -> bool:
    """Whether the file is a whole PNG of this prompt made by these very weights and settings."""
    try:
        with Image.open(path) as image:
            info = getattr(image, "text", {})
            return info.get("prompt") == prompt and info.get("generation") == made_by
    except (OSError, SyntaxError):
        return False


def encode_png(image: Image.Image, prompt: str, made_by: str) -> bytes:
    """PNG bytes that say inside what they show and what made them."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt("prompt", prompt)
    info.add_text("generation", made_by)
    sink = io.BytesIO()
    image.save(sink, format="PNG", pnginfo=info)
    return sink.getvalue()


def batches(targets: Sequence[Target], size: int) -> Iterator[Sequence[Target]]:
    """Cut the targets into runs of at most `size`."""
    for start in range(0, len(targets), size):
        yield targets[start : start + size]


def draw(
    pipeline: Any, targets: Sequence[Target], settings: Settings, side: int
) -> list[Image.Image]:
    """Draw one image a target, each from its own CPU generator."""
    import torch

    with torch.inference_mode():
        return pipeline(
            prompt=[target.prompt for target in targets],
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            height=side,
            width=side,
            generator=[torch.Generator("cpu").manual_seed(t.noise_seed) for t in targets],
        ).images


def generate(
    base: str,
    policy: Path | None,
    targets: Sequence[Target],
    settings: Settings,
    *,
    batch_size: int | None = None,
    device: str | None = None,
) -> Outcome:
    """Make the images that are not there yet.

    batch_size defaults to as many as fit the area of four 512 px images, at most 64.
    """
    made_by = hashlib.sha256(f"{source_digest(base, policy)} {settings}".encode()).hexdigest()
    missing = [target for target in targets if not is_current(target.path, target.prompt, made_by)]
    if not missing:
        return Outcome(0, len(targets), 0.0)

    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    pipeline = load_pipeline(base, policy, device)
    network = getattr(pipeline, "unet", None) or pipeline.transformer
    side = settings.resolution or network.config.sample_size * pipeline.vae_scale_factor
    size = batch_size or max(1, min(64, 4 * 512 * 512 // (side * side)))
    started, done, shown = time.monotonic(), 0, time.monotonic()
    for batch in batches(missing, size):
        for target, image in zip(batch, draw(pipeline, batch, settings, side), strict=True):
            write_bytes(target.path, encode_png(image, target.prompt, made_by), durable=False)
        done += len(batch)
        if time.monotonic() - shown > 2 or done == len(missing):
            shown = time.monotonic()
            rate = done / max(shown - started, 1e-9)
            print(f"  {done}/{len(missing)} images, {rate:.1f} a second", file=sys.stderr)
    return Outcome(len(missing), len(targets) - len(missing), time.monotonic() - started)


def prompt_targets(
    prompts: Sequence[tuple[str, str]], images_per_prompt: int, seed: int, folder: Path
) -> list[Target]:
    """Name and seed every image of the prompts, in order of prompts, then of k."""
    return [
        Target(prompt, noise_seed(prompt_id, k, seed), folder / image_name(prompt_id, k))
        for prompt_id, prompt in prompts
        for k in range(images_per_prompt)
    ]


def ksort_targets(prompts: Sequence[tuple[str, str]], seed: int, folder: Path) -> list[Target]:
    """Name and seed one image for each (instance, prompt) of a K-Sort data set."""
    return [
        Target(prompt, noise_seed(f"ksort/{instance}", 0, seed), folder / f"{instance}.png")
        for instance, prompt in prompts
    ]


def write_index(
    path: Path, name: str, prompts: Sequence[tuple[str, str]], images_per_prompt: int
) -> pa.Table:
    """Write images.parquet: policy, prompt_id, prompt, seed (k), image (relative to the table)."""
    rows = [
        (name, prompt_id, prompt, k, f"images/{image_name(prompt_id, k)}")
        for prompt_id, prompt in prompts
        for k in range(images_per_prompt)
    ]
    columns = list(zip(*rows, strict=True))
    table = pa.table(
        {
            "policy": pa.array(columns[0], pa.string()),
            "prompt_id": pa.array(columns[1], pa.string()),
            "prompt": pa.array(columns[2], pa.string()),
            "seed": pa.array(columns[3], pa.int64()),
            "image": pa.array(columns[4], pa.string()),
        }
    )
    write_parquet(path, table)
    return table
