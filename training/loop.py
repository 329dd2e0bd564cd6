"""The training loop: one policy, from cached inputs to weights that diffusers loads.

A step draws B pairs, one time and one noise for each, sends winners and losers through the policy
as one batch of 2 B, the same through the reference (the policy with its LoRA switched off, or a
frozen copy), and takes AdamW one step down the objective. Everything random is a function of
(seed, step), so a run continues from a checkpoint to the bit without a random state or replayed
data. Nothing waits for the device between two log lines. Runs on one process, CPU or GPU, fp32 or
bf16 autocast. Who started the job and where else metrics go is `__main__`'s.
"""

import contextlib
import dataclasses
import hashlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training import TrainingError, cache
from training.checkpoint import Checkpoint, RunFolder
from training.config import DataConfig, PolicyConfig
from training.families import open_family
from training.learner import Batch, Learner
from training.objective import implicit_accuracy
from training.pairs import Pairs, TrainingSet

HELD_OUT_PAIRS = 512  # enough for a standard error of 2 points of accuracy
HELD_OUT_DRAWS = 4  # times and noises a held-out pair is judged by

Watch = Callable[[dict[str, float]], None]


class Diverged(TrainingError):
    """The loss is no longer a finite number; the message names the step and its votes."""


class Interrupted(KeyboardInterrupt):
    """A signal asked the job to stop; its state is in a checkpoint."""


