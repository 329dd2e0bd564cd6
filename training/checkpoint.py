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
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from arena.atomic import replacing
from training import TrainingError
from training.config import FREE

KEPT = 2


class CheckpointError(TrainingError):
    """The folder holds a run that this one may not continue or replace."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stands: after `step` steps, which took `seconds` altogether."""

    step: int
    seconds: float
    tensors: Mapping[str, Tensor]


class _OnDisk(Mapping[str, Tensor]):
    """The tensors of a file, each read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self._file = safe_open(path, "pt")

    def __getitem__(self, name: str) -> Tensor:
        return self._file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file.keys())

    def __len__(self) -> int:
        return len(self._file.keys())


class RunFolder:
    """One training run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics = folder / "metrics.jsonl"
        self.policy = folder / "policy"
        self._checkpoints = folder / "checkpoints"
        self._best = self._checkpoints / "best.safetensors"
        self._identity = folder / "run.json"
        self._result = folder / "result.json"

    def claim(
        self,
        identity: dict[str, Any],
        images_digest: Callable[[int], str | None],
        *,
        resume: bool,
        overwrite: bool,
    ) -> None:
        """Take the folder for the run of this identity, by the rule at the top of this module.

        `images_digest` gives the digest of the images of the first n pairs that this run shows:
        the run that is held may have shown more or less of them. Raises CheckpointError when the
        folder holds a run, naming what differs from this one.
        """
        if not self._identity.exists() and any(self._checkpoints.glob("*")) and not overwrite:
            raise CheckpointError(
                f"{self._checkpoints} holds checkpoints, but no {self._identity} says whose: "
                "choose another --out, or give them up with --overwrite"
            )
        if overwrite and not self._identity.exists():
            self._clear()
        if self._identity.exists():
            held = json.loads(self._identity.read_text())
            differs = _differences(held, identity, images_digest)
            if not (resume and not differs):
                if not overwrite:
                    raise CheckpointError(f"{self.folder} {_refusal(held, differs, resume)}")
                self._clear()
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self._identity) as aside:
            aside.write_text(json.dumps(identity, indent=2))

    def result(self, steps: int) -> dict[str, Any] | None:
        """Return the result of a run that was finished for `steps` steps, else None."""
        if not self._result.exists():
            return None
        result = json.loads(self._result.read_text())
        stopped = result.get("stopped_early") and result["steps"] < steps
        return result if stopped or result["steps"] == steps else None

    def finish(self, result: dict[str, Any]) -> None:
        """Note that the policy is written and the run over."""
        with replacing(self._result) as aside:
            aside.write_text(json.dumps(result, indent=2))

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, whole or not at all, and drop all but the last KEPT."""
        path = self._checkpoints / f"step-{checkpoint.step:08d}.safetensors"
        state = {"step": str(checkpoint.step), "seconds": repr(checkpoint.seconds)}
        with replacing(path) as aside:
            save_file({k: v.contiguous() for k, v in checkpoint.tensors.items()}, aside, state)
        for old in self._paths()[:-KEPT]:
            old.unlink()

    def save_best(self, weights: dict[str, Tensor]) -> None:
        """Keep the weights of the least held-out loss; without any there is nothing to do."""
        if weights:
            with replacing(self._best) as aside:
                save_file({k: v.contiguous() for k, v in weights.items()}, aside)

    def best(self) -> Mapping[str, Tensor] | None:
        """Return the weights that `save_best` kept."""
        return _OnDisk(self._best) if self._best.exists() else None

    def load(self, steps: int, *, writes: bool = True) -> Checkpoint:
        """Return the last checkpoint, or one of no step. Raises CheckpointError past `steps`.

        Lines of metrics.jsonl past it are cut off, where this process `writes` them: those steps
        will be taken again.
        """
        paths = self._paths()
        if not paths:
            if writes:
                self.metrics.unlink(missing_ok=True)
            return Checkpoint(0, 0.0, {})
        with safe_open(paths[-1], "pt") as file:
            state = file.metadata()
        step = int(state["step"])
        if step > steps:
            raise CheckpointError(f"{paths[-1]} is past train.steps = {steps}")
        if writes and self.metrics.exists():
            lines = self.metrics.read_text().splitlines(keepends=True)
            kept = [
                line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step
            ]
            with replacing(self.metrics) as aside:
                aside.write_text("".join(kept))
        return Checkpoint(step, float(state["seconds"]), _OnDisk(paths[-1]))

    def _paths(self) -> list[Path]:
        return sorted(self._checkpoints.glob("step-*.safetensors"))

    def _clear(self) -> None:
        """Remove what a run writes, and nothing else that may lie in the folder."""
        for folder in (self._checkpoints, self.policy, self.folder / "samples"):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (self.metrics, self._result, self._identity):
            file.unlink(missing_ok=True)


def _differences(
    held: dict[str, Any], identity: dict[str, Any], images_digest: Callable[[int], str | None]
) -> list[str]:
    """Say in what two runs differ, the keys in FREE aside.

    A schedule that falls to 0 at the last step makes the number of steps part of every step;
    dropout, and a safeguard for each part, make the number of pairs at once part of it.
    """
    old, new = held["policy"], json.loads(json.dumps(identity["policy"]))
    of_parts = new["lora_dropout"] or (new["objective"], new["safeguard"]) == ("sdpo", "part")
    free = FREE - ({"steps"} if new["schedule"] != "constant" else set())
    free -= {"pairs_at_once"} if of_parts else set()
    differs = [f"{key} ({old.get(key)!r} there, {new.get(key)!r} here)"
               for key in sorted({*old, *new} - free) if old.get(key) != new.get(key)]  # fmt: skip
    others = [key for key in identity if key not in ("policy", "images")]
    differs += [f"the {key}" for key in others if held.get(key, "") != identity[key]]
    if not any("pairs" in each for each in differs):
        images = held.get("images", {})
        if images_digest(images.get("pairs", 0)) not in (None, images.get("digest")):
            differs.append("the images")
    return differs


def _refusal(held: dict[str, Any], differs: list[str], resume: bool) -> str:
    name = held["policy"]["name"]
    if differs:
        return (
            f"holds a run of policy {name!r} that differs in {', '.join(differs)}: "
            "choose another --out, or give that run up with --overwrite"
        )
    assert not resume
    return f"holds this run of policy {name!r} already: continue it with --resume"
