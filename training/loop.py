"""The training loop: one policy, from cached inputs to weights that diffusers loads.

A step draws B pairs, one time and one noise for each, sends winners and losers through the policy
as one batch of 2 B, the same through the reference (the policy with its LoRA switched off, a frozen
copy, or errors that are known already), and takes the optimiser one step down the objective.
Nothing waits for the device between two log lines, and the next batch is on its way. One process or
several, CPU or GPU, fp32 or half precision. Who started the job and where else metrics go is
`__main__`'s.
"""

import contextlib
import dataclasses
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training import cache
from training.batches import Dropped, Inputs, prefetched, rows_of_step, step_generator
from training.card import write_card
from training.checkpoint import Checkpoint, RunFolder
from training.compiling import compile_errors, refuse_on_cpu
from training.config import DataConfig, PolicyConfig
from training.families import Family, open_family
from training.learner import Batch, Learner
from training.memory import out_of_memory, peak_memory
from training.optimizer import learning_rate, require_library
from training.pairs import Pairs, TrainingSet
from training.processes import Processes, join_processes
from training.reference import ReferenceErrors
from training.samples import IMAGES, Sampler
from training.sharding import is_shared, kept_here, refuse_what_cannot_be_shared
from training.watching import Log, Patience, Watch, validate

Say = Callable[[str], None]


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
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Train one policy into `out` and return its result, as also kept in `out`/result.json.

    `watch` receives every line of metrics.jsonl, `say` sentences for a person. Raises TrainingError
    (ConfigError, ModelError, ImageError, CheckpointError, Diverged) for input that cannot be used,
    Interrupted after SIGINT or SIGTERM.
    """
    processes = join_processes(config.batch_size, config.accumulation)
    if processes.rank:
        say = lambda text: None  # noqa: E731
    family = open_family(config.base)
    family.check_resolution(config.resolution)
    require_library(config)
    refuse_on_cpu(config, processes.device.type)
    refuse_what_cannot_be_shared(config, processes)
    if config.objective == "cdpo":
        pairs.train.require_probabilities()
        pairs.held_out.require_probabilities()
    inputs, origin, sampler = _inputs(config, data, pairs, family, processes, say)
    run = RunFolder(out)
    identity = {"policy": dataclasses.asdict(config), **origin}
    if processes.rank == 0:
        run.claim(identity, resume=resume, overwrite=overwrite)
    processes.wait()
    if result := run.result(config.steps):
        say(f"{out} is finished: {result['steps']} steps")
        return result

    learner = Learner(config, family, processes)
    if learner.shared:
        mine, every = kept_here(learner.policy.parameters())
        say(f"{mine:,} of {every:,} weights are kept by this process, the others by the others")
    checkpoint = run.load(config.steps, writes=processes.rank == 0)
    if checkpoint:
        learner.load(checkpoint.tensors)
        say(f"continuing after step {checkpoint.step}")
    if spread := config.margin_spread:
        like = pairs.train
        pairs = dataclasses.replace(
            pairs,
            train=like.spread_gaps(spread, like),
            held_out=pairs.held_out.spread_gaps(spread, like),
        )
    source = pairs.train.unique_winners() if config.objective == "sft" else pairs.train
    if config.shuffle_gaps:
        source = source.shuffled_gaps(config.seed)
    job = _Job(config, run, learner, inputs, pairs.held_out, sampler, watch, say)
    first = checkpoint.step if checkpoint else 0
    steps = range(first, first if job.patience.over else config.steps)
    size, where = config.batch_size, f"{processes.count} x {processes.device.type}"
    say(f"{len(source)} examples, {config.steps} steps of {size} on {where}")
    with out_of_memory(config), compile_errors(config):
        fetch = _fetcher(config, data, origin, pairs.content, source, inputs, learner, steps, say)
    with _held_signals() as signals, out_of_memory(config), compile_errors(config):
        begun = time.monotonic() - (checkpoint.seconds if checkpoint else 0.0)
        done = steps.start
        for step, batch in prefetched(fetch, steps):
            measured = learner.step(step, batch)
            rows = rows_of_step(config.seed, step, size, len(source))
            done = step + 1
            job.log.add(done, measured, source.vote_id[rows])
            if job.is_over_after(step, begun, signals):
                break
        seconds = time.monotonic() - begun
        validated = job.validated or job.validate()  # not yet where no step was left to take
    result = {
        "policy": config.name,
        "objective": config.objective,
        "adaptation": config.adaptation,
        "steps": done,
        "stopped_early": done < config.steps,
        "pairs": len(source),
        "held_out_pairs": len(pairs.held_out),
        "pairs_per_second": done * size / seconds,
        "seconds": seconds,
        "peak_memory_gib": peak_memory() / 2**30,
        **validated,
    }
    if processes.rank == 0 or learner.shared:
        with learner.averaged():
            result["data_version"] = learner.save(run.policy, origin)
    if processes.rank == 0:
        result |= job.log.summary(run.metrics)
        write_card(run.policy, config, family, origin, result)
        run.finish(result)
    processes.wait()
    return result if processes.rank == 0 else (run.result(config.steps) or result)


class _Job:
    """What follows a step: validation, samples, the log's line, a checkpoint, perhaps the end."""

    def __init__(
        self,
        config: PolicyConfig,
        run: RunFolder,
        learner: Learner,
        inputs: Inputs,
        held_out: Pairs,
        sampler: Sampler | None,
        watch: Watch,
        say: Say,
    ) -> None:
        self._config, self._run, self._learner, self._inputs = config, run, learner, inputs
        self._held_out, self._sampler, self._say = held_out, sampler, say
        self.log = Log(run.metrics, config, learner.processes, watch)
        self.patience = Patience(config.patience, run.metrics)
        self.validated: dict[str, float] = {}

    def validate(self) -> dict[str, float]:
        """Judge the policy by the held-out pairs, if there are any."""
        return validate(self._learner, self._inputs, self._held_out) if len(self._held_out) else {}

    def is_over_after(self, step: int, begun: float, signals: list[int]) -> bool:
        """Do what is due after `step` (from 0); return whether patience is at its end.

        Raises Diverged, and Interrupted once the state is in a checkpoint.
        """
        config, done, processes = self._config, step + 1, self._learner.processes
        last = done == config.steps
        self.validated, over = {}, False
        if last or _due(done, config.validate_every):
            self.log.pause()
            self.validated = self.validate()
            over = bool(self.validated) and self.patience.is_over(self.validated["held_out_loss"])
        if self._sampler and (last or _due(done, config.sample_every)):
            with self._learner.averaged():
                self._sampler(self._learner.policy, self._run.folder / "samples", done)
        if last or self.validated or _due(done, config.log_every):
            rate = learning_rate(config, step)
            self.log.write(learning_rate=rate, validated=self.validated)
        stop = _agreed(signals, processes, done, config.log_every)
        if last or over or stop or _due(done, config.checkpoint_every):
            self.log.check()  # a poisoned state must never replace the last good one
            if processes.rank == 0 or self._learner.shared:
                seconds = time.monotonic() - begun
                checkpoint = Checkpoint(done, seconds, self._learner.tensors())
                if processes.rank == 0:
                    self._run.save(checkpoint)
        if stop and not last:
            raise Interrupted(f"stopped by a signal after step {done}; --resume goes on")
        if over and not last:
            self._say(
                f"stopped after step {done}: {config.patience} validations without a new least "
                "held-out loss"
            )
        return over


