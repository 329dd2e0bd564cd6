"""Images of one policy for a list of prompts, the same noise for every policy.

Image (prompt_id, k) starts from noise drawn on the CPU from a generator seeded with
hash(prompt_id, k, seed). So every policy answers the same draw (common random numbers: what
differs between two policies is the policies), and neither batch size nor device changes it.

Each PNG carries its prompt and a digest of everything that made it (base, policy, steps,
guidance, seed, resolution). A second run keeps the images whose digest is still right and makes
the others, so an interrupted run goes on image by image and a changed policy never keeps an old
image. What a policy is and how it is loaded is told in `policies`; scoring is not done here.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pyarrow as pa

from evaluation import devices
from evaluation.drawing import Artist, Settings, Target
from evaluation.policies import Policy
from evaluation.progress import Progress
from evaluation.prompts import Prompt
from evaluation.provenance import provenance
from evaluation.tables import write_parquet

LONGEST_NAME = 200  # bytes; file systems take 255
INDEX = pa.schema(
    [(name, pa.string()) for name in ("policy", "prompt_id", "prompt", "category")]
    + [("seed", pa.int64()), ("image", pa.string())]
)


class Outcome(NamedTuple):
    """What a generation did: images made now, images kept from before, seconds of drawing, and
    the digest of the weights that drew."""

    made: int
    kept: int
    seconds: float
    weights: str


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


def generate(
    policy: Policy,
    targets: Sequence[Target],
    settings: Settings,
    *,
    batch_size: int | None = None,
) -> Outcome:
    """Make the images that are not there yet; processes launched together share them out.

    batch_size defaults to as many as fit the area of four 512 px images, at most 64.
    """
    artist = Artist(policy, settings, batch_size)
    mine = devices.part_of(targets)
    missing = [target for target in mine if artist.wants(target)]
    started = time.monotonic()
    if missing:
        artist.draw(missing, Progress(len(missing), "images").add)
    devices.wait()
    seconds = time.monotonic() - started
    return Outcome(len(missing), len(mine) - len(missing), seconds, policy.digest())


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
    write_parquet(
        path, table.replace_schema_metadata({"made_by": json.dumps(provenance({name: weights}))})
    )
