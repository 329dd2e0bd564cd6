"""Simulated votes for the arena's benchmarks: 50 models, 8% ties, in time order, always the same.

In memory, as a table of names, as K-wise votes and as a parquet like an arena's export.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from arena.ratings.comparisons import A_WINS, B_WINS, TIE, Comparisons
from arena.schema import OUTCOMES

MODELS = [f"generator-{k:02d}" for k in range(50)]
PART = 1 << 20


def simulated(n: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield n votes (a, b int32, outcome int8) in parts, always the same ones."""
    rng = np.random.default_rng(0)
    skill = rng.normal(25.0, 6.0, len(MODELS))
    for start in range(0, n, PART):
        k = min(PART, n - start)
        a = rng.integers(0, len(MODELS), k, dtype=np.int32)
        b = (a + rng.integers(1, len(MODELS), k, dtype=np.int32)) % np.int32(len(MODELS))
        d = skill[a] - skill[b] + rng.normal(0.0, 6.0, k)
        yield a, b, np.where(np.abs(d) < 1.0, TIE, np.where(d > 0, A_WINS, B_WINS)).astype(np.int8)


def comparisons(n: int) -> Comparisons:
    """Return n votes in memory."""
    a, b, outcome = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.int8)
    for k, part in enumerate(simulated(n)):
        for whole, piece in zip((a, b, outcome), part, strict=True):
            whole[k * PART : k * PART + len(piece)] = piece
    return Comparisons(MODELS, a, b, outcome)


def named(votes: Comparisons) -> pl.DataFrame:
    """Return the votes as a table of names."""
    models, outcomes = np.array(votes.models), np.array(OUTCOMES)
    return pl.DataFrame(
        {
            "model_a": models[votes.a],
            "model_b": models[votes.b],
            "outcome": outcomes[votes.outcome],
        }
    )


def rankings(n: int) -> pl.DataFrame:
    """Return n K-wise votes of four models; one in ten of the neighbours ties."""
    rng = np.random.default_rng(1)
    skill = rng.normal(25.0, 6.0, len(MODELS))
    who = np.argsort(rng.random((n, len(MODELS))), axis=1)[:, :4]
    order = np.argsort(rng.normal(0.0, 4.0, who.shape) - skill[who], axis=1)
    apart = rng.random((n, 3)) > 0.1
    ranks = 1 + np.concatenate([np.zeros((n, 1), int), np.cumsum(apart, axis=1)], axis=1)
    best_first = np.take_along_axis(who, order, axis=1)
    names = [[MODELS[k] for k in row] for row in best_first]
    return pl.DataFrame({"models": names, "ranks": ranks.tolist()})


def write_votes(n: int, path: Path) -> None:
    """Write n votes with a time each, as an export of an arena would."""
    names = [pa.array(MODELS), pa.array(MODELS), pa.array(OUTCOMES)]
    kinds = [(name, pa.string()) for name in ("model_a", "model_b", "outcome")]
    schema = pa.schema([*kinds, ("created_at", pa.timestamp("us", "UTC"))])
    second = 1_700_000_000
    with pq.ParquetWriter(path, schema) as file:
        for part in simulated(n):
            coded = [
                pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), known)
                for codes, known in zip(part, names, strict=True)
            ]
            now = pa.array((second + np.arange(len(part[0]))) * 1_000_000, pa.int64())
            second += len(part[0])
            columns = [*(one.cast(pa.string()) for one in coded), now.cast(schema.types[3])]
            file.write_table(pa.table(columns, schema=schema))
