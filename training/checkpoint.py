"""A run's folder: whose it is, its checkpoints, and when it may be continued.

`run.json` states the run's identity: the policy's configuration and the digests of pairs, images
and base model. The rule: a folder without `run.json` starts fresh; one that holds a run is left
alone unless `--resume` continues it, which needs the same identity, or `--overwrite` gives it up.
With both, an equal run is continued and any other one starts over. A checkpoint is one safetensors
file with every trained tensor and the optimiser's moments, renamed into place after it is on the
disk, so that a kill at any moment leaves the last one whole. No random state is in it: the loop
draws every number from (seed, step).
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from training import TrainingError
from training.cache import write_atomically

KEPT = 2
# These may change between the parts of one run: they do not change what a step does (`compile`:
# but for rounding, and a machine that cannot compile must not cost a run).
FREE = (
    "steps",
    "checkpoint_every",
    "log_every",
    "sample_every",
    "compile",
    "shard",
)  # steps: see _differences


class CheckpointError(TrainingError):
    """The folder holds a run that this one may not continue or replace."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stands: after `step` steps, which took `seconds` altogether."""

    step: int
    seconds: float
    tensors: dict[str, Tensor]


class RunFolder:
    """One training run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics = folder / "metrics.jsonl"
        self.policy = folder / "policy"
        self._checkpoints = folder / "checkpoints"
        self._identity = folder / "run.json"
        self._result = folder / "result.json"

    def claim(self, identity: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
        """Take the folder for the run of this identity, by the rule at the top of this module.

        Raises CheckpointError when the folder holds a run, naming what differs from this one.
        """
        if self._identity.exists():
            held = json.loads(self._identity.read_text())
            differs = _differences(held, identity)
            if not (resume and not differs):
                if not overwrite:
                    raise CheckpointError(f"{self.folder} {_refusal(held, differs, resume)}")
                self._clear()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._identity, json.dumps(identity, indent=2).encode())

    def result(self, steps: int) -> dict[str, Any] | None:
        """Return the result of a run that was finished for `steps` steps, else None."""
        if not self._result.exists():
            return None
        result = json.loads(self._result.read_text())
        stopped = result.get("stopped_early") and result["steps"] < steps
        return result if stopped or result["steps"] == steps else None

    def finish(self, result: dict[str, Any]) -> None:
        """Note that the policy is written and the run over."""
        write_atomically(self._result, json.dumps(result, indent=2).encode())

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, whole or not at all, and drop all but the last KEPT."""
        self._checkpoints.mkdir(exist_ok=True)
        path = self._checkpoints / f"step-{checkpoint.step:08d}.safetensors"
        aside = path.with_suffix(".partial")
        state = {"step": str(checkpoint.step), "seconds": repr(checkpoint.seconds)}
        try:
            save_file({k: v.contiguous() for k, v in checkpoint.tensors.items()}, aside, state)
        except BaseException:
            aside.unlink(missing_ok=True)  # on a full disk its room is what is needed
            raise
        for target in (aside, self._checkpoints):
            handle = os.open(target, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
            if target is aside:
                aside.replace(path)
        for old in self._paths()[:-KEPT]:
            old.unlink()

    def load(self, steps: int, *, writes: bool = True) -> Checkpoint | None:
        """Return the last checkpoint or None. Raises CheckpointError when it is past `steps`.

        Lines of metrics.jsonl past it are cut off, where this process `writes` them: those steps
        will be taken again.
        """
        paths = self._paths()
        if not paths:
            if writes:
                self.metrics.unlink(missing_ok=True)
            return None
        with safe_open(paths[-1], "pt") as file:
            state = file.metadata()
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
        step = int(state["step"])
        if step > steps:
            raise CheckpointError(f"{paths[-1]} is past train.steps = {steps}")
        if writes and self.metrics.exists():
            lines = self.metrics.read_text().splitlines(keepends=True)
            kept = [
                line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step
            ]
            write_atomically(self.metrics, "".join(kept).encode())
        return Checkpoint(step, float(state["seconds"]), tensors)

    def _paths(self) -> list[Path]:
        return sorted(self._checkpoints.glob("step-*.safetensors"))

    def _clear(self) -> None:
        """Remove what a run writes, and nothing else that may lie in the folder."""
        for folder in (self._checkpoints, self.policy):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (self.metrics, self._result, self._identity):
            file.unlink(missing_ok=True)


def _differences(held: dict[str, Any], identity: dict[str, Any]) -> list[str]:
    """Say in what two runs differ, the keys in FREE aside.

    A schedule that falls to 0 at the last step makes the number of steps part of every step.
    """
    differs = []
    old, new = held["policy"], json.loads(json.dumps(identity["policy"]))
    free = {*FREE} - ({"steps"} if new.get("schedule") != "constant" else set())
    for key in sorted({*old, *new} - free):
        if old.get(key) != new.get(key):
            differs.append(f"{key} ({old.get(key)!r} there, {new.get(key)!r} here)")
    others = [key for key in identity if key != "policy" and held.get(key) != identity[key]]
    return differs + [f"the {key}" for key in others]


def _refusal(held: dict[str, Any], differs: list[str], resume: bool) -> str:
    name = held["policy"]["name"]
    if differs:
        return (
            f"holds a run of policy {name!r} that differs in {', '.join(differs)}: "
            "choose another --out, or give that run up with --overwrite"
        )
    assert not resume
    return f"holds this run of policy {name!r} already: continue it with --resume"
