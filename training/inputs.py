"""From the cache to the device: the batch of a step, fetched while the step before it computes.

Everything random is a function of (seed, step) or, with `reference_draws`, of (vote, draw), so a
run continues from a checkpoint to the bit without a random state or replayed data, and the same
numbers are drawn however many processes share the batch.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.config import PolicyConfig
from training.encoding import (
    Source,
    latents,
    pictures,
    prompt_embeddings,
    unprompted_embeddings,
)
from training.families import Family, Texts
from training.learner import Batch
from training.order import Turns, named_generator
from training.pairs import Pairs
from training.store import Rows
from training.views import Shape, View

Draws = tuple[Tensor, Tensor]
"""Noise (B, cells) and times (B,) of B pairs; a pair takes of its noise what its shape needs."""


@dataclass(frozen=True)
class Shown:
    """Images in one shape and one view."""

    rows: Rows
    index: dict[int, int]  # of the training set's images into rows
    sizes: np.ndarray  # (n, 6) original height and width, crop's top and left, shape


class Inputs:
    """Latents and embeddings of the pairs that a run shows, as batches on a device."""

    def __init__(
        self,
        config: PolicyConfig,
        source: Source,
        images: Sequence[str],
        prompts: Sequence[str],
        used: Sequence[tuple[Pairs, np.ndarray]],
    ) -> None:
        """Encode what the pairs at some rows show; each of `used` is pairs and their rows."""
        self._config, self._family = config, source.family
        self._device, self._say = source.processes.device, source.say
        taken = [pairs.rows(rows) for pairs, rows in used]
        both = [np.stack([each.winner, each.loser], axis=1).reshape(-1) for each in taken]
        order = np.array(list(dict.fromkeys(np.concatenate(both).tolist())), dtype=np.int64)
        found = pictures(source, [images[i] for i in order])
        self._pictures = {i: found[images[i]] for i in order.tolist()}
        self.shapes = shapes_of(source.family, config)
        self._views = views_of(config)
        self._cells = max(math.prod(source.family.latent_shape(*shape)) for shape in self.shapes)
        if not config.buckets:
            self._tell_of_what_is_cut()
        wanted: dict[int, dict[int, None]] = {}
        for each in taken:
            for winner, loser in zip(each.winner.tolist(), each.loser.tolist(), strict=True):
                members = wanted.setdefault(self._bucket(winner, loser), {})
                members |= {winner: None, loser: None}
        self._shown = {
            (bucket, number): self._encode(source, images, list(members), bucket, view)
            for bucket, members in sorted(wanted.items())
            for number, view in enumerate(self._views)
        }
        ids = list(dict.fromkeys(np.concatenate([each.prompt for each in taken]).tolist()))
        self._prompts = {prompt: row for row, prompt in enumerate(ids)}
        self._texts = prompt_embeddings(source, [prompts[i] for i in ids])
        self._empty = prompt_embeddings(source, [""]) if config.drop_prompts else None
        self._unprompted = unprompted_embeddings(source) if config.sample_every else ()

    def images_digest(self, pairs: Pairs, rows: np.ndarray) -> str:
        """SHA-256 over the bytes of the images of the pairs at `rows`, in their order."""
        digest = hashlib.sha256()
        for winner, loser in _images(pairs, rows):
            digest.update(f"{self._pictures[winner].digest}{self._pictures[loser].digest}".encode())
        return digest.hexdigest()

    def fingerprint(self, pairs: Pairs, rows: np.ndarray) -> np.ndarray:
        """Eight bytes (n,) that tell the images of each of the pairs at `rows`."""
        texts = (self._pictures[winner].digest + self._pictures[loser].digest
                 for winner, loser in _images(pairs, rows))  # fmt: skip
        cut = (hashlib.sha256(text.encode()).digest()[:8] for text in texts)
        return np.array([int.from_bytes(each, "big") for each in cut], dtype=np.uint64)

    def turns(self, pairs: Pairs, rows: np.ndarray, times: np.ndarray) -> Turns:
        """Return how pairs at `rows` (B,) are shown that were shown `times` (B,) before."""
        config, votes = self._config, pairs.vote_id[rows]

        def happens(what: str, probability: float) -> np.ndarray:
            if not probability:
                return np.zeros(len(rows), dtype=bool)
            names = (f"{config.seed}/{v}/{t}/{what}"
                     for v, t in zip(votes, times.tolist(), strict=True))  # fmt: skip
            drawn = [int.from_bytes(hashlib.sha256(n.encode()).digest()[:7], "big") for n in names]
            return np.array(drawn) < probability * 2**56

        mirrored = [happens(f"{side} mirrored", config.mirror / 2) for side in ("winner", "loser")]
        view = (times % config.crops)[:, None] * (1 + config.mirror) + np.stack(mirrored, axis=1)
        draw = times % max(1, config.reference_draws)
        return Turns(draw, view, happens("prompt", config.drop_prompts))

    def parts(
        self,
        pairs: Pairs,
        rows: np.ndarray,
        draws: Draws,
        turns: Turns | None = None,
        reference: Tensor | None = None,
    ) -> list[tuple[np.ndarray, Batch]]:
        """Return the pairs at `rows` as batches of one shape, of up to `pairs_at_once` pairs.

        Each comes with its pairs' positions among `rows`. Without `turns` they are shown in the
        first view, and no prompt is dropped.
        """
        buckets = np.array([self._bucket(*both) for both in _images(pairs, rows)], dtype=np.int64)
        found: list[tuple[np.ndarray, Batch]] = []
        for bucket in np.unique(buckets).tolist():
            members = np.flatnonzero(buckets == bucket)
            for start in range(0, len(members), self._config.pairs_at_once):
                at = members[start : start + self._config.pairs_at_once]
                given = (draws[0][at], draws[1][at])
                shown = None if turns is None else turns.rows(at)
                known = None if reference is None else reference[at]
                part = self._part(pairs.rows(rows[at]), bucket, given, shown, known)
                found.append((at, part))
        return found

    def new_draws(self, pairs: Pairs, rows: np.ndarray, generator: torch.Generator) -> Draws:
        """One noise and one time for each of the pairs at `rows`: its two images share them."""
        device = generator.device
        noise = torch.randn((len(rows), self._cells), generator=generator, device=device)
        return noise, self._family.process.draw(self.tokens(pairs, rows), generator, device)

    def fixed_draws(self, pairs: Pairs, rows: np.ndarray, draws: np.ndarray, seed: int) -> Draws:
        """Noise and time number `draws` (B,) of each vote, drawn on the CPU: the same anywhere."""
        noises, times = [], []
        tokens = self.tokens(pairs, rows)
        for vote, draw, count in zip(pairs.vote_id[rows], draws.tolist(), tokens, strict=True):
            generator = named_generator(f"{seed}/{vote}/{draw}", torch.device("cpu"))
            noises.append(torch.randn((1, self._cells), generator=generator))
            times.append(self._family.process.draw([count], generator, torch.device("cpu")))
        return torch.cat(noises), torch.cat(times)

    def tokens(self, pairs: Pairs, rows: np.ndarray) -> list[int]:
        """Tokens of one image of each of the pairs at `rows`."""
        shapes = (self.shapes[self._bucket(*both)] for both in _images(pairs, rows))
        return [self._family.tokens(self._family.latent_shape(*shape)) for shape in shapes]

    def texts(self, prompts: Sequence[int], dropped: np.ndarray | None = None) -> Texts:
        """Return the embeddings of some prompts, on the host, padded to the longest of them."""
        at = np.array([self._prompts[i] for i in prompts], dtype=np.int64)
        columns = [rows.take(at) for rows in self._texts]
        if dropped is not None and dropped.any():
            assert self._empty is not None
            empty = [rows.take(np.zeros(1, dtype=np.int64))[0] for rows in self._empty]
            for column, nothing in zip(columns, empty, strict=True):
                for row in np.flatnonzero(dropped).tolist():
                    column[row] = nothing
        return padded(self._family, columns)

    def unprompted_texts(self) -> Texts:
        """Return what the pipeline guides against where it is given no negative prompt."""
        first = np.zeros(1, dtype=np.int64)
        return padded(self._family, [rows.take(first) for rows in self._unprompted])

    def _part(
        self,
        taken: Pairs,
        bucket: int,
        draws: Draws,
        turns: Turns | None,
        reference: Tensor | None,
    ) -> Batch:
        n = len(taken)
        views = np.zeros((n, 2), dtype=np.int64) if turns is None else turns.view
        rows: list[Tensor] = []
        sizes: list[np.ndarray] = []
        for side, of_side in ((taken.winner, views[:, 0]), (taken.loser, views[:, 1])):
            for image, view in zip(side.tolist(), of_side.tolist(), strict=True):
                shown = self._shown[bucket, view]
                at = shown.index[image]
                rows += shown.rows.take(np.array([at]))
                sizes.append(shown.sizes[at])
        both = self._move(torch.stack(rows))
        told = torch.from_numpy(np.stack(sizes).reshape(2, n, 6).swapaxes(0, 1).copy())
        texts = self.texts(taken.prompt.tolist(), None if turns is None else turns.dropped)
        shape = both.shape[1:]
        noise = draws[0][:, : math.prod(shape)].reshape(n, *shape)
        mask = texts.mask
        return Batch(
            winner=both[:n],
            loser=both[n:],
            texts=Texts(
                tuple(self._move(each) for each in texts.embeds),
                None if mask is None else self._move(mask, torch.bool),
                texts.lengths,
            ),
            gap=self._move(torch.from_numpy(taken.gap)),
            probability=self._move(torch.from_numpy(taken.probability)),
            noise=self._move(noise),
            times=self._move(draws[1], draws[1].dtype),
            sizes=self._move(told) if self._family.told_sizes else None,
            reference=None if reference is None else self._move(reference),
        )

    def _move(self, tensor: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        if self._device.type == "cuda" and tensor.device.type == "cpu":
            tensor = tensor.pin_memory()  # else the copy would wait for the device
        return tensor.to(self._device, dtype, non_blocking=True)

    def _bucket(self, winner: int, loser: int) -> int:
        """The shape that is nearest to both images, by the mean of their ratios' logarithms."""
        if len(self.shapes) == 1:
            return 0
        sides = [self._pictures[i] for i in (winner, loser)]
        ratio = sum(math.log(p.width / p.height) for p in sides) / 2
        far = [abs(math.log(width / height) - ratio) for height, width in self.shapes]
        return far.index(min(far))

    def _encode(
        self, source: Source, images: Sequence[str], members: list[int], bucket: int, view: View
    ) -> Shown:
        shape = self.shapes[bucket]
        known = [self._pictures[i] for i in members]
        named = [images[i] for i in members]
        rows = latents(source, list(zip(named, known, strict=True)), shape, view)
        sizes = [(p.height, p.width, *view.corner(p, shape), *shape) for p in known]
        return Shown(rows, {image: row for row, image in enumerate(members)}, np.array(sizes))

    def _tell_of_what_is_cut(self) -> None:
        """Say what share of the images a square leaves out."""
        cut = [1 - min(p.width, p.height) / max(p.width, p.height) for p in self._pictures.values()]
        if (share := sum(cut) / len(cut)) > 0.01:
            self._say(
                f"images are cropped to squares: {share:.0%} of their area is cut off on average; "
                "model.buckets = true keeps their shapes"
            )


