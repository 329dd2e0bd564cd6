"""The reference's errors, computed once for all policies of a study.

With `reference_draws = n` a pair's time and noise are one of n fixed ones, so the reference's two
errors there are constants. They are kept under what decides them (base model, images, prompts,
resolution, precision, seed; not the gaps) and each is computed when the first policy needs it, by
the very code that a live reference runs. Every weight trained, a run then holds no frozen copy.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from training.batches import Inputs
from training.cache import write_atomically
from training.config import PolicyConfig
from training.learner import Learner
from training.pairs import Pairs
from training.processes import Processes

AT_ONCE = 4096  # errors between two writes of the file: what a kill can cost


class ReferenceErrors:
    """Errors (pairs, draws, 2) of the reference on winner and loser; NaN where not yet known."""

    def __init__(
        self, root: Path, config: PolicyConfig, shown: list[str], pairs: Pairs, inputs: Inputs
    ) -> None:
        """`shown` are the digests of what the reference is shown and of the reference itself."""
        self._pairs, self._inputs, self._seed = pairs, inputs, config.seed
        self._draws = config.reference_draws
        decided_by = [shown, config.resolution, config.precision, config.seed, self._draws]
        decided_by += [config.mirror, config.crops, config.drop_prompts]
        name = hashlib.sha256(json.dumps(decided_by).encode()).hexdigest()
        self.path = root / "reference" / f"{name}.safetensors"
        self._errors = torch.full((len(pairs), self._draws, 2), torch.nan)
        if self.path.exists():
            self._errors = load(self.path.read_bytes())["errors"]

    def draw_of(self, positions: np.ndarray) -> np.ndarray:
        """Which of a pair's draws its turn at `positions` of the run takes: one after the other."""
        return positions // len(self._pairs) % self._draws

    def at(self, rows: np.ndarray, draws: np.ndarray) -> Tensor:
        """Errors (B, 2) of the pairs at `rows` with the draws `draws`, each (B,)."""
        return self._errors[rows, draws]

    def compute(
        self,
        learner: Learner,
        rows: np.ndarray,
        draws: np.ndarray,
        processes: Processes,
        say: Callable[[str], None],
    ) -> None:
        """Make sure that the errors at (rows, draws) are known; rank 0 writes them down."""
        wanted = np.unique(rows * self._draws + draws)
        flat = self._errors.view(-1, 2)
        missing = wanted[flat[wanted].isnan().any(dim=1).numpy()]
        say(f"reference: {len(wanted)} pairs and draws, {len(missing)} to compute, in {self.path}")
        for start in range(0, len(missing), AT_ONCE):
            some = missing[start : start + AT_ONCE]
            found = torch.full((-(-len(some) // processes.count), 2), torch.nan)
            for part in processes.turns(len(some), learner.part):
                at = some[part] if len(part) else some[:1]  # with the others
                taken, drawn = at // self._draws, at % self._draws
                fixed = self._inputs.fixed_draws(self._pairs.vote_id[taken], drawn, self._seed)
                batch = self._inputs.batch(self._pairs, taken, fixed, turns=drawn)
                errors = learner.reference_errors(batch)
                found[part // processes.count] = errors[: len(part)].cpu()
            every = processes.gather(found.to(processes.device)).cpu()
            every = every.view(processes.count, -1, 2).transpose(0, 1).reshape(-1, 2)
            flat[some] = every[: len(some)]
            if processes.rank == 0:
                write_atomically(self.path, save({"errors": self._errors}))
