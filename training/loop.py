"""The training loop: one policy, from cached inputs to weights that diffusers loads.

A step draws B pairs, one time and one noise for each, sends winners and losers through the policy
as one batch of 2 B, the same through the reference, and takes the optimiser one step down the
objective. Nothing waits for the device between two log lines, and the next batch is on its way. One
process or several, CPU or GPU, fp32 or half precision. Who started the job and where else metrics
go is `__main__`'s.
"""

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.card import write_card
from training.checkpoint import Checkpoint, RunFolder
from training.config import DataConfig, PolicyConfig
from training.job import Job, prepare
from training.learner import Learner
from training.machine import compile_errors, forget_peak, out_of_memory, peak_memory_gib
from training.optimizer import learning_rate
from training.order import prefetched
from training.pairs import TrainingSet
from training.processes import join_processes
from training.store import Say
from training.watching import Line, Log, Patience, Watch


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
        job = prepare(config, data, pairs, RunFolder(out), processes, say)
    run = job.run
    if processes.rank == 0:
        run.claim(job.identity, job.images_digest, resume=resume, overwrite=overwrite)
    processes.wait()
    if result := run.result(config.steps):
        say(f"{out} is finished: {result['steps']} steps")
        return result
    start = run.load(config.steps, writes=processes.rank == 0)
    processes.agree(start.step, "checkpoints")

    with out_of_memory(config, "loading"):
        learner = Learner(config, job.family, processes)
    with out_of_memory(config, "training"), compile_errors(config):
        job.set_up(learner, say)
        if start.step:
            learner.load(start.tensors, start.step)
            say(f"continuing after step {start.step}")
        begun = time.monotonic() - start.seconds
        log = Log(run.metrics, config, processes, watch)
        patience = Patience(config.patience, run.metrics)
        done, validated = take_steps(job, learner, log, patience, start.step, begun, say)
        seconds = time.monotonic() - begun
        result = {
            "policy": config.name,
            "objective": config.objective,
            "adaptation": config.adaptation,
            "steps": done,
            "stopped_early": done < config.steps,
            "pairs": len(job.source),
            "held_out_pairs": len(pairs.held_out),
            "pairs_per_second": done * config.batch_size / seconds,
            "seconds": seconds,
            "peak_memory_gib": peak_memory_gib(),
            **(validated or job.validation(learner)),  # not yet where no step was left to take
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
    return result if processes.rank == 0 else (run.result(config.steps) or result)


def take_steps(
    job: Job,
    learner: Learner,
    log: Log,
    patience: Patience,
    first: int,
    begun: float,
    say: Say,
) -> tuple[int, Line]:
    """Take the steps from `first` on; return how many are done then, and the last validation.

    Raises Interrupted after the step in which a signal came, its checkpoint written.
    """
    config, run, processes = job.config, job.run, job.processes
    done, validated, stop = first, dict[str, float](), False
    left = range(first, first if patience.over else config.steps)
    say(f"{len(job.source)} examples, {config.steps} steps of {config.batch_size} on "
        f"{processes.count} x {processes.device.type}")  # fmt: skip
    with held_signals() as signals:
        for step, parts in prefetched(job.fetch, left):
            measured = learner.step(step, parts)
            done = step + 1
            last, validated = done == config.steps, {}
            log.add(done, measured, job.source.vote_id[job.rows(step)])

            if last or due(done, config.validate_every):
                log.pause()
                validated = job.validation(learner)
                if patience.improved_by(validated) and config.patience:
                    run.save_best(learner.whole_weights())
            if last or validated or due(done, config.log_every):
                log.write(learning_rate=learning_rate(config, step), validated=validated)

            stop = processes.any(bool(signals))
            over = last or stop or patience.over
            sampled = job.sampler is not None and (last or due(done, config.sample_every))
            if over or sampled or due(done, config.checkpoint_every):
                log.check()  # a poisoned state must never replace the last good one
                state = Checkpoint(done, time.monotonic() - begun, learner.tensors())
                if processes.rank == 0:
                    run.save(state)
            if sampled and not stop:
                job.sample(learner, done, say)
                log.resume()
            if over:
                break
    if stop and done < config.steps:
        raise Interrupted(f"stopped by a signal after step {done}; --resume goes on")
    if patience.over and done < config.steps:
        say(f"stopped after step {done}: {config.patience} validations without a new least "
            "held-out loss")  # fmt: skip
    return done, validated


def due(step: int, every: int) -> bool:
    """Whether something that happens `every` so many steps (0: never) happens after this one."""
    return bool(every) and step % every == 0


@contextlib.contextmanager
def held_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list, for the loop to act on between two steps."""
    received: list[int] = []
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(kind, lambda number, _: received.append(number)) for kind in kinds]
    try:
        yield received
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)