def train(
    config: PolicyConfig,
    data: DataConfig,
    pairs: TrainingSet,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    watch: Watch = lambda metrics: None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Train one policy into `out` and return its result, as also kept in `out`/result.json.

    `watch` receives every line of metrics.jsonl, `say` sentences for a person. Raises TrainingError
    (ConfigError, ModelError, ImageError, CheckpointError, Diverged) for input that cannot be used,
    Interrupted after SIGINT or SIGTERM.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    family = open_family(config.base)
    dtype = torch.float32 if config.precision == "fp32" else torch.float16
    latents, images = cache.latents(
        family, pairs.images, data.images, data.cache, config.resolution, dtype, device, say
    )
    prompts = cache.prompt_embeddings(family, pairs.prompts, data.cache, dtype, device, say)
    base = family.digest("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    identity = {"pairs": pairs.digest, "images": images, "base model": base}
    run = RunFolder(out)
    run.claim(
        {"policy": dataclasses.asdict(config), **identity}, resume=resume, overwrite=overwrite
    )
    if result := run.result(config.steps):
        say(f"{out} is finished: {config.steps} steps")
        return result

    learner = Learner(config, family, device)
    checkpoint = run.load(config.steps)
    if checkpoint:
        learner.load(checkpoint.tensors)
        say(f"continuing after step {checkpoint.step}")
    source = pairs.train.unique_winners() if config.objective == "sft" else pairs.train

    def batch(of: Pairs, rows: np.ndarray) -> Batch:
        taken = of.rows(rows)
        images = np.concatenate([taken.winner, taken.loser])
        tensors = (latents.take(images), prompts.take(taken.prompt), torch.from_numpy(taken.gap))
        both, texts, gap = (t.to(device, torch.float32, non_blocking=True) for t in tensors)
        return Batch(both[: len(rows)], both[len(rows) :], texts, gap)

    say(f"{len(source)} examples, {config.steps} steps of {config.batch_size} on {device}")
    log = _Log(run.metrics, watch)
    with _held_signals() as signals:
        begun = time.monotonic() - (checkpoint.seconds if checkpoint else 0.0)
        for step in range(checkpoint.step if checkpoint else 0, config.steps):
            rows = rows_of_step(config.seed, step, config.batch_size, len(source))
            measured = learner.step(
                step, batch(source, rows), step_generator(config.seed, step, device)
            )
            log.add(step + 1, measured, source.vote_id[rows])
            last = step + 1 == config.steps
            if last or (step + 1) % config.log_every == 0:
                log.write(learning_rate=learner.learning_rate(step), pairs=config.batch_size)
            stop = bool(signals)
            if last or stop or (step + 1) % config.checkpoint_every == 0:
                log.check()  # a poisoned state must never replace the last good one
                seconds = time.monotonic() - begun
                run.save(Checkpoint(step + 1, seconds, learner.tensors()))
            if stop and not last:
                raise Interrupted(f"stopped by a signal after step {step + 1}; --resume goes on")
        seconds = time.monotonic() - begun

        result = {
            "policy": config.name,
            "objective": config.objective,
            "adaptation": config.adaptation,
            "steps": config.steps,
            "pairs": len(source),
            "held_out_pairs": len(pairs.held_out),
            **log.summary(run.metrics),
            "pairs_per_second": config.steps * config.batch_size / seconds,
            "seconds": seconds,
        }
        if len(pairs.held_out):
            result["held_out_accuracy"] = _held_out_accuracy(
                learner, lambda rows: batch(pairs.held_out, rows), len(pairs.held_out), device
            )
        result["data_version"] = learner.save(run.policy, identity)
        run.finish(result)
    return result


def rows_of_step(seed: int, step: int, batch_size: int, n: int) -> np.ndarray:
    """Rows (batch_size,) of a step: every row once an epoch, in an order of its own each epoch.

    A function of (seed, step), so data need no state and no replay when a run is continued.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = positions // n
    rows = np.empty(batch_size, dtype=np.int64)
    for epoch in np.unique(epochs):
        of_epoch = epochs == epoch
        order = np.random.default_rng([seed, int(epoch)]).permutation(n)
        rows[of_epoch] = order[positions[of_epoch] % n]
    return rows


def step_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """Return the random source of one step: the same whenever, and however often, it is taken."""
    digest = hashlib.sha256(f"{seed}/{step}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "big"))


def _held_out_accuracy(
    learner: Learner, batch: Callable[[np.ndarray], Batch], n: int, device: torch.device
) -> float:
    """Share of held-out pairs whose winner the policy's implicit reward prefers.

    A pair's logit is averaged over HELD_OUT_DRAWS times and noises, which are the same for every
    policy and seed, so two policies differ by their weights alone.
    """
    rows = np.unique(np.linspace(0, n - 1, min(n, HELD_OUT_PAIRS)).round().astype(np.int64))
    parts = np.array_split(np.arange(len(rows)), -(-len(rows) // learner.part))
    shape = (len(rows), *batch(rows[:1]).winner.shape[1:])
    logits = torch.zeros(len(rows), device=device)
    for draw in range(HELD_OUT_DRAWS):
        noise, timesteps = learner.draw(shape, step_generator(-1, draw, device))
        for part in parts:
            logits[part] += learner.logits(batch(rows[part]), noise[part], timesteps[part])
    return implicit_accuracy(logits).mean().item()


class _Log:
    """metrics.jsonl: means over the steps since the last line, fetched from the device at once."""

    def __init__(self, path: Path, watch: Watch) -> None:
        self._path, self._watch = path, watch
        self._window: list[tuple[int, dict[str, Tensor], np.ndarray]] = []
        self._begun = time.monotonic()

    def add(self, step: int, measured: dict[str, Tensor], vote_ids: np.ndarray) -> None:
        """Note a step's measures, per pair or for the step, without waiting for them."""
        self._window.append((step, measured, vote_ids))

    def check(self) -> None:
        """Raise Diverged for the first step of the window whose loss or gradient is not finite."""
        if not self._window:
            return
        loss = torch.stack([m["loss"].mean() + m["grad_norm"] for _, m, _ in self._window])
        broken = (~loss.isfinite()).nonzero().flatten().tolist()
        if broken:
            step, measured, vote_ids = self._window[broken[0]]
            at_fault = vote_ids[(~measured["loss"].isfinite()).cpu().numpy()]
            which = at_fault if len(at_fault) else vote_ids
            raise Diverged(
                f"the loss of step {step} is not a finite number, for votes {', '.join(which[:8])}"
                f"{', ...' if len(which) > 8 else ''}; the last checkpoint is intact: resume from "
                "it with a lower train.learning_rate in a new --out, or look at those images"
            )

    def write(self, *, learning_rate: float, pairs: int) -> None:
        """Write one line and hand it to `watch`."""
        self.check()
        names = list(self._window[0][1])
        sums = [torch.stack([m[name].mean() for _, m, _ in self._window]).mean() for name in names]
        values = torch.stack(sums).tolist()
        now = time.monotonic()
        rate = pairs * len(self._window) / (now - self._begun)
        step = self._window[-1][0]
        line = {"step": step, **dict(zip(names, values, strict=True))}
        line |= {"learning_rate": learning_rate, "pairs_per_second": rate}
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._window.clear()
        self._begun = now
        self._watch(line)

    @staticmethod
    def summary(path: Path) -> dict[str, float]:
        """Loss and implicit accuracy over the last tenth of the run."""
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lines = lines[-max(1, len(lines) // 10) :]
        keys = [key for key in ("loss", "implicit_accuracy") if key in lines[0]]
        return {key: float(np.mean([line[key] for line in lines])) for key in keys}


@contextlib.contextmanager
def _held_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list, for the loop to act on between two steps."""
    received: list[int] = []
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(kind, lambda number, _: received.append(number)) for kind in kinds]
    try:
        yield received
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)
