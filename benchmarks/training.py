"""Our training step beside the plain one of the public Diffusion-DPO scripts and diffusers' own.

    python benchmarks/training.py [--steps 5] [--batch-size 4] [--adaptation lora|full] [--width 4]
    python benchmarks/training.py --sweep
    python benchmarks/training.py --study

`plain` is the step of the public scripts: it encodes both images and the caption at every step and
holds a second UNet. `script` is diffusers' Diffusion-DPO LoRA script's: the same, but the reference
is the UNet with its adapters off. `ours` reads cached latents and embeddings and switches the
adapter off; `known` also has the reference's errors from the cache. All get one model of Stable
Diffusion 1.5's shape with its widths divided by `--width` (random weights serve), the same pairs,
batch, precision (fp32), optimiser and device, each in a process of its own. After one step that
warms up they take turns, a step each, so what else the machine does meets all of them alike; all
are in memory at once, which `--kinds` makes less. Printed: pairs a second (from the median step; of
processor time where there is no GPU), peak memory beyond the libraries' own, the ratio to `plain`
in the same turn (median, least and most), and which share of a step goes where. `--sweep` does so
at several batch sizes and resolutions. `--study` times four whole policies with the
reference cache against four without. How good a policy becomes is not measured here:
tests/training shows that our step equals a plain one.
"""

import argparse
import contextlib
import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path[0] = str(Path(__file__).parents[1])  # else this file would hide the package `training`

from benchmarks.random_world import build  # noqa: E402

KINDS = ("plain", "script", "ours", "known")
SWEEP = ((1, 64), (2, 64), (4, 64), (8, 64), (2, 128), (2, 256))  # pairs and pixels


class Phases:
    """Seconds that each phase of a step takes; what none takes is `host`."""

    def __init__(self, device: Any) -> None:
        # On a processor its own time is taken, so what else runs on the machine does not count.
        self._cuda = device.type == "cuda"
        self._clock = time.perf_counter if self._cuda else time.process_time
        self.spent: dict[str, float] = {}  # in the step under way

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count what happens within as `name`."""
        begun = self.now()
        yield
        self.spent[name] = self.spent.get(name, 0.0) + self.now() - begun

    def now(self) -> float:
        """The clock, once the device has come this far."""
        if self._cuda:
            import torch

            torch.cuda.synchronize()
        return self._clock()

    def around(self, owner: Any, method: str, name: Callable[..., str]) -> None:
        """Count every call of a method as the phase that `name` makes of its arguments."""
        called = getattr(owner, method)

        def timed(*arguments: Any, **keywords: Any) -> Any:
            with self(name(*arguments, **keywords)):
                return called(*arguments, **keywords)

        setattr(owner, method, timed)


def main() -> None:
    """Build the model and the pairs, time each step in its own process, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=4, help="pairs")
    parser.add_argument("--adaptation", choices=("lora", "full"), default="lora")
    parser.add_argument("--width", type=int, default=4, help="SD 1.5's widths are divided by it")
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="besides plain")
    parser.add_argument("--sweep", action="store_true", help="cost over batches and resolutions")
    parser.add_argument("--study", action="store_true", help="four policies, reference cached")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    # A step is timed on pairs of its own; a study takes each of its pairs three times.
    options.pairs = 64 if options.study else options.batch_size * (options.steps + 1)
    if options.only == "build":
        build(options.folder, options)
        print("{}")
        return
    if options.only:
        if options.study:
            print(json.dumps(study(options)))
        else:
            measure(options)
        return
    if options.study:
        with tempfile.TemporaryDirectory() as folder:
            for which in ("build", "encode"):
                alone(folder, which)
            live, known = (alone(folder, which)["seconds"] for which in ("live", "known"))
        print(f"four policies: {live:.1f} s live, {known:.1f} s known, {known / live:.2f}x")
        return
    kinds = [kind for kind in KINDS if kind == "plain" or kind in options.kinds]
    if options.adaptation == "full" and "script" in kinds:
        kinds.remove("script")  # it trains a LoRA alone
    for batch, resolution in (
        SWEEP if options.sweep else ((options.batch_size, options.resolution),)
    ):
        print(f"{batch} pairs a step at {resolution} px")
        geometry = ("--batch-size", str(batch), "--resolution", str(resolution))
        show(in_turns(kinds, options.steps, batch, *geometry))


def command(folder: str, which: str, *geometry: str) -> list[str]:
    """Return the command of one kind's own process."""
    return [sys.executable, *sys.argv, *geometry, "--only", which, "--folder", folder]


