"""Images of one policy for a list of prompts, the same noise for every policy.

Image (prompt_id, k) starts from noise drawn on the CPU from a generator seeded with
hash(prompt_id, k, seed) for that image alone. So every policy answers the same draw (common random
numbers: what differs between two policies is the policies), and neither batch size nor device nor
the number of processes changes it.

Each PNG is written whole and carries its prompt and a digest of everything that made it (base,
policy, steps, guidance, seed, resolution). A second run keeps the images whose digest is still
right and makes the others, so an interrupted run goes on image by image and a changed policy never
keeps an old image. What a policy is and how it is loaded is told in `policies`.
"""

import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
from PIL import Image, PngImagePlugin
from tqdm import tqdm

from evaluation import devices
from evaluation.pictures import FILES
from evaluation.policies import Policy, load_pipeline, native_side
from evaluation.prompts import Prompt
from evaluation.tables import provenance, write

LONGEST_NAME = 200  # bytes; file systems take 255
INDEX = pa.schema(
    [(name, pa.string()) for name in ("policy", "prompt_id", "prompt", "category")]
    + [("seed", pa.int64()), ("image", pa.string())]
)


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
    """A policy that draws; its weights are loaded when the first image is asked for.

    batch_size : images at once; where None says, as many as fit the area of four 512 px images, at
    most 64. weights : digest of the weights that draw.
    """

    def __init__(self, policy: Policy, settings: Settings, batch_size: int | None = None):
        self.policy, self.settings, self.batch_size = policy, settings, batch_size
        self.weights = policy.digest()
        self.made_by = hashlib.sha256(f"{self.weights} {settings}".encode()).hexdigest()
        self.pipeline: Any = None

    def wants(self, target: Target) -> bool:
        """Whether an image is still to be made."""
        return not is_current(target.path, target.prompt, self.made_by)

    def side(self) -> int:
        """Side of its images in pixels; the weights are loaded."""
        if self.pipeline is None:
            self.pipeline = load_pipeline(self.policy, devices.device())
        return self.settings.resolution or native_side(self.pipeline)

    def at_once(self) -> int:
        """How many images a batch has."""
        return self.batch_size or max(1, min(64, 4 * 512 * 512 // self.side() ** 2))

    def draw_first(self, targets: Iterator[Target]) -> None:
        """Draw the first target's image where it is still to be made, and fill its batch with those
        of the next."""
        first = next(targets)
        if self.wants(first):
            self.draw([first, *islice(filter(self.wants, targets), self.at_once() - 1)])

    def draw(self, targets: Sequence[Target], on_batch: Callable[[int], Any] | None = None) -> None:
        """Write an image for each target; on_batch hears how many each batch made."""
        side, size = self.side(), self.at_once()
        for start in range(0, len(targets), size):
            batch = targets[start : start + size]
            images = draw(self.pipeline, batch, self.settings, side)
            for target, image in zip(batch, images, strict=True):
                info, sink = PngImagePlugin.PngInfo(), io.BytesIO()
                info.add_itxt("prompt", target.prompt)
                info.add_text("generation", self.made_by)
                image.save(sink, format="PNG", pnginfo=info)
                write(target.path, sink.getvalue())
            if on_batch is not None:
                on_batch(len(batch))


def noise_seed(prompt_id: str, k: int, seed: int) -> int:
    """Seed in [0, 2^63) of the noise of image k of a prompt, the same for every policy."""
    text = json.dumps([prompt_id, k, seed])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def image_name(prompt_id: str, k: int) -> str:
    """File name of an image: the id with unsafe characters quoted, a dash, k.

    Of an id that is too long for a file system the beginning and a digest are taken.
    """
    name = quote(prompt_id, safe=" ")
    if len(name) > LONGEST_NAME:
        name = f"{name[:80]}-{hashlib.sha256(prompt_id.encode()).hexdigest()[:16]}"
    return f"{name}-{k}.png"


def generate(artist: Artist, targets: Sequence[Target]) -> tuple[int, int, float]:
    """Make the images that are not there yet; processes launched together share them out.

    Returns the number of images made now, that of those kept from before, and the seconds it took.
    """
    mine = targets[devices.RANK :: devices.WORLD]
    missing = [target for target in mine if artist.wants(target)]
    started = time.monotonic()
    if missing:
        with tqdm(total=len(missing), unit="image", mininterval=2, disable=devices.RANK > 0) as bar:
            artist.draw(missing, bar.update)
    if devices.WORLD > 1:
        devices.state().wait_for_everyone()
    return len(missing), len(mine) - len(missing), time.monotonic() - started


def prompt_targets(
    prompts: Sequence[tuple[str, str]], images_per_prompt: int, seed: int, folder: Path
) -> list[Target]:
    """Name and seed every image of the prompts (id, text), in order of prompts, then of k."""
    return [
        Target(prompt, noise_seed(prompt_id, k, seed), folder / image_name(prompt_id, k))
        for prompt_id, prompt in prompts
        for k in range(images_per_prompt)
    ]


def ksort_target(instance: str, prompt: str, seed: int, folder: Path) -> Target:
    """Name and seed the image for an instance of a K-Sort data set."""
    return Target(prompt, noise_seed(f"ksort/{instance}", 0, seed), folder / f"{instance}.png")


def write_index(
    path: Path, name: str, prompts: Sequence[Prompt], images_per_prompt: int, weights: str
) -> None:
    """Write images.parquet: policy, prompt_id, prompt, category (where prompts have any), seed (k),
    image (relative to the table)."""
    rows = [
        {
            "policy": name,
            "prompt_id": one.prompt_id,
            "prompt": one.prompt,
            "category": one.category,
            "seed": k,
            "image": f"images/{image_name(one.prompt_id, k)}",
        }
        for one in prompts
        for k in range(images_per_prompt)
    ]
    table = pa.Table.from_pylist(rows, schema=INDEX)
    if table["category"].null_count == len(rows):
        table = table.drop_columns("category")
    write(path, table.replace_schema_metadata({"made_by": json.dumps(provenance({name: weights}))}))