def _inputs(
    config: PolicyConfig,
    data: DataConfig,
    pairs: TrainingSet,
    family: Family,
    processes: Processes,
    say: Say,
) -> tuple[Inputs, dict[str, str], Sampler | None]:
    """Encode what is not cached, each process its share, and state what all of it came from."""
    dtype = torch.float32 if config.precision == "fp32" else torch.float16
    device = processes.device
    turned = (False, True)[: 1 + config.mirror]
    views = [cache.View(crop, mirrored) for crop in range(config.crops) for mirrored in turned]

    def encode(
        images: list[str], prompts: list[str]
    ) -> tuple[list[cache.Latents], tuple[cache.Rows, ...]]:
        given = (family, images, data.images, data.cache, config.resolution, dtype, device, say)
        shown = [cache.latents(*given, view) for view in views]
        return shown, cache.prompt_embeddings(family, prompts, data.cache, dtype, device, say)

    if processes.count > 1:
        mine = slice(processes.rank, None, processes.count)
        encode(pairs.images[mine], pairs.prompts[mine])
        processes.wait()
    shown, texts = encode(pairs.images, pairs.prompts)
    origin = {
        "pairs": pairs.digest,
        "images": shown[0].digest,
        "base model": family.digest(*family.components),
    }
    sampler, dropped = None, None
    if config.drop_prompts or config.sample_every:
        empty = cache.prompt_embeddings(family, [""], data.cache, dtype, device, say)
    if config.drop_prompts:
        dropped = Dropped(config.drop_prompts, config.seed, empty)
    if config.sample_every and (processes.rank == 0 or is_shared(config, processes)):
        drawn = pairs.held_out if len(pairs.held_out) else pairs.train
        prompts = list(dict.fromkeys(drawn.prompt.tolist()))[:IMAGES]
        writes = processes.rank == 0
        sampler = Sampler(family, texts, prompts, empty, config.resolution, writes=writes)
    cropped = config.crops > 1
    inputs = Inputs(family, shown, texts, device, cropped=cropped, dropped=dropped)
    return inputs, origin, sampler


