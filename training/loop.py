"""The training loop: one policy, from cached inputs to weights that diffusers loads.

A step draws B pairs, one time and one noise for each, sends winners and losers through the policy
as one batch of 2 B, the same through the reference, and takes the optimiser one step down the
objective. Nothing waits for the device between two log lines, and the next batch is on its way. One
process or several, CPU or GPU, fp32 or half precision. Who started the job and where else metrics
go is `__main__`'s.
"""

import contextlib
import dataclasses
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.card import write_card
from training.checkpoint import Checkpoint, RunFolder
from training.compiling import compile_errors, refuse_on_cpu
from training.config import DataConfig, PolicyConfig
from training.encoding import Source
from training.families import Family, open_family
from training.inputs import Inputs, prefetched, rows_of_step, rows_used, step_generator, views_of
from training.learner import Batch, Learner
from training.memory import forget_peak, out_of_memory, peak_memory
from training.model import DTYPES
from training.objective import PREFERENCE, beta_for_gradient
from training.optimizer import learning_rate, require_libraries
from training.pairs import Pairs, TrainingSet
from training.processes import Processes, join_processes
from training.reference import ReferenceErrors
from training.samples import IMAGES, Sampler, write_images
from training.sharding import kept_here, refuse_what_cannot_be_shared
from training.watching import HELD_OUT_DRAWS, HELD_OUT_SEED, Log, Patience, Validation, Watch

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
    processes = join_processes(config.batch_size)
    forget_peak()
    if processes.rank:
        say = lambda text: None  # noqa: E731
    with out_of_memory(config, "encoding"):
        job = _prepare(config, data, pairs, RunFolder(out), processes, say)
    run, steps = job.run, config.steps
    if processes.rank == 0:
        run.claim(job.identity, job.images_digest, resume=resume, overwrite=overwrite)
    processes.wait()
    if result := run.result(steps):
        say(f"{out} is finished: {result['steps']} steps")
        return result
    checkpoint = run.load(steps, writes=processes.rank == 0)
    first = checkpoint.step if checkpoint else 0
    processes.agree(first, "checkpoints")

    with out_of_memory(config, "loading"):
        learner = Learner(config, job.family, processes)
    with out_of_memory(config, "training"), compile_errors(config):
        job.set_up(learner, say)
        if checkpoint:
            learner.load(checkpoint.tensors, first)
            say(f"continuing after step {first}")
        log = Log(run.metrics, config, processes, watch)
        patience = Patience(config.patience, run.metrics)
        begun = time.monotonic() - (checkpoint.seconds if checkpoint else 0.0)
        done, validated = first, dict[str, float]()
        say(
            f"{len(job.source)} examples, {steps} steps of {config.batch_size} on "
            f"{processes.count} x {processes.device.type}"
        )
        with _held_signals() as signals:
            left = range(first, first if patience.over else steps)
            for step, parts in prefetched(job.fetch, left):
                measured = learner.step(step, parts)
                done = step + 1
                log.add(done, measured, job.source.vote_id[job.rows(step)])
                last, validated = done == steps, {}

                if last or _due(done, config.validate_every):
                    log.pause()
                    validated = job.validation(learner)
                    if patience.improved_by(validated) and config.patience:
                        run.save_best(learner.whole_weights())
                if last or validated or _due(done, config.log_every):
                    log.write(learning_rate=learning_rate(config, step), validated=validated)

                stop = processes.any(bool(signals))
                sampled = job.sampler is not None and (last or _due(done, config.sample_every))
                over = last or stop or patience.over
                if over or sampled or _due(done, config.checkpoint_every):
                    log.check()  # a poisoned state must never replace the last good one
                    state = Checkpoint(done, time.monotonic() - begun, learner.tensors())
                    if processes.rank == 0:
                        run.save(state)
                if sampled and not stop:
                    job.sample(learner, done, say)
                    log.resume()

                if stop and not last:
                    raise Interrupted(f"stopped by a signal after step {done}; --resume goes on")
                if patience.over and not last:
                    say(f"stopped after step {done}: {config.patience} validations without a new "
                        "least held-out loss")  # fmt: skip
                    break
        seconds = time.monotonic() - begun
        validated = validated or job.validation(learner)  # not yet where no step was left to take
        result = {
            "policy": config.name,
            "objective": config.objective,
            "adaptation": config.adaptation,
            "steps": done,
            "stopped_early": done < steps,
            "pairs": len(job.source),
            "held_out_pairs": len(pairs.held_out),
            "pairs_per_second": done * config.batch_size / seconds,
            "seconds": seconds,
            "peak_memory_gib": peak_memory() / 2**30,
            **validated,
        }
        best = run.best() if config.patience else None
        if best:
            learner.model.load_weights(best)
            result |= patience.best
        with contextlib.nullcontext() if best else learner.model.averaged():
            result["data_version"] = learner.model.save(run.policy, job.origin)
    if processes.rank == 0:
        result |= log.summary(run.metrics)
        write_card(run.policy, config, job.family, job.origin, result)
        run.finish(result)
    processes.wait()
    return result if processes.rank == 0 else (run.result(steps) or result)