def _images(pairs: Pairs, rows: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield winner and loser of each of the pairs at `rows`."""
    return zip(pairs.winner[rows].tolist(), pairs.loser[rows].tolist(), strict=True)


def shapes_of(family: Family, config: PolicyConfig) -> list[Shape]:
    """Return the shapes in which a run shows images, height and width."""
    if not config.buckets:
        return [(config.resolution, config.resolution)]
    from diffusers.training_utils import generate_aspect_ratio_buckets

    return generate_aspect_ratio_buckets(config.resolution, family.downscale * family.patch)


def views_of(config: PolicyConfig) -> list[View]:
    """Return the views through which a pair's turns go."""
    turned = (False, True)[: 1 + config.mirror]
    return [View(crop, mirrored) for crop in range(config.crops) for mirrored in turned]


def padded(family: Family, columns: Sequence[Sequence[Tensor]]) -> Texts:
    """Stack prompts' tensors; where they differ in length, pad with zeros and say where."""
    if not family.ragged:
        return Texts(tuple(torch.stack(list(column)) for column in columns))
    lengths = tuple(len(row) for row in columns[0])
    hidden = torch.nn.utils.rnn.pad_sequence(list(columns[0]), batch_first=True)
    mask = torch.arange(hidden.shape[1])[None] < torch.tensor(lengths)[:, None]
    return Texts((hidden, *(torch.stack(list(c)) for c in columns[1:])), mask, lengths)
