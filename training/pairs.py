"""The training set: which image won over which, for what prompt, by what gap.

`building.py` joins votes with their gaps into one Parquet table; `open_pairs` reads such a table as
integer arrays over the unique prompts and images, which is all that the loop needs. Images stay
names here: `encoding.py` turns them into latents. Ties carry no preference and are left out, as the
Diffusion-DPO authors do. Nothing here imports torch or polars.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from arena.atomic import replacing
from training import TrainingError

SCHEMA = pa.schema(
    [
        ("vote_id", pa.string()),
        ("prompt", pa.string()),
        ("image_winner", pa.string()),
        ("image_loser", pa.string()),
        ("model_winner", pa.string()),
        ("model_loser", pa.string()),
        ("gap", pa.float64()),
        ("gap_sd", pa.float64()),
        ("probability", pa.float64()),
        ("split", pa.string()),  # "train" or "held_out"
    ]
)


COUNTED = "count_probability"  # (n + 1/2) / (N + 1) for n of a vote's N raters who chose the winner


class PairsError(TrainingError):
    """The training pairs cannot be used, and which ones are at fault."""


def write_pairs(pairs: pa.Table, path: Path) -> None:
    """Write the table so that a reader sees the old file or the new one, never half of it."""
    with replacing(path) as aside:
        pq.write_table(pairs, aside)


@dataclass(frozen=True)
class Pairs:
    """Training pairs of one split, as rows into the unique prompts and images of all splits."""

    vote_id: np.ndarray  # (n,) object
    prompt: np.ndarray  # (n,) int64 into prompts
    winner: np.ndarray  # (n,) int64 into images
    loser: np.ndarray  # (n,) int64 into images
    gap: np.ndarray  # (n,) float32, divided by the training split's mean
    probability: np.ndarray  # (n,) float32 of the outcome voted, as the arena had it; NaN if none
    counted: np.ndarray  # (n,) float32 the same by the vote's own counts; NaN if it has none

    def __len__(self) -> int:
        return len(self.vote_id)

    def rows(self, rows: np.ndarray) -> "Pairs":
        """Return the pairs at `rows`."""
        return Pairs(*(values[rows] for values in vars(self).values()))

    def shuffled_gaps(self, seed: int) -> "Pairs":
        """Give every pair the gap and the probability of another: the control of `arenapo`.

        What is left of the gaps is their distribution; what they say of their own pair is gone.
        """
        order = np.random.default_rng([seed, len(self)]).permutation(len(self))
        return replace(self, gap=self.gap[order], probability=self.probability[order])

    def spread_gaps(self, spread: float, like: "Pairs") -> "Pairs":
        """Scale gaps about their mean: 1 + spread (g - m) / s, m and s (> 0) the mean and standard
        deviation of the gaps of `like`. Raises PairsError where those are all the same.
        """
        mean, deviation = like.gap.mean(dtype=np.float64), like.gap.std(dtype=np.float64)
        if deviation < 1e-6:
            raise PairsError(
                f"train.margin_spread = {spread:g}: all {len(like)} gaps are the same, so there is "
                "nothing to spread; leave it at 0"
            )
        scaled = 1 + spread * (self.gap - mean) / deviation
        return replace(self, gap=scaled.astype(np.float32))

    def require_probabilities(self) -> None:
        """Raise PairsError naming the votes whose probability is no number from 0 to 1."""
        unusable = ~((self.probability >= 0) & (self.probability <= 1))
        if unusable.any():
            ids = self.vote_id[unusable].tolist()
            raise PairsError(
                f"{len(ids)} votes have no probability from 0 to 1, which cdpo needs: {some(ids)}"
            )

    def labelled_by_counts(self) -> "Pairs":
        """Give every pair the probability that its raters' own counts say."""
        return replace(self, probability=self.counted)

    def unique_winners(self) -> "Pairs":
        """One row for each (prompt, winning image), at its first win: what `sft` learns from.

        Without it an image would weigh by how often it was shown, which is not a preference. A
        winner stands in for its loser, which `sft` does not look at.
        """
        keys = np.stack([self.prompt, self.winner], axis=1)
        first = self.rows(np.sort(np.unique(keys, axis=0, return_index=True)[1]))
        return replace(first, loser=first.winner)


