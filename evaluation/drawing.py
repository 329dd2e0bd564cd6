"""One image after another from a loaded policy, each from its own noise, each written whole.

Noise is drawn on the CPU from a generator seeded for the image alone, so neither batch size nor
device nor the number of processes changes it. Each PNG says inside what it shows and what made it.
Which images are wanted is decided in `generate`.
"""

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from evaluation import devices
from evaluation.pictures import FILES
from evaluation.policies import Policy, load_pipeline, native_side
from evaluation.tables import write_bytes


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


def is_current(path: Path, prompt: str, made_by: str) -> bool:
    """Whether the file is a whole PNG of this prompt made by these very weights and settings."""
    try:
        with Image.open(io.BytesIO(FILES.content(str(path))), formats=("PNG",)) as image:
            info = getattr(image, "text", {})
            return info.get("prompt") == prompt and info.get("generation") == made_by
    except Exception:  # whatever a decoder raises, the image is drawn again
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


class Artist:
    """A policy that draws; its weights are loaded when the first image is asked for."""

    def __init__(self, policy: Policy, settings: Settings, batch_size: int | None = None):
        self.policy, self.settings, self.batch_size = policy, settings, batch_size
        known = f"{policy.digest()} {settings}"
        self.made_by = hashlib.sha256(known.encode()).hexdigest()
        self.pipeline: Any = None

    def wants(self, target: Target) -> bool:
        """Whether an image is still to be made."""
        return not is_current(target.path, target.prompt, self.made_by)

    def draw(self, targets: Sequence[Target], on_batch: Callable[[int], None]) -> None:
        """Write an image for each target; on_batch hears how many each batch made."""
        if self.pipeline is None:
            self.pipeline = load_pipeline(self.policy, devices.device())
        side = self.settings.resolution or native_side(self.pipeline)
        size = self.batch_size or max(1, min(64, 4 * 512 * 512 // (side * side)))
        for batch in batches(targets, size):
            images = draw(self.pipeline, batch, self.settings, side)
            for target, image in zip(batch, images, strict=True):
                content = encode_png(image, target.prompt, self.made_by)
                write_bytes(target.path, content)
            on_batch(len(batch))
