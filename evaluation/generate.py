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
import multiprocessing
import queue
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from evaluation.drawing import Progress, Settings, Target, draw_all, is_current
from evaluation.errors import EvaluationError
from evaluation.policies import Policy
from evaluation.tables import write_parquet


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


def draw_share(
    policy: Policy,
    targets: Sequence[Target],
    settings: Settings,
    made_by: str,
    batch_size: int | None,
    place: tuple[int, int],
    made: Any,
) -> None:
    """What one of several processes does: `place` is its number and how many there are.

    It says in the queue `made` what it made, or why it could not, and stops when nobody listens.
    """
    import torch

    number, processes = place
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and ends this process
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    gpus = torch.cuda.device_count()
    device = f"cuda:{number % gpus}" if gpus else "cpu"
    parent = multiprocessing.parent_process()

    def report(count: int) -> None:
        made.put(count)
        if parent is not None and not parent.is_alive():
            raise SystemExit(1)

    try:
        draw_all(
            policy, targets, settings, made_by, batch_size=batch_size, device=device,
            on_batch=report,
        )  # fmt: skip
    except EvaluationError as error:
        made.put(str(error))


def draw_in_processes(
    policy: Policy,
    targets: Sequence[Target],
    settings: Settings,
    made_by: str,
    batch_size: int | None,
    processes: int,
) -> None:
    """Share the targets out among several processes, one a GPU in turn, and wait for all.

    Raises EvaluationError with what a process said, or when one died; images made are kept.
    """
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    made = context.Queue()
    workers = [
        context.Process(
            target=draw_share,
            args=(
                policy, targets[number::processes], settings, made_by, batch_size,
                (number, processes), made,
            ),
            daemon=True,
        )
        for number in range(processes)
    ]  # fmt: skip
    progress = Progress(len(targets))
    try:
        for worker in workers:
            worker.start()
        while progress.done < len(targets):
            try:
                heard = made.get(timeout=1)
            except queue.Empty:
                if all(worker.is_alive() or worker.exitcode == 0 for worker in workers):
                    continue
                raise EvaluationError(
                    "a process that draws images died (out of memory?); run the same command "
                    "again, with fewer --processes or a smaller --batch-size"
                ) from None
            if isinstance(heard, str):
                raise EvaluationError(heard)
            progress.add(heard)
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()


def generate(
    policy: Policy,
    targets: Sequence[Target],
    settings: Settings,
    *,
    batch_size: int | None = None,
    processes: int = 1,
) -> Outcome:
    """Make the images that are not there yet.

    batch_size defaults to as many as fit the area of four 512 px images, at most 64. Several
    processes share the images; each loads the policy, on the next GPU in turn.
    """
    made_by = hashlib.sha256(f"{policy.digest()} {settings}".encode()).hexdigest()
    missing = [target for target in targets if not is_current(target.path, target.prompt, made_by)]
    if not missing:
        return Outcome(0, len(targets), 0.0)
    started = time.monotonic()
    if processes > 1:
        few = min(processes, len(missing))
        draw_in_processes(policy, missing, settings, made_by, batch_size, few)
    else:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        progress = Progress(len(missing))
        draw_all(
            policy, missing, settings, made_by, batch_size=batch_size, device=device,
            on_batch=progress.add,
        )  # fmt: skip
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