@dataclass
class _Job:
    """What a run works with, made before its first step."""

    config: PolicyConfig
    data: DataConfig
    run: RunFolder
    family: Family
    processes: Processes
    inputs: Inputs
    source: Pairs
    validation: Validation
    origin: dict[str, Any]
    identity: dict[str, Any]
    sampler: Sampler | None
    known: ReferenceErrors | None = None

    def rows(self, step: int) -> np.ndarray:
        """Rows (batch_size,) of the whole batch of a step."""
        return rows_of_step(self.config.seed, step, self.config.batch_size, len(self.source))

    def images_digest(self, count: int) -> str | None:
        """Digest of the images of the first `count` pairs that the run shows, if it shows them."""
        used = _used(self.config, self.source)
        return self.inputs.images_digest(self.source, used[:count]) if count <= len(used) else None

    def set_up(self, learner: Learner, say: Say) -> None:
        """Do what the policy must not have learnt for: the reference's errors, beta_dpo."""
        config, data = self.config, self.data
        if learner.model.shared:
            mine, every = kept_here(learner.model.policy.parameters())
            say(f"{mine:,} of {every:,} weights are kept by this process, the others by the others")
        if config.beta_gradient and (loss_of := PREFERENCE.get(config.objective)):
            asked = learner.asked(*learner.as_tensors(self.source.gap, self.source.probability))
            learner.beta_dpo = beta_for_gradient(loss_of, asked, config.beta_gradient)
            say(f"beta_dpo is {learner.beta_dpo:.4g}")
        if not config.reference_draws and config.objective != "sft":
            return
        decided_by = [self.origin["base model"], self.origin["pairs content"], config.adapter]
        decided_by += [config.resolution, config.buckets, config.precision, config.quantization]
        place = (data.cache, [*decided_by, config.mirror, config.crops])
        if config.objective != "sft":
            self.known = ReferenceErrors(
                *place, self.source, self.inputs,
                draws=config.reference_draws, views=len(views_of(config)), seed=config.seed,
            )  # fmt: skip
            positions = np.arange(config.steps * config.batch_size)
            rows = np.concatenate([self.rows(step) for step in range(config.steps)])
            turns = self.inputs.turns(self.source, rows, positions // len(self.source))
            self.known.compute(learner, rows, turns, say)
        held_out = self.validation.pairs
        if len(held_out):
            errors = ReferenceErrors(
                *place, held_out, self.inputs, draws=HELD_OUT_DRAWS, views=1, seed=HELD_OUT_SEED
            )
            errors.compute(learner, *self.validation.all_turns(), say)
            self.validation.errors = errors

    def fetch(self, step: int) -> list[Batch]:
        """Return this process's share of a step's batch, in parts."""
        config, inputs, source = self.config, self.inputs, self.source
        share, size = self.processes.share(config.batch_size), config.batch_size
        rows = self.rows(step)
        times = np.arange(step * size, (step + 1) * size) // len(source)
        turns = inputs.turns(source, rows[share], times[share])
        known = None
        if config.reference_draws:
            draws = inputs.fixed_draws(source, rows[share], turns.draw, config.seed)
            known = self.known.at(rows[share], turns) if self.known else None
        else:
            generator = step_generator(config.seed, step, self.processes.device)
            noise, drawn = inputs.new_draws(source, rows, generator)
            draws = (noise[share], drawn[share])
        parts = inputs.parts(source, rows[share], draws, turns, known)
        return [part for _, part in parts]

    def sample(self, learner: Learner, step: int, say: Say) -> None:
        """Draw and write sample images; what goes wrong with them is said and stops nothing."""
        assert self.sampler is not None
        try:
            with learner.model.averaged():
                images = self.sampler.draw(learner.model.policy)
            if self.processes.rank == 0:
                write_images(images, self.run.folder / "samples", step)
        except Exception as error:
            if learner.model.shared:
                raise  # the other processes would wait for this one's weights for ever
            first = (str(error).splitlines() or [""])[0]
            say(f"no samples at step {step}: {type(error).__name__}: {first}")


def _prepare(
    config: PolicyConfig,
    data: DataConfig,
    pairs: TrainingSet,
    run: RunFolder,
    processes: Processes,
    say: Say,
) -> _Job:
    """Check what can be checked, encode what is not cached, each process its share."""
    refuse_on_cpu(config, processes.device.type)
    refuse_what_cannot_be_shared(config, processes)
    require_libraries(config)
    family = open_family(
        config.base, revision=config.revision or None, memo=data.cache / "digests" / "files"
    )
    family.check_resolution(config.resolution)
    train, held_out = pairs.train, pairs.held_out
    if config.soft_label == "counts":
        train, held_out = train.labelled_by_counts(), held_out.labelled_by_counts()
    if config.objective == "cdpo":
        train.require_probabilities()
        held_out.require_probabilities()
    if spread := config.margin_spread:
        train, held_out = (each.spread_gaps(spread, like=train) for each in (train, held_out))
    if config.objective == "sft":
        train = train.unique_winners()
    if config.shuffle_gaps:
        train = train.shuffled_gaps(config.seed)
    half = DTYPES[config.precision] != torch.float32
    source = Source(
        *(family, data.images, data.cache, processes, say),
        latent_dtype=torch.float16 if half else torch.float32,
        text_dtype=DTYPES[config.precision],  # a language model's may be too large for fp16
        offload=config.offload_encoders,
    )
    validation = Validation(held_out)
    used = _used(config, train)
    shown = [(train, used), (held_out, validation.rows)]
    inputs = validation.inputs = Inputs(config, source, pairs.images, pairs.prompts, shown)
    origin = {
        "pairs": pairs.digest,
        "pairs content": pairs.content,
        "images": {"pairs": len(used), "digest": inputs.images_digest(train, used)},
        "base model": family.digest(*family.components),
    }
    identity = {"policy": dataclasses.asdict(config), **origin}
    sampler = None
    if config.sample_every and (processes.rank == 0 or config.shard):
        drawn, rows = shown[1] if len(held_out) else shown[0]
        prompts = list(dict.fromkeys(drawn.prompt[rows].tolist()))[:IMAGES]
        texts, unprompted = inputs.texts(prompts), inputs.unprompted_texts()
        shape = (config.resolution, config.resolution)
        sampler = Sampler(family, texts, unprompted, data.generation, shape)
    return _Job(config, data, run, family, processes, inputs, train, validation, origin, identity,
                sampler)  # fmt: skip


def _used(config: PolicyConfig, train: Pairs) -> np.ndarray:
    return rows_used(config.seed, config.steps, config.batch_size, len(train))


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0


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
