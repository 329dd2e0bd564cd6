"""What an estimator returns, and the estimators by name.

A new estimator is one module with a dataclass of parameters and a `fit`, and one line in
`ESTIMATORS`; nothing else needs to know it. It is imported when it is asked for.
"""

import json
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from arena.atomic import replacing
from arena.ratings.comparisons import Comparisons, groups
from arena.schema import RATINGS

ESTIMATORS = {
    "trueskill": ("arena.ratings.trueskill", "TrueSkill"),
    "thurstone": ("arena.ratings.thurstone", "Thurstone"),
    "bradley_terry": ("arena.ratings.bradley_terry", "BradleyTerry"),
}

METADATA_KEY = b"arenapo"


@dataclass(frozen=True)
class Ratings:
    """A Gaussian capability N(mu, sigma^2) for every model.

    table: the columns of `schema.RATINGS`, sorted by mu, highest first; an estimator may add its
    own after them. estimator: its name in `ESTIMATORS`. parameters: the values the fit used (after
    `auto`), among them `beta` (spread of one performance) and `epsilon` (draw margin), both on the
    scale of mu: the gaps need them. covariance: (M, M) between the capabilities in the order of the
    table, None where an estimator keeps models independent.
    """

    table: pl.DataFrame
    estimator: str
    parameters: dict[str, float] = field(default_factory=dict)
    covariance: np.ndarray | None = None

    def difference(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (mean, variance) of the difference of two capabilities, each (n,).

        a, b: (n,) integers, rows of `table`. The variance is V_aa + V_bb - 2 V_ab: a batch fit
        knows differences far better than the level of the whole board, so the sum of the two
        marginals alone would be too large. A model's difference from itself has 2 V_aa: two
        independent images of it.
        """
        mu, sigma = (self.table[name].to_numpy() for name in ("mu", "sigma"))
        variance = sigma[a] ** 2 + sigma[b] ** 2
        if self.covariance is not None:
            variance = variance - np.where(a == b, 0.0, 2.0 * self.covariance[a, b])
        return mu[a] - mu[b], variance

    def write(self, path: Path | str) -> None:
        """Write the table as parquet, estimator and parameters in its metadata, atomically."""
        note = json.dumps({"estimator": self.estimator, "parameters": self.parameters})
        table = self.table.to_arrow()
        table = table.replace_schema_metadata({METADATA_KEY: note.encode()})
        with replacing(Path(path)) as aside:
            pq.write_table(table, aside)

    @staticmethod
    def read(path: Path | str) -> "Ratings":
        """Read what `write` wrote. Raises ValueError for a parquet that holds no ratings."""
        table = pq.read_table(path)
        missing = [name for name in RATINGS if name not in table.column_names]
        note = (table.schema.metadata or {}).get(METADATA_KEY)
        if missing or note is None:
            what = f"the columns {', '.join(missing)}" if missing else "its parameters"
            raise ValueError(
                f"{path}: not a ratings file, it lacks {what}; write it with `python -m arena fit`"
            )
        said = json.loads(note)
        frame = pl.DataFrame(table)
        return Ratings(frame, said["estimator"], said["parameters"])


class Estimator(Protocol):
    """What every entry of `ESTIMATORS` can do."""

    def fit(self, votes: pl.DataFrame | Comparisons) -> Ratings:
        """Rate every model among the votes (columns model_a, model_b, outcome, created_at)."""


def estimator(name: str, **parameters: Any) -> Estimator:
    """Return the estimator with these parameters.

    Raises ValueError for a name or a parameter that does not exist, naming those that do.
    """
    if name not in ESTIMATORS:
        raise ValueError(f"no estimator is called {name!r}; choose from {', '.join(ESTIMATORS)}")
    module, kind = ESTIMATORS[name]
    made = getattr(import_module(module), kind)
    known = made.__dataclass_fields__
    unknown = [key for key in parameters if key not in known]
    if unknown:
        raise ValueError(
            f"{name} has no parameter {', '.join(unknown)}; it has {', '.join(known) or 'none'}"
        )
    return made(**parameters)


def ratings_table(
    comparisons: Comparisons, mu: np.ndarray, sigma: np.ndarray, **more: np.ndarray
) -> pl.DataFrame:
    """Put M ratings in the order of `schema.RATINGS`, with each model's tallies and group.

    mu, sigma and every further column: (M,), in the order of `comparisons.models`.
    """
    wins, ties = comparisons.counts()
    won, lost, tied = wins.sum(1), wins.sum(0), ties.sum(1)
    table = pl.DataFrame(
        {
            "model": comparisons.models,
            "mu": mu,
            "sigma": sigma,
            "votes": won + lost + tied,
            "wins": won,
            "losses": lost,
            "ties": tied,
            "group": groups(wins + wins.T + ties),
        },
        schema=RATINGS,
    ).with_columns(**{name: pl.Series(values) for name, values in more.items()})
    return table.sort("mu", "model", descending=[True, False])
