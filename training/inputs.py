"""From the cache to the device: the batch of a step, fetched while the step before it computes.

Everything random is a function of (seed, step) or, with `reference_draws`, of (vote, draw), so a
run continues from a checkpoint to the bit without a random state or replayed data, and the same
numbers are drawn however many processes share the batch.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from training.config import PolicyConfig
from training.encoding import Source, embeddings, latents, pictures, prompt_name
from training.families import Family, Texts
from training.learner import Batch
from training.order import Turns, named_generator
from training.pairs import Pairs
from training.views import Picture, Shape, views_of

Draws = tuple[Tensor, Tensor]
"""Noise (B, cells) and times (B,) of B pairs; a pair takes of its noise what its shape needs."""


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
        self._config, self._family, self._prompts = config, source.family, prompts
        self._device = source.processes.device
        self.shapes, self._views = shapes_of(source.family, config), views_of(config)
        self._cells = max(math.prod(source.family.latent_shape(*shape)) for shape in self.shapes)
        pairs = [both for each, rows in used for both in _images(each, rows)]
        shown = dict.fromkeys(image for both in pairs for image in both)
        found = pictures(source, [images[i] for i in shown])
        self._pictures = {i: found[images[i]] for i in shown}
        if not config.buckets:
            self._tell_of_what_is_cut(source)
        wanted: dict[int, dict[str, Picture]] = {}
        for both in pairs:
            of_bucket = wanted.setdefault(self._bucket(*both), {})
            of_bucket.update({images[i]: self._pictures[i] for i in both})
        self._latents = {
            (bucket, number): latents(source, of_bucket, self.shapes[bucket], view)
            for bucket, of_bucket in sorted(wanted.items())
            for number, view in enumerate(self._views)
        }
        ids = dict.fromkeys(i for each, rows in used for i in each.prompt[rows].tolist())
        texts: list[str | None] = [prompts[i] for i in ids]
        texts += [""] * bool(config.drop_prompts) + [None] * bool(config.sample_every)
        self._texts = embeddings(source, texts)

    def images_digest(self, pairs: Pairs, rows: np.ndarray) -> str:
        """SHA-256 over the bytes of the images of the pairs at `rows`, in their order."""
        digest = hashlib.sha256()
        for both in _images(pairs, rows):
            digest.update("".join(self._pictures[image].digest for image in both).encode())
        return digest.hexdigest()

    def fingerprint(self, pairs: Pairs, rows: np.ndarray) -> np.ndarray:
        """Eight bytes (n,) that tell the images of each of the pairs at `rows`."""
        digests = (self.images_digest(pairs, rows[i : i + 1]) for i in range(len(rows)))
        return np.array([int(digest[:16], 16) for digest in digests], dtype=np.uint64)

    def parts(
        self,
        pairs: Pairs,
        rows: np.ndarray,
        draws: Draws,
        turns: Turns,
        reference: Tensor | None = None,
    ) -> list[tuple[np.ndarray, Batch]]:
        """Return the pairs at `rows` as batches of one shape, of up to `pairs_at_once` pairs.

        Each comes with its pairs' positions among `rows`. `reference` are its errors (B, 2), where
        they are known.
        """
        at_once = 1 if self._config.exact_sums else self._config.pairs_at_once
        buckets = np.array([self._bucket(*both) for both in _images(pairs, rows)], dtype=np.int64)
        found: list[tuple[np.ndarray, Batch]] = []
        for bucket in np.unique(buckets).tolist():
            members = np.flatnonzero(buckets == bucket)
            for start in range(0, len(members), at_once):
                at = members[start : start + at_once]
                given = (draws[0][at], draws[1][at])
                known = None if reference is None else self._move(reference[at])
                part = self._part(pairs.rows(rows[at]), bucket, given, turns.rows(at), known)
                found.append((at, part))
        return found

    def new_draws(self, pairs: Pairs, rows: np.ndarray, generator: torch.Generator) -> Draws:
        """One noise and one time for each of the pairs at `rows`: its two images share them."""
        device = generator.device
        noise = torch.randn((len(rows), self._cells), generator=generator, device=device)
        return noise, self._family.process.draw(self.tokens(pairs, rows), generator, device)

    def fixed_draws(self, pairs: Pairs, rows: np.ndarray, draws: np.ndarray, seed: int) -> Draws:
        """Noise and time number `draws` (B,) of each vote, drawn on the CPU: the same anywhere."""
        cpu, found = torch.device("cpu"), []
        for row, draw in zip(rows, draws.tolist(), strict=True):
            generator = named_generator(f"{seed}/{pairs.vote_id[row]}/{draw}", cpu)
            found.append(self.new_draws(pairs, np.array([row]), generator))
        noises, times = zip(*found, strict=True)
        return torch.cat(noises), torch.cat(times)

    def tokens(self, pairs: Pairs, rows: np.ndarray) -> list[int]:
        """Tokens of one image of each of the pairs at `rows`."""
        shapes = (self.shapes[self._bucket(*both)] for both in _images(pairs, rows))
        return [self._family.tokens(self._family.latent_shape(*shape)) for shape in shapes]

    def texts(self, prompts: Iterable[str | None]) -> Texts:
        """Return the embeddings of some prompts, on the host; None: of no negative prompt."""
        names = [prompt_name(prompt) for prompt in prompts]
        return padded(self._family, [[store[name] for name in names] for store in self._texts])

    def _part(
        self, taken: Pairs, bucket: int, draws: Draws, turns: Turns, reference: Tensor | None
    ) -> Batch:
        n, shape = len(taken), self.shapes[bucket]
        rows: list[Tensor] = []
        sizes: list[tuple[int, ...]] = []
        for side, numbers in ((taken.winner, turns.view[:, 0]), (taken.loser, turns.view[:, 1])):
            for image, number in zip(side.tolist(), numbers.tolist(), strict=True):
                picture, view = self._pictures[image], self._views[number]
                rows.append(self._latents[bucket, number][picture.digest])
                corner = view.corner(picture, shape)
                sizes.append((picture.height, picture.width, *corner, *shape))
        both = self._move(torch.stack(rows))
        told = torch.tensor(sizes).view(2, n, 6).transpose(0, 1).contiguous()
        prompts = zip(taken.prompt.tolist(), turns.dropped.tolist(), strict=True)
        texts = self.texts("" if dropped else self._prompts[i] for i, dropped in prompts)
        return Batch(
            winner=both[:n],
            loser=both[n:],
            texts=Texts(
                tuple(self._move(each) for each in texts.embeds),
                None if texts.mask is None else self._move(texts.mask, torch.bool),
                texts.lengths,
            ),
            gap=self._move(torch.from_numpy(taken.gap)),
            probability=self._move(torch.from_numpy(taken.probability)),
            noise=self._move(draws[0][:, : both[0].numel()].reshape(n, *both.shape[1:])),
            times=self._move(draws[1], draws[1].dtype),
            sizes=self._move(told) if self._family.told_sizes else None,
            reference=reference,
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

    def _tell_of_what_is_cut(self, source: Source) -> None:
        """Say what share of the images a square leaves out."""
        cut = [1 - min(p.width, p.height) / max(p.width, p.height) for p in self._pictures.values()]
        if (share := sum(cut) / len(cut)) > 0.01:
            source.say(
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


def padded(family: Family, columns: Sequence[Sequence[Tensor]]) -> Texts:
    """Stack prompts' tensors; where they differ in length, pad with zeros and say where."""
    if not family.ragged:
        return Texts(tuple(torch.stack(list(column)) for column in columns))
    lengths = tuple(len(row) for row in columns[0])
    hidden = torch.nn.utils.rnn.pad_sequence(list(columns[0]), batch_first=True)
    mask = torch.arange(hidden.shape[1])[None] < torch.tensor(lengths)[:, None]
    return Texts((hidden, *(torch.stack(list(c)) for c in columns[1:])), mask, lengths)
