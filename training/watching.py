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
from training.config import PolicyConfig
from training.inputs import Inputs
from training.learner import Learner
from training.machine import peak_memory_gib
from training.objective import implicit_accuracy
from training.order import Turns
from training.pairs import Pairs
from training.processes import Processes
from training.reference import ReferenceErrors

HELD_OUT_PAIRS = 512  # enough for a standard error of 2 points of accuracy
HELD_OUT_DRAWS = 4  # times and noises a held-out pair is judged by
HELD_OUT_SEED = -1  # of no run
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
                f"{', ...' if len(which) > 8 else ''}; the last checkpoint is intact: start again "
                "in a new --out with a lower train.learning_rate, or look at those images"
            )
        self._refuse_ruin()

    def _refuse_ruin(self) -> None:
        """Raise Diverged where the policy is further from the reference than from nothing."""
        if "drift" not in self._window[0][1]:
            return
        both = [torch.stack([m[name].mean() for _, m, _ in self._window]).mean()
                for name in ("drift", "target")]  # fmt: skip
        self._processes.average(both)
        drift, target = (value.item() for value in both)
        if drift > target:
            raise Diverged(
                f"the policy is ruined by step {self._window[-1][0]}: it differs from its "
                f"reference by {drift:.3g} in the mean square, more than the target itself varies "
                f"({target:.3g}); start again in a new --out with a lower train.learning_rate or "
                "a higher train.beta_dpo"
            )

    def pause(self) -> None:
        """End the window's time here: what follows until its line is written is no training."""
        self.check()
        self._ended = time.monotonic()

    def resume(self) -> None:
        """Begin the next line's time here: what came since the last one was no training."""
        self._begun = time.monotonic()

    def write(self, *, learning_rate: float, validated: Line | None = None) -> None:
        """Write one line, with what a validation found, and hand it to `watch`."""
        self.check()
        names = [name for name in self._window[0][1] if name != "target"]
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
            "peak_memory_gib": peak_memory_gib(),
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
        self.best: Line = {}
        """What the validation of the least held-out loss found."""
        if metrics.exists():  # a run that is continued has waited already
            for line in map(json.loads, metrics.read_text().splitlines()):
                self.improved_by({k: v for k, v in line.items() if k.startswith("held_out_")})

    def improved_by(self, validated: Line) -> bool:
        """Take in what a validation found; return whether its loss is a new least one."""
        if "held_out_loss" not in validated:
            return False
        loss = validated["held_out_loss"]
        better = loss < self._least
        self._since = 0 if better else self._since + 1
        if better:
            self._least, self.best = loss, validated
        self.over = bool(self._limit) and self._since >= self._limit
        return better


class Validation:
    """Judges the policy by held-out pairs, from the same times and noises for every policy."""

    def __init__(self, pairs: Pairs, inputs: Inputs) -> None:
        self.pairs, self.rows, self._inputs = pairs, held_out_rows(pairs), inputs
        self.errors: ReferenceErrors | None = None
        """The reference's, where they are known beforehand."""

    def all_turns(self) -> tuple[np.ndarray, Turns]:
        """Return each held-out pair's row and turn, HELD_OUT_DRAWS times."""
        rows = np.tile(self.rows, HELD_OUT_DRAWS)
        draws = np.repeat(np.arange(HELD_OUT_DRAWS), len(self.rows))
        return rows, Turns.plain(draws)

    def __call__(self, learner: Learner) -> Line:
        """Return accuracy, loss, and each side's error above the reference's; {} without pairs.

        A pair's values are averaged over HELD_OUT_DRAWS times and noises, which are a function of
        the vote, so two policies differ by their weights alone. Accuracy is the share of pairs
        whose winner the implicit reward prefers, by that average. Processes share the pairs.
        """
        rows, processes = self.rows, learner.processes
        if not len(rows):
            return {}
        names = ("inside", "loss", "winner_error", "loser_error", "drift", "target")
        totals = torch.zeros(len(names), len(rows), device=processes.device)
        with learner.model.averaged():
            for draw in range(HELD_OUT_DRAWS):
                for part in processes.turns(len(rows), learner.config.pairs_at_once):
                    shown = part if len(part) else np.zeros(1, dtype=np.int64)  # with the others
                    found = self._measured(learner, rows[shown], draw, names)
                    totals[:, part] += found[:, : len(part)] / HELD_OUT_DRAWS
        processes.average([totals])
        totals = totals * processes.count  # each pair is one process's; the others hold zero
        means = {name: value.item() for name, value in zip(names, totals.mean(dim=1), strict=True)}
        if means["drift"] > means["target"]:
            raise Diverged(
                f"the policy is ruined: on held-out pairs it differs from its reference by "
                f"{means['drift']:.3g} in the mean square, more than the target itself varies "
                f"({means['target']:.3g}); start again with a lower train.learning_rate"
            )
        line = {"accuracy": implicit_accuracy(totals[0]).mean().item()}
        line |= {name: means[name] for name in ("loss", "winner_error", "loser_error", "drift")}
        return {f"held_out_{name}": value for name, value in line.items()}

    def _measured(
        self, learner: Learner, rows: np.ndarray, draw: int, names: tuple[str, ...]
    ) -> Tensor:
        turns = Turns.plain(np.full(len(rows), draw))
        fixed = self._inputs.fixed_draws(self.pairs, rows, turns.draw, HELD_OUT_SEED)
        known = self.errors.at(rows, turns) if self.errors else None
        found = torch.zeros(len(names), len(rows), device=learner.device)
        for members, batch in self._inputs.parts(self.pairs, rows, fixed, turns, known):
            measured = learner.evaluate(batch)
            found[:, members] = torch.stack([measured[name] for name in names])
        return found


def held_out_rows(pairs: Pairs) -> np.ndarray:
    """Rows of the held-out pairs that judge, HELD_OUT_PAIRS at most, evenly spread."""
    n = len(pairs)
    return np.unique(np.linspace(0, n - 1, min(n, HELD_OUT_PAIRS)).round().astype(np.int64))