@dataclass(frozen=True)
class TrainingSet:
    """What the loop trains on and validates with."""

    prompts: list[str]
    images: list[str]
    train: Pairs
    held_out: Pairs
    content: str  # SHA-256 of everything above but gaps and probabilities
    digest: str  # SHA-256 of everything above


def open_pairs(path: Path, gap: str = "gap") -> TrainingSet:
    """Read a table of SCHEMA; gap: the column of the gap estimator in use.

    Raises PairsError naming the file and the column or the votes.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise PairsError(f"{path}: {error}") from error
    needed = [*SCHEMA.names, *([] if gap in SCHEMA.names else [gap])]
    missing = [name for name in needed if name not in table.column_names]
    if missing:
        raise PairsError(f"{path}: has no column {missing[0]!r}; needs {', '.join(needed)}")
    return index_pairs(table, str(path), gap)


def index_pairs(table: pa.Table, where: str, gap: str = "gap") -> TrainingSet:
    """Turn a table of SCHEMA into arrays; gaps are divided by the mean gap of the training split.

    That makes `gamma` the mean margin in logits whatever the arena's scale, and a fixed margin with
    the same gamma its exact ablation (method.md section 3). `where` names the table in errors.
    """
    vote_id = _text(table["vote_id"])
    refuse_unusable(table[gap], vote_id, where)
    train = pc.equal(table["split"], "train").to_numpy(zero_copy_only=False)
    if not train.any():
        raise PairsError(f"{where}: no pair is left to train on")
    prompts = _text(table["prompt"]).combine_chunks().dictionary_encode()
    sides = [_text(table[name]) for name in ("image_winner", "image_loser")]
    images = pa.chunked_array([*sides[0].chunks, *sides[1].chunks], pa.string())
    images = images.combine_chunks().dictionary_encode()
    gaps, probability = table[gap].to_numpy(), table[gap.removesuffix("gap") + "probability"]
    counted = np.full(table.num_rows, np.nan)
    if COUNTED in table.column_names:
        counted = pc.fill_null(table[COUNTED], np.nan).to_numpy()
    mean_gap = gaps[train].mean()
    if mean_gap <= 0:
        raise PairsError(f"{where}: the mean gap is {mean_gap:g}; a margin needs it above zero")
    index = images.indices.to_numpy().astype(np.int64)
    pairs = Pairs(
        vote_id=vote_id.to_numpy(zero_copy_only=False),
        prompt=prompts.indices.to_numpy().astype(np.int64),
        winner=index[: table.num_rows],
        loser=index[table.num_rows :],
        gap=(gaps / mean_gap).astype(np.float32),
        probability=pc.fill_null(probability, np.nan).to_numpy().astype(np.float32),
        counted=counted.astype(np.float32),
    )
    digest = hashlib.sha256()
    for text in (
        pairs.vote_id.tolist(),
        prompts.dictionary.to_pylist(),
        images.dictionary.to_pylist(),
    ):
        digest.update(json.dumps(text).encode())
    for array in (pairs.prompt, pairs.winner, pairs.loser, train):
        digest.update(array.tobytes())
    content = digest.hexdigest()
    for array in (pairs.gap, pairs.probability, pairs.counted):
        digest.update(array.tobytes())
    return TrainingSet(
        prompts=prompts.dictionary.to_pylist(),
        images=images.dictionary.to_pylist(),
        train=pairs.rows(np.flatnonzero(train)),
        held_out=pairs.rows(np.flatnonzero(~train)),
        content=content,
        digest=digest.hexdigest(),
    )


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Cast to plain strings: polars hands over large or view strings."""
    return pc.cast(column, pa.string())


def refuse_unusable(gap: pa.ChunkedArray, vote_id: pa.ChunkedArray, where: str) -> None:
    """Raise PairsError naming the votes whose gap is null, NaN or infinite."""
    unusable = pc.invert(pc.fill_null(pc.is_finite(gap), False))
    ids = vote_id.filter(unusable).to_pylist()
    if ids:
        raise PairsError(f"{where}: {len(ids)} gaps are not finite numbers, of votes {some(ids)}")


def some(ids: list[str]) -> str:
    """Name the first five."""
    return ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")