def alone(folder: str, which: str, *geometry: str) -> dict[str, Any]:
    """Run one kind's process to its end and return what it printed last."""
    asked = command(folder, which, *geometry)
    done = subprocess.run(asked, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def in_turns(kinds: list[str], steps: int, batch_size: int, *geometry: str) -> dict[str, Any]:
    """Measure each kind in a process of its own, over one model and one set of pairs.

    A process counts the peak of the one that started it as its own, so that one does nothing.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as processes:
        for once in ("build", "encode"):  # what is done before the first run
            alone(folder, once, *geometry)
        running = {}
        for which in kinds:
            process = subprocess.Popen(
                command(folder, which, *geometry),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            running[which] = processes.enter_context(process)
            answer(process)  # it has warmed up
        turns = [{which: answer(running[which], "step") for which in kinds} for _ in range(steps)]
        memory = {which: answer(running[which], "end")["memory"] for which in kinds}
    found = {}
    for which in kinds:
        own = sorted((turn[which] for turn in turns), key=lambda step: step["seconds"])
        median = own[(len(own) - 1) // 2]
        speeds = [turn["plain"]["seconds"] / turn[which]["seconds"] for turn in turns]
        found[which] = {
            **median,
            "rate": batch_size / median["seconds"],
            "speed": (statistics.median(speeds), min(speeds), max(speeds)),
            "memory": memory[which],
        }
    return found


def answer(process: "subprocess.Popen[str]", ask: str | None = None) -> dict[str, Any]:
    """Ask a kind's process for a step, or its end, and return its next line of JSON."""
    assert process.stdin is not None
    assert process.stdout is not None
    if ask:
        process.stdin.write(ask + "\n")
        process.stdin.flush()
    for line in process.stdout:
        if line.startswith("{"):  # libraries print as well
            return json.loads(line)
    raise SystemExit("a process ended before it was measured: see its message above")


def show(found: dict[str, Any]) -> None:
    """Print what was measured, beside `plain`, and where the time of each step goes."""
    head = ("pairs/s", "ms a step", "peak MiB", "memory", "speed", "least", "most")
    print(f"{'':11}" + "".join(f"{name:>11}" for name in head))
    for which, row in found.items():
        memory = row["memory"] / found["plain"]["memory"]
        print(
            f"{which:11}{row['rate']:11.3f}{1000 * row['seconds']:11.0f}{row['memory']:11.0f}"
            f"{memory:10.2f}x" + "".join(f"{speed:10.2f}x" for speed in row["speed"])
        )
    phases = list(dict.fromkeys(name for row in found.values() for name in row["phases"]))
    print("".join(f"{name:>11}" for name in ("share of ms", *phases)))
    for which, row in found.items():
        spent = (row["phases"].get(name, 0.0) / row["seconds"] for name in phases)
        print(f"{which:11}" + "".join(f"{share:11.1%}" for share in spent))


def measure(options: argparse.Namespace) -> None:
    """Take one kind's steps in this process, one for each line read, and print what each took.

    What is computed once is not in the time. The first step warms up unasked; a line
    `end` after the last asks for the peak of memory.
    """
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel  # noqa: F401
    from peft import LoraConfig  # noqa: F401
    from transformers import CLIPTextModel  # noqa: F401

    from benchmarks.plain_step import plain_step
    from training.order import rows_of_step
    from training.study_file import policy_config

    libraries = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    config = policy_config(options.folder / "study.toml", "arenapo")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    phases = Phases(device)
    phases.around(torch.Tensor, "backward", lambda *_, **__: "backward")
    if options.only in ("plain", "script"):
        step = plain_step(options.folder, config, device, phases, copy_unet=options.only == "plain")
    else:
        step = our_step(options.folder, config, device, phases, known=options.only == "known")
    if options.only == "encode":
        print("{}")
        return
    for i in range(options.steps + 1):
        if i > 0:
            sys.stdin.readline()
        begun = phases.now()
        phases.spent = {}
        step(i, rows_of_step(0, i, config.batch_size, options.pairs))
        seconds = phases.now() - begun
        phases.spent["host"] = seconds - sum(phases.spent.values())
        print(json.dumps({"seconds": seconds, "phases": phases.spent}), flush=True)
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - libraries) / 1024
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated() / 2**20
    sys.stdin.readline()
    print(json.dumps({"memory": memory}), flush=True)


def study(options: argparse.Namespace) -> dict[str, float]:
    """Train four policies for three epochs, each from start to saved, and time all of it."""
    import torch

    from training.loop import train
    from training.pairs import open_pairs
    from training.study_file import data_config, policy_config, read_study

    file = options.folder / "study.toml"
    draws = 1 if options.only == "known" else 0
    steps = 1 if options.only == "encode" else 3 * options.pairs // options.batch_size
    overrides = [f"train.reference_draws={draws}", f"train.steps={steps}"]
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    begun = clock()
    for objective in ("dpo", "fixed_margin", "arenapo", "cdpo"):
        config = policy_config(file, "arenapo", overrides)
        config = dataclasses.replace(config, objective=objective)
        data = data_config(read_study(file))
        out = options.folder / options.only / objective
        train(config, data, open_pairs(data.pairs), out)
    return {"seconds": clock() - begun}


def our_step(
    folder: Path, config: Any, device: Any, phases: Phases, *, known: bool
) -> Callable[..., None]:
    """The step of training/loop.py, over inputs that an earlier process has cached."""
    import torch

    from training.encoding import Source
    from training.families import open_family
    from training.inputs import Inputs
    from training.learner import Learner
    from training.order import Turns, step_generator
    from training.pairs import open_pairs
    from training.processes import Processes

    config = dataclasses.replace(config, pairs_at_once=config.batch_size)
    processes, whole = Processes(0, 1, device), open_pairs(folder / "pairs.parquet")
    pairs = whole.train
    family = open_family(config.base)
    source = Source(family, folder / "images.parquet", folder / "cache", processes, print)
    used = [(pairs, np.arange(len(pairs)))]
    inputs = Inputs(config, source, whole.images, whole.prompts, used)
    learner = Learner(config, family, processes)
    phases.around(
        learner, "_residual", lambda _, model=None: "policy" if model is None else "reference"
    )
    phases.around(learner.optimizer, "step", lambda *_, **__: "optimiser")
    reference = torch.ones(len(pairs), 2)  # any numbers: what is timed is reading them

    def step(i: int, rows: np.ndarray) -> None:
        draws = inputs.new_draws(pairs, rows, step_generator(0, i, device))
        known_errors = reference[rows] if known else None
        parts = inputs.parts(pairs, rows, draws, Turns.plain(0 * rows), known_errors)
        learner.step(i, [part for _, part in parts])

    return step


if __name__ == "__main__":
    main()
