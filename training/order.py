"""Which pairs each step shows, how, and what random source it has: functions of the seed only."""

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from training.config import PolicyConfig

Fetched = TypeVar("Fetched")


@dataclass(frozen=True)
class Turns:
    """How B pairs are shown at their turns."""

    draw: np.ndarray  # (B,) which of a pair's fixed times and noises, where it has such
    view: np.ndarray  # (B, 2) which of the views, of winner and loser
    dropped: np.ndarray  # (B,) whether with the empty prompt

    def rows(self, rows: np.ndarray | slice) -> "Turns":
        """Return the turns at `rows`."""
        return Turns(self.draw[rows], self.view[rows], self.dropped[rows])

    @staticmethod
    def plain(draws: np.ndarray) -> "Turns":
        """Return turns in the first view, with every prompt."""
        n = len(draws)
        return Turns(draws, np.zeros((n, 2), dtype=np.int64), np.zeros(n, dtype=bool))


def turns_of(config: PolicyConfig, vote_ids: np.ndarray, times: np.ndarray) -> Turns:
    """Return how the pairs of some votes (B,) are shown that were shown `times` (B,) before."""

    def happens(what: str, probability: float) -> np.ndarray:
        if not probability:
            return np.zeros(len(vote_ids), dtype=bool)
        names = (f"{config.seed}/{vote}/{time}/{what}"
                 for vote, time in zip(vote_ids, times.tolist(), strict=True))  # fmt: skip
        return np.array([_number(name) for name in names]) < probability * 2**56

    mirrored = [happens(f"{side} mirrored", config.mirror / 2) for side in ("winner", "loser")]
    view = (times % config.crops)[:, None] * (1 + config.mirror) + np.stack(mirrored, axis=1)
    return Turns(times % max(1, config.reference_draws), view,
                 happens("prompt", config.drop_prompts))  # fmt: skip


def rows_of_step(seed: int, step: int, batch_size: int, n: int) -> np.ndarray:
    """Rows (batch_size,) of a step: every row once an epoch, in an order of its own each epoch.

    A function of (seed, step), so data need no state and no replay when a run is continued.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = positions // n
    rows = np.empty(batch_size, dtype=np.int64)
    for epoch in np.unique(epochs):
        of_epoch = epochs == epoch
        rows[of_epoch] = _order(seed, int(epoch), n)[positions[of_epoch] % n]
    return rows


def rows_used(seed: int, steps: int, batch_size: int, n: int) -> np.ndarray:
    """Rows that the steps up to `steps` show, in the order in which they show them first."""
    return _order(seed, 0, n)[: steps * batch_size]


@functools.lru_cache(2)  # a step costs less than the permutation of a million rows
def _order(seed: int, epoch: int, n: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n)


def step_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """Return the random source of one step: the same whenever, and however often, it is taken."""
    return named_generator(f"{seed}/{step}", device)


def prefetched(
    fetch: Callable[[int], Fetched], steps: Iterable[int]
) -> Iterator[tuple[int, Fetched]]:
    """Yield (step, fetch(step)), each fetched in a thread while the one before is in use."""
    with ThreadPoolExecutor(1, "prefetch") as thread:
        waiting = None
        for step in steps:
            coming = (step, thread.submit(fetch, step))
            if waiting:
                yield waiting[0], waiting[1].result()
            waiting = coming
        if waiting:
            yield waiting[0], waiting[1].result()


def named_generator(name: str, device: torch.device) -> torch.Generator:
    """Return a random source that the name decides."""
    place = "cpu" if device.type == "meta" else device
    return torch.Generator(place).manual_seed(_number(name))


def _number(name: str) -> int:
    """Return the number from 0 to 2^56 that a name decides."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
