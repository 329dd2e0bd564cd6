"""What a run shows of itself: metrics.jsonl, the check that it is sane, validation, when to stop.

The device is asked for numbers once a line, never in a step.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training import TrainingError
from training.batches import Inputs, step_generator
from training.config import PolicyConfig
from training.learner import Learner
from training.memory import peak_memory
from training.objective import implicit_accuracy
from training.pairs import Pairs
from training.processes import Processes

HELD_OUT_PAIRS = 512  # enough for a standard error of 2 points of accuracy
HELD_OUT_DRAWS = 4  # times and noises a held-out pair is judged by
QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9}

Line = dict[str, float]
Watch = Callable[[Line], None]


class Diverged(TrainingError):
    """The loss is no longer a finite number; the message names the step and its votes."""


class Log:
    """metrics.jsonl: means over the steps since the last line, and quantiles over their pairs."""

    def __init__(
        self, path: Path, config: PolicyConfig, processes: Processes, watch: Watch
    ) -> None:
        self._path, self._config, self._processes, self._watch = path, config, processes, watch
        self._window: list[tuple[int, dict[str, Tensor], np.ndarray]] = []
        self._begun = time.monotonic()
        self._ended: float | None = None

    def add(self, step: int, measured: dict[str, Tensor], vote_ids: np.ndarray) -> None:
        """Note a step's measures, per pair or for the step, without waiting for them.

        `vote_ids` are the whole batch's, of which this process has its share.
        """
        self._window.append((step, measured, vote_ids))

    def check(self) -> None:
        """Raise Diverged for the first step of the window whose loss or gradient is not finite."""
        if not self._window:
            return
        loss = torch.stack([m["loss"].mean() for _, m, _ in self._window])
        if self._config.precision != "fp16":  # there a gradient may overflow: that step is skipped
            loss = loss + torch.stack([m["grad_norm"] for _, m, _ in self._window])
        self._processes.average([loss])
        broken = (~loss.isfinite()).nonzero().flatten().tolist()
        if broken:
            step, measured, vote_ids = self._window[broken[0]]
            losses = self._processes.gather(measured["loss"])
            at_fault = vote_ids[(~losses.isfinite()).cpu().numpy()]
            which = at_fault if len(at_fault) else vote_ids
            raise Diverged(
                f"the loss of step {step} is not a finite number, for votes {', '.join(which[:8])}"
                f"{', ...' if len(which) > 8 else ''}; the last checkpoint is intact: resume from "
                "it with a lower train.learning_rate in a new --out, or look at those images"
            )

    def pause(self) -> None:
        """End the window's time here: what follows until its line is written is no training."""
        self.check()
        self._ended = time.monotonic()

    def write(self, *, learning_rate: float, validated: Line | None = None) -> None:
        """Write one line, with what a validation found, and hand it to `watch`."""
        self.check()
        names = list(self._window[0][1])
        sums = [torch.stack([m[name].mean() for _, m, _ in self._window]) for name in names]
        values = torch.stack([of.nanmean() for of in sums])
        if "grad_norm" in names:
            norms = sums[names.index("grad_norm")]
            finite = norms.isfinite()
            values[names.index("grad_norm")] = norms.where(finite, 0).sum() / finite.sum().clamp(1)
        self._processes.average([values])
        line = dict(zip(names, values.tolist(), strict=True))
        # In one order on all processes, which a set has not: each gather meets its like.
        for name in [each for each in ("inside", "margin") if each in names]:
            pairs = self._processes.gather(torch.cat([m[name] for _, m, _ in self._window])).float()
            at = torch.tensor(list(QUANTILES.values()), device=pairs.device)
            found = torch.quantile(pairs, at).tolist()
            line |= {f"{name}_{q}": value for q, value in zip(QUANTILES, found, strict=True)}
        ended = self._ended or time.monotonic()
        step, each = self._window[-1][0], (ended - self._begun) / len(self._window)
        line = {"step": step, **line, "learning_rate": learning_rate}
        line |= {
            "pairs_per_second": self._config.batch_size / each,
            "seconds_left": (self._config.steps - step) * each,
            "peak_memory_gib": peak_memory() / 2**30,
            **(validated or {}),
        }
        self._window.clear()
        self._begun, self._ended = time.monotonic(), None
        if self._processes.rank == 0:
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            self._watch(line)

    @staticmethod
    def summary(path: Path) -> Line:
        """Loss and implicit accuracy over the last tenth of the run."""
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lines = lines[-max(1, len(lines) // 10) :]
        keys = [key for key in ("loss", "implicit_accuracy") if key in lines[0]]
        return {key: float(np.mean([line[key] for line in lines])) for key in keys}


class Patience:
    """Says when to stop: after `limit` validations in a row without a new least held-out loss."""

    def __init__(self, limit: int, metrics: Path) -> None:
        self._limit, self._least, self._since = limit, float("inf"), 0
        self.over = False
        if metrics.exists():  # a run that is continued has waited already
            for line in map(json.loads, metrics.read_text().splitlines()):
                if "held_out_loss" in line:
                    self.is_over(line["held_out_loss"])

    def is_over(self, loss: float) -> bool:
        """Take in a held-out loss; return whether to stop."""
        self._since = 0 if loss < self._least else self._since + 1
        self._least = min(self._least, loss)
        self.over = bool(self._limit) and self._since >= self._limit
        return self.over


def validate(learner: Learner, inputs: Inputs, pairs: Pairs) -> Line:
    """Judge the policy by held-out pairs: accuracy, loss, and each side's error above reference's.

    A pair's values are averaged over HELD_OUT_DRAWS times and noises, which are the same for every
    policy and seed, so two policies differ by their weights alone. Accuracy is the share of pairs
    whose winner the implicit reward prefers, by that average. Processes share the pairs.
    """
    n, processes = len(pairs), learner.processes
    rows = np.unique(np.linspace(0, n - 1, min(n, HELD_OUT_PAIRS)).round().astype(np.int64))
    totals = torch.zeros(4, len(rows), device=processes.device)
    with learner.averaged():
        for draw in range(HELD_OUT_DRAWS):
            generator = step_generator(-1, draw, processes.device)
            noise, times = inputs.new_draws(len(rows), generator)
            for part in processes.turns(len(rows), learner.part):
                shown = part if len(part) else np.zeros(1, dtype=np.int64)  # with the others
                batch = inputs.batch(pairs, rows[shown], (noise[shown], times[shown]))
                found = learner.evaluate(batch)
                for i, name in enumerate(("inside", "loss", "winner_error", "loser_error")):
                    totals[i, part] += found[name][: len(part)] / HELD_OUT_DRAWS
    processes.average([totals])
    totals = totals * processes.count  # each pair is one process's; the others hold zero
    inside, loss, winner, loser = totals
    means = (implicit_accuracy(inside).mean(), loss.mean(), winner.mean(), loser.mean())
    names = ("accuracy", "loss", "winner_error", "loser_error")
    return {f"held_out_{n}": value.item() for n, value in zip(names, means, strict=True)}