def _fetcher(
    config: PolicyConfig,
    data: DataConfig,
    origin: dict[str, str],
    content: str,
    source: Pairs,
    inputs: Inputs,
    learner: Learner,
    steps: range,
    say: Say,
) -> Callable[[int], Batch]:
    """Return the function that fetches this process's share of a step's batch."""
    seed, size, n = config.seed, config.batch_size, len(source)
    share = learner.processes.share(size)
    if not config.reference_draws:

        def live(step: int) -> Batch:
            rows = rows_of_step(seed, step, size, n)[share]
            noise, times = inputs.new_draws(size, step_generator(seed, step, learner.device))
            turns = (np.arange(step * size, (step + 1) * size) // n)[share]
            return inputs.batch(source, rows, (noise[share], times[share]), turns=turns)

        return live

    shown = [content, origin["images"], origin["base model"]]
    errors = ReferenceErrors(data.cache, config, shown, source, inputs)

    def places(step: int) -> tuple[np.ndarray, np.ndarray]:
        positions = np.arange(step * size, (step + 1) * size)
        return rows_of_step(seed, step, size, n), errors.draw_of(positions)

    has_reference = config.objective != "sft"
    if has_reference and len(steps):
        every = [places(step) for step in steps]
        rows, draws = (np.concatenate(part) for part in zip(*every, strict=True))
        errors.compute(learner, rows, draws, learner.processes, say)

    def known(step: int) -> Batch:
        rows, draws = (part[share] for part in places(step))
        fixed = inputs.fixed_draws(source.vote_id[rows], draws, seed)
        reference = errors.at(rows, draws) if has_reference else None
        return inputs.batch(source, rows, fixed, reference, turns=draws)

    return known


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0


def _agreed(signals: list[int], processes: Processes, step: int, log_every: int) -> bool:
    """Whether to stop: at once when alone, at a log line when all must stop after one step."""
    if processes.count == 1:
        return bool(signals)
    if step % log_every:
        return False
    return bool(processes.gather(torch.tensor([len(signals)], device=processes.device)).any())


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
