"""The arena's generators: which networks, trained how long, sampled how; and their images.

Ability differs as it does among real models: size, training, the care of the captions, guidance
and the number of sampling steps. The base that is to be fine-tuned is one of them, in the middle.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from examples.miniature.pretraining import Phase

BASE = "inkwell-1.5"


@dataclass(frozen=True)
class Network:
    """One UNet's pretraining, of which several checkpoints may be released."""

    channels: tuple[int, int]
    phases: tuple[Phase, ...]


@dataclass(frozen=True)
class Generator:
    """A released model: a checkpoint of a network and how it is sampled.

    `day` is when it enters the arena and `popularity` how often it is drawn there.
    """

    name: str
    network: str
    step: int
    guidance: float
    steps: int
    day: int = 0
    popularity: float = 1.0
    seeds: int = field(default=1)  # images a prompt


NETWORKS = {
    # First careless captions, as from the web; then the same digits, captioned with care.
    "inkwell": Network((32, 64), (Phase(800, 0.8), Phase(900, 0.0))),
    "copperplate": Network((48, 96), (Phase(1000, 0.05),)),
    "quill": Network((16, 32), (Phase(900, 0.2),)),
}

GENERATORS = (
    Generator("quill-nano", "quill", 200, 1.5, 10),
    Generator("quill-mini", "quill", 900, 2.0, 15, popularity=1.5),
    Generator("quill-mini-turbo", "quill", 900, 2.0, 4, day=9),
    Generator("inkwell-0.9", "inkwell", 200, 2.0, 15),
    Generator("inkwell-1.0", "inkwell", 400, 2.0, 15, popularity=1.5),
    Generator(BASE, "inkwell", 800, 2.0, 15, popularity=2.0, seeds=2),
    Generator("inkwell-1.5-plain", "inkwell", 800, 1.0, 15),
    Generator("inkwell-1.5-lightning", "inkwell", 800, 2.0, 3, day=3, popularity=0.7),
    Generator("inkwell-2.0", "inkwell", 1700, 2.0, 15, day=12, popularity=2.0, seeds=2),
    Generator("inkwell-2.0-lightning", "inkwell", 1700, 2.0, 4, day=16),
    Generator("inkwell-2.0-vivid", "inkwell", 1700, 5.0, 15, day=20, popularity=0.7),
    Generator("copperplate-beta", "copperplate", 350, 2.0, 15, day=5, popularity=0.7),
    Generator("copperplate-xl", "copperplate", 1000, 3.0, 20, day=10, popularity=2.0, seeds=2),
    Generator("copperplate-xl-plain", "copperplate", 1000, 1.0, 15, day=14),
)


def sample(
    pipeline: StableDiffusionPipeline,
    generator: Generator,
    prompts: Sequence[str],
    keys: Sequence[str],
) -> list[Image.Image]:
    """Draw one image for each prompt, in greys; `keys` name the images and seed their noise."""
    images: list[Image.Image] = []
    for start in range(0, len(prompts), 128):
        chosen = slice(start, start + 128)
        noise = [torch.Generator().manual_seed(_seed(key)) for key in keys[chosen]]
        pixels = pipeline(
            prompt=list(prompts[chosen]),
            num_inference_steps=generator.steps,
            guidance_scale=generator.guidance,
            generator=noise,
            output_type="np",
        ).images
        levels = np.round(pixels.mean(axis=3) * 255).astype(np.uint8)
        images += [Image.fromarray(level) for level in levels]
    return images


def png(image: Image.Image) -> bytes:
    """Return the image as PNG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _seed(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big")
