"""Votes as an estimator sees them: who met whom, in which order, and who won.

A vote needs nine bytes here whatever its prompt, images and rater weigh, so a hundred million of
them fit in a gigabyte. Estimators take `Comparisons`, or a votes table that becomes one.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numba import njit

from arena.schema import OUTCOMES, PAIRS

A_WINS, B_WINS, TIE = 0, 1, 2


@dataclass(frozen=True)
class Comparisons:
    """Votes in time order as integer codes.

    models: M names, sorted. a, b: (n,) int32, positions in `models`. outcome: (n,) int8, one of
    A_WINS, B_WINS, TIE. A model compared with itself keeps its row, and tells no estimator
    anything.
    """

    models: list[str]
    a: np.ndarray
    b: np.ndarray
    outcome: np.ndarray

    @staticmethod
    def of(votes: "pl.DataFrame | Comparisons") -> "Comparisons":
        """Return the votes' comparisons by `created_at` (unknown times last), then by position."""
        if isinstance(votes, Comparisons):
            return votes
        votes = in_time_order(votes)
        sides = (votes[name].unique().cast(pl.String) for name in ("model_a", "model_b"))
        names = pl.concat(sides).unique().sort()
        models = pl.Enum(names)

        def codes(column: str, kind: pl.Enum) -> np.ndarray:
            return votes[column].cast(kind).to_physical().cast(pl.Int32).to_numpy()

        return Comparisons(
            models=names.to_list(),
            a=codes("model_a", models),
            b=codes("model_b", models),
            outcome=codes("outcome", pl.Enum(OUTCOMES)).astype(np.int8),
        )

    def __len__(self) -> int:
        return len(self.a)

    def part(self, start: int, stop: int) -> "Comparisons":
        """Return the comparisons from position start up to stop (exclusive), in time order."""
        span = slice(start, stop)
        return Comparisons(self.models, self.a[span], self.b[span], self.outcome[span])

    def only(self, kept: np.ndarray) -> "Comparisons":
        """Return the comparisons where kept (n,) is true, in the same order."""
        return Comparisons(self.models, self.a[kept], self.b[kept], self.outcome[kept])

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (wins, ties), both (M, M) int64: wins[i, j] times i beat j; ties is symmetric.

        The diagonal (a model that met itself) is zero.
        """
        return _counts(len(self.models), self.a, self.b, self.outcome)

    def tie_rate(self) -> float:
        """Return the share of ties among comparisons of two different models (0 without any)."""
        wins, ties = self.counts()
        tied = ties.sum() / 2
        total = wins.sum() + tied
        return float(tied / total) if total else 0.0


@njit(cache=True, nogil=True)
def _counts(
    m: int, a: np.ndarray, b: np.ndarray, outcome: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    seen = np.zeros((3, m, m), np.int64)
    for k in range(len(a)):
        seen[outcome[k], a[k], b[k]] += 1
    for i in range(m):
        seen[:, i, i] = 0
    return seen[A_WINS] + seen[B_WINS].T, seen[TIE] + seen[TIE].T


def groups(compared: np.ndarray) -> np.ndarray:
    """Label the connected components of the comparison graph.

    compared: (M, M), how often two models met (any positive number links them).
    Returns (M,) int64 labels; 0 is the component with the most comparisons.
    """
    m = len(compared)
    linked = (compared + compared.T) > 0
    label = np.full(m, -1, np.int64)
    weights: list[float] = []
    for start in range(m):
        if label[start] >= 0:
            continue
        frontier = [start]
        label[start] = len(weights)
        while frontier:
            here = frontier.pop()
            for there in np.flatnonzero(linked[here] & (label < 0)):
                label[there] = len(weights)
                frontier.append(int(there))
        weights.append(float(compared[label == len(weights)].sum()))
    largest_first = np.argsort(-np.array(weights), kind="stable")
    rank = np.empty(len(weights), np.int64)
    rank[largest_first] = np.arange(len(weights))
    return rank[label] if m else label


def in_time_order(votes: pl.DataFrame) -> pl.DataFrame:
    """Sort votes by `created_at`, unknown times last; equal times keep their position."""
    if "created_at" not in votes.columns or votes["created_at"].is_sorted(nulls_last=True):
        return votes
    return votes.sort("created_at", nulls_last=True, maintain_order=True)


def pairs_table(votes: "pl.DataFrame | Comparisons") -> pl.DataFrame:
    """Count wins and ties for every pair of models that met (columns: `schema.PAIRS`)."""
    comparisons = Comparisons.of(votes)
    wins, ties = comparisons.counts()
    i, j = np.nonzero(np.triu(wins + wins.T + ties, 1))
    names = np.array(comparisons.models, dtype=object)
    return pl.DataFrame(
        {
            "model_a": names[i],
            "model_b": names[j],
            "wins_a": wins[i, j],
            "wins_b": wins[j, i],
            "ties": ties[i, j],
        },
        schema=PAIRS,
    ).sort("model_a", "model_b")
