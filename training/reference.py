"""The reference's errors, computed once for all policies of a study.

With `reference_draws = n` a pair's time and noise are one of n fixed ones, so the reference's two
errors are constants, one for each draw, view and whether the prompt was dropped. They are kept
under what decides them (base model, pairs, resolution, precision, seed; not the gaps), and each is
computed when the first policy needs it, by the very code that a live reference runs, before the
policy has learnt anything: full fine-tuning then never holds a frozen copy.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arena.atomic import replacing
from training.inputs import Inputs
from training.learner import Learner
from training.order import Turns
from training.pairs import Pairs
from training.report import progress

AT_ONCE = 4096  # errors between two writes of the file: what a kill can cost


class ReferenceErrors:
    """Errors (pairs, states, 2) of the reference on winner and loser; NaN where not yet known.

    A state is a draw, a view and whether the prompt is dropped. Winner and loser may be shown in
    different views: the errors of both are computed in each.
    """

    def __init__(
        self,
        root: Path,
        decided_by: list[Any],
        pairs: Pairs,
        inputs: Inputs,
        *,
        draws: int,
        views: int,
        seed: int,
    ) -> None:
        self._pairs, self._inputs, self._seed = pairs, inputs, seed
        self._views, states = views, draws * views * 2
        name = hashlib.sha256(json.dumps([*decided_by, draws, views, seed]).encode()).hexdigest()
        self.path = root / "reference" / f"{name}.npy"
        self._errors = np.full((len(pairs), states, 2), np.nan, dtype=np.float32)
        self._shown = np.zeros(len(pairs), dtype=np.uint64)  # which images the errors are of
        if self.path.exists():
            self._errors = np.load(self.path)
            self._shown = np.load(self.path.with_suffix(".shown.npy"))

    def at(self, rows: np.ndarray, turns: Turns) -> Tensor:
        """Errors (B, 2) of the pairs at `rows` in the states of `turns`."""
        return torch.from_numpy(self._errors[rows[:, None], self._states(turns), [0, 1]])

    def compute(
        self, learner: Learner, rows: np.ndarray, turns: Turns, say: Callable[[str], None]
    ) -> None:
        """Make sure that the errors at (rows, turns) are known; rank 0 writes them down.

        All processes take part. The policy must not have learnt yet.
        """
        processes, states = learner.processes, self._errors.shape[1]
        unique = np.unique(rows)
        shown = self._inputs.fingerprint(self._pairs, unique)
        changed = unique[self._shown[unique] != shown]
        self._errors[changed], self._shown[unique] = np.nan, shown
        if processes.rank == 0 and (len(changed) or not self.path.exists()):
            self._write()
        wanted = np.unique(rows[:, None] * states + self._states(turns))
        missing = wanted[np.isnan(self._errors.reshape(-1, 2)[wanted]).any(axis=1)]
        say(f"reference: {len(wanted)} errors, {len(missing)} to compute, in {self.path}")
        with progress("reference", len(missing), silent=processes.rank > 0) as bar:
            for start in range(0, len(missing), AT_ONCE):
                some = missing[start : start + AT_ONCE]
                self._errors.reshape(-1, 2)[some] = found = self._compute(learner, some)
                if processes.rank == 0:
                    file = np.load(self.path, mmap_mode="r+")
                    file.reshape(-1, 2)[some] = found
                    file.flush()
                bar.update(len(some))

    def _compute(self, learner: Learner, places: np.ndarray) -> np.ndarray:
        """Return the errors (n, 2) at `places`, each process having computed its part."""
        processes = learner.processes
        found = torch.full((-(-len(places) // processes.count), 2), torch.nan)
        for part in processes.turns(len(places), learner.config.pairs_at_once):
            at = places[part] if len(part) else places[:1]  # with the others
            rows, states = np.divmod(at, self._errors.shape[1])
            turns = self._turns(states)
            fixed = self._inputs.fixed_draws(self._pairs, rows, turns.draw, self._seed)
            errors = torch.full((len(at), 2), torch.nan)
            for members, batch in self._inputs.parts(self._pairs, rows, fixed, turns):
                errors[members] = learner.reference_errors(batch).cpu()
            found[part // processes.count] = errors[: len(part)]
        every = processes.gather(found.to(processes.device)).cpu()
        every = every.view(processes.count, -1, 2).transpose(0, 1).reshape(-1, 2)
        return every[: len(places)].numpy()

    def _write(self) -> None:
        """Write all, the errors first: what they are of counts only once they are there."""
        for path, array in (
            (self.path, self._errors),
            (self.path.with_suffix(".shown.npy"), self._shown),
        ):
            with replacing(path) as aside, aside.open("wb") as file:
                np.save(file, array)

    def _states(self, turns: Turns) -> np.ndarray:
        """States (B, 2) of winner and loser."""
        draw, dropped = turns.draw[:, None], turns.dropped[:, None]
        return (draw * self._views + turns.view) * 2 + dropped

    def _turns(self, states: np.ndarray) -> Turns:
        both, dropped = np.divmod(states, 2)
        view = np.stack([both % self._views] * 2, axis=1)
        return Turns(both // self._views, view, dropped.astype(bool))
