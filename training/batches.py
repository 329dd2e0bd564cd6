"""From the cache to the device: the batch of a step, fetched while the step before it computes.

Everything random is a function of (seed, step) or, with `reference_draws`, of (vote, draw), so a
run continues from a checkpoint to the bit without a random state or replayed data, and the same
numbers are drawn however many processes share the batch.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.cache import Latents, Rows
from training.families import Family
from training.learner import Batch
from training.pairs import Pairs

Draws = tuple[Tensor, Tensor]
"""Noise (B, c, h, w) and times (B,) of B pairs."""


@dataclass(frozen=True)
class Dropped:
    """Which turns of a pair show the empty prompt: a function of (seed, vote, turn) alone."""

    share: float
    seed: int
    empty: Sequence[Rows]

    def at(self, vote_ids: np.ndarray, turns: np.ndarray) -> np.ndarray:
        """Whether each pair's turn (B,) is one of them, (B,)."""
        names = (f"{self.seed}/{v}/{t}/prompt" for v, t in zip(vote_ids, turns, strict=True))
        drawn = [int.from_bytes(hashlib.sha256(n.encode()).digest()[:7], "big") for n in names]
        return np.array(drawn) < self.share * 2**56


class Inputs:
    """Latents and embeddings by row, as batches on a device."""

    def __init__(
        self,
        family: Family,
        views: Sequence[Latents],
        texts: Sequence[Rows],
        device: torch.device,
        *,
        cropped: bool = False,
        dropped: "Dropped | None" = None,
    ) -> None:
        """`views` are the same images, shown in turn; `cropped` tells the model where each lies.

        `dropped` says which turns show the empty prompt.
        """
        self._dropped = dropped
        self._family, self._device, self._cropped = family, device, cropped
        self._views, self._texts = views, texts
        self._shape = tuple(views[0].rows.take(np.zeros(1, dtype=np.int64)).shape[1:])

    def batch(
        self,
        pairs: Pairs,
        rows: np.ndarray,
        draws: Draws,
        reference: Tensor | None = None,
        turns: np.ndarray | None = None,
    ) -> Batch:
        """Return the pairs at `rows` (B,) with their noise and times, on the device, in fp32.

        `turns` (B,) counts how often each pair was shown before: each turn shows both of its images
        in the next view. Without it they are shown in the first, and no prompt is dropped.
        """
        taken, n = pairs.rows(rows), len(self._views)
        images = np.concatenate([taken.winner, taken.loser])
        shown = np.zeros(len(images), dtype=np.int64) if turns is None else np.tile(turns % n, 2)
        latents = self._views[shown[0]].rows.take(images)
        corners = self._views[shown[0]].corners[images]
        for other in np.unique(shown[shown != shown[0]]):
            at = np.flatnonzero(shown == other)
            latents[at] = self._views[other].rows.take(images[at])
            corners[at] = self._views[other].corners[images[at]]
        both = self._move(latents)
        sides = torch.from_numpy(corners.reshape(2, -1, 2).swapaxes(0, 1).copy())
        return Batch(
            winner=both[: len(rows)],
            loser=both[len(rows) :],
            texts=tuple(self._move(text) for text in self._prompts(taken, turns)),
            gap=self._move(torch.from_numpy(taken.gap)),
            probability=self._move(torch.from_numpy(taken.probability)),
            noise=self._move(draws[0]),
            times=draws[1].to(self._device, non_blocking=True),
            reference=None if reference is None else self._move(reference),
            corners=self._move(sides) if self._cropped else None,
        )

    def _prompts(self, taken: Pairs, turns: np.ndarray | None) -> list[Tensor]:
        """Embeddings (B, ...) of the pairs' prompts, or of the empty one where it is dropped."""
        texts = [text.take(taken.prompt) for text in self._texts]
        if self._dropped and turns is not None:
            at = self._dropped.at(taken.vote_id, turns)
            for text, empty in zip(texts, self._dropped.empty, strict=True):
                text[at] = empty.take(np.zeros(1, dtype=np.int64))
        return texts

    def new_draws(self, n: int, generator: torch.Generator) -> Draws:
        """One noise and one time for each of n pairs: its two images share them."""
        shape = (n, *self._shape)
        noise = torch.randn(shape, generator=generator, device=generator.device)
        return noise, self._family.draw_times(shape, generator, generator.device)

    def fixed_draws(self, vote_ids: Sequence[str], draws: np.ndarray, seed: int) -> Draws:
        """Noise and time number `draws` (B,) of each vote, drawn on the CPU: the same anywhere."""
        noises, times = [], []
        for vote_id, draw in zip(vote_ids, draws.tolist(), strict=True):
            generator = _generator(f"{seed}/{vote_id}/{draw}", torch.device("cpu"))
            noise, time = self.new_draws(1, generator)
            noises.append(noise)
            times.append(time)
        return torch.cat(noises), torch.cat(times)

    def _move(self, tensor: Tensor) -> Tensor:
        if self._device.type == "cuda" and tensor.device.type == "cpu":
            tensor = tensor.pin_memory()  # else the copy would wait for the device
        return tensor.to(self._device, torch.float32, non_blocking=True)


def rows_of_step(seed: int, step: int, batch_size: int, n: int) -> np.ndarray:
    """Rows (batch_size,) of a step: every row once an epoch, in an order of its own each epoch.

    A function of (seed, step), so data need no state and no replay when a run is continued.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = positions // n
    rows = np.empty(batch_size, dtype=np.int64)
    for epoch in np.unique(epochs):
        of_epoch = epochs == epoch
        order = np.random.default_rng([seed, int(epoch)]).permutation(n)
        rows[of_epoch] = order[positions[of_epoch] % n]
    return rows


def step_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """Return the random source of one step: the same whenever, and however often, it is taken."""
    return _generator(f"{seed}/{step}", device)


def prefetched(fetch: Callable[[int], Batch], steps: Iterable[int]) -> Iterator[tuple[int, Batch]]:
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


def _generator(name: str, device: torch.device) -> torch.Generator:
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "big"))
