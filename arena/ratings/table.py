"""What an estimator returns, and the estimators by name.

    ratings = estimator("trueskill").fit(votes)
    print(ratings)                                # a small leaderboard
    ratings.win_probability("sdxl", "sd1.5")      # of a vote between the two
    ratings = ratings.with_vote("sdxl", "sd1.5", "tie")
    ratings.write("ratings.parquet")

A new estimator is a dataclass of parameters with a `fit`, and one line in
`ESTIMATORS`; nothing else needs to know it. It is imported when it is asked for.
"""

import json
import math
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from arena.atomic import replacing
from arena.ratings.gaussian import Phi, draw_margin
from arena.ratings.leaderboards import (
    BETA,
    DRAW_PROBABILITY,
    HALF,
    METADATA_KEY,
    MU,
    SIGMA,
    TAU,
    leaderboard_table,
    read_table,
)
from arena.schema import RATINGS

ESTIMATORS = {
    "trueskill": ("arena.ratings.trueskill", "TrueSkill"),
    "thurstone": ("arena.ratings.batch", "Thurstone"),
    "bradley_terry": ("arena.ratings.batch", "BradleyTerry"),
}
# The authors' parameters, and the margin that they give.
AUTHORS = {
    "mu": MU,
    "sigma": SIGMA,
    "beta": BETA,
    "tau": TAU,
    "draw_probability": DRAW_PROBABILITY,
    "epsilon": draw_margin(DRAW_PROBABILITY, BETA),
}
# Ratings that were read from a table of model, mu and sigma: a prior, by no estimator of ours.
LEADERBOARD = "leaderboard"

COVARIANCE = "covariance"
# Every so many votes one id is kept with the ratings: a delivery made twice is noticed where it
# holds one of them, so surely where it is a thousandth of all votes.
MOST_IDS = 1000


@dataclass(frozen=True, repr=False)
class Ratings:
    """A Gaussian capability N(mu, sigma^2) for every model.

    table: the columns of `schema.RATINGS`, sorted by mu, highest first; an estimator may add its
    own after them. sigma is relative to the mean of the model's group where the estimator is a
    batch fit: the level of the whole board is never known. estimator: its name in `ESTIMATORS`, or
    `LEADERBOARD`. parameters: the values the fit used (after `auto`), else the authors'; among them
    `beta` (spread of one performance) and `epsilon` (draw margin), both on the scale of mu: the
    gaps need them.
    covariance: (M, M) between the capabilities in the order of the table, None where an estimator
    keeps models independent. settings: the estimator's parameters as they were given. ids: a sample
    of the vote_ids that were rated.
    """

    table: pl.DataFrame
    estimator: str
    parameters: dict[str, float] = field(default_factory=AUTHORS.copy)
    covariance: np.ndarray | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)

    def difference(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (mean, variance) of the difference of two capabilities, each (n,).

        a, b: (n,) integers, rows of `table`. The variance is V_aa + V_bb - 2 V_ab: a batch fit
        knows differences far better than the level of the whole board, so the sum of the two
        marginals alone would be too large. A model's difference from itself has 2 sigma^2: two
        independent images of it.
        """
        mu, sigma = (self.table[name].to_numpy() for name in ("mu", "sigma"))
        variance = sigma[a] ** 2 + sigma[b] ** 2
        if self.covariance is not None:
            own = np.diag(self.covariance)
            apart = np.maximum(own[a] + own[b] - 2.0 * self.covariance[a, b], 0.0)
            variance = np.where(np.equal(a, b), variance, apart)
        return mu[a] - mu[b], variance

    def win_probability(self, a: str, b: str) -> float:
        """Return how likely model a wins a vote against b: P(x_a - x_b > epsilon).

        With c^2 = 2 beta^2 + Var(difference) it is Phi((mu_a - mu_b - epsilon) / c); the rest is
        b's wins and ties. Raises KeyError for a model without a rating.
        """
        (mean,), (variance,) = self.difference(*np.array([[self._row(a)], [self._row(b)]]))
        c = math.sqrt(2.0 * self.parameters["beta"] ** 2 + variance)
        return float(Phi((mean - self.parameters["epsilon"]) / c))

    def _row(self, model: str) -> int:
        found = self.table["model"].index_of(model)
        if found is None:
            raise KeyError(f"model {model!r} has no rating")
        return found

    @property
    def conservative(self) -> pl.Series:
        """Return mu - 3 sigma (M,): what a model is worth almost certainly, as TrueSkill ranks."""
        return (self.table["mu"] - 3.0 * self.table["sigma"]).alias("conservative")

    def places(self) -> pl.Series:
        """Return (M,) places by interval within each group.

        1 + how many models have a lower 95% bound above the upper one of this: places by mean alone
        tell models apart that the votes do not.
        """
        mu, sigma, group = (self.table[name].to_numpy() for name in ("mu", "sigma", "group"))
        above = (mu - HALF * sigma)[:, None] > (mu + HALF * sigma)[None, :]
        return pl.Series("place", 1 + (above & (group[:, None] == group[None, :])).sum(0))

    def estimate_as(self) -> "Estimator":
        """Return the estimator that made these ratings, with its settings as they were given."""
        if self.estimator == LEADERBOARD:
            raise ValueError("a leaderboard was made by no estimator of this project")
        return estimator(self.estimator, **self.settings)

    def with_votes(self, votes: Any = None, rankings: Any = None) -> "Ratings":
        """Return the ratings after more votes (trueskill): the earlier ones are not read again."""
        settings = self.settings if self.estimator == "trueskill" else {}
        rated: Ratings = estimator("trueskill", **settings).fit(  # type: ignore[call-arg]
            votes, prior=self, rankings=rankings
        )
        return rated

    def with_vote(self, model_a: str, model_b: str, outcome: str) -> "Ratings":
        """Return the ratings after one vote more: outcome is a, b or tie."""
        vote = {"model_a": [model_a], "model_b": [model_b], "outcome": [outcome]}
        return self.with_votes(pl.DataFrame(vote))

    def __repr__(self) -> str:
        from arena.report.tables import leaderboard

        return leaderboard(self, most=20)

    def write(self, path: Path | str) -> None:
        """Write the table as parquet, atomically.

        A covariance is a column of lists; what is not by model is in the file's metadata.
        """
        noted = ("estimator", "parameters", "settings", "ids")
        note = {name: getattr(self, name) for name in noted}
        table = self.table
        if self.covariance is not None:
            table = table.with_columns(pl.Series(COVARIANCE, self.covariance.tolist()))
        arrow = table.to_arrow().replace_schema_metadata({METADATA_KEY: json.dumps(note).encode()})
        with replacing(Path(path)) as aside:
            pq.write_table(arrow, aside)

    @staticmethod
    def read(path: Path | str) -> "Ratings":
        """Read what `write` wrote, or a leaderboard: parquet, csv, json or jsonl (`as_ratings`).

        Raises ValueError for a file that holds no ratings, naming the file.
        """
        try:
            frame, note = read_table(Path(path))
            if note is None:
                return as_ratings(frame)
            covariance = None
            if COVARIANCE in frame.columns:
                covariance = np.array(frame[COVARIANCE].to_list()).reshape(len(frame), len(frame))
            ids, settings = note.get("ids", []), note.get("settings", {})
            return Ratings(
                frame.drop(COVARIANCE, strict=False),
                note["estimator"],
                note["parameters"],
                covariance,
                settings,
                ids,
            )
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def as_ratings(table: Any) -> Ratings:
    """Return ratings of a leaderboard: a frame with model, mu and sigma, or LMArena's layout.

    The parameters that gaps need are the authors' (beta 25/6, draw probability 0.10). Ratings are
    returned as they are. Raises ValueError as `leaderboard_table`.
    """
    if isinstance(table, Ratings):
        return table
    return Ratings(leaderboard_table(table), LEADERBOARD)


def sampled(before: list[str], ids: pl.Series | None) -> list[str]:
    """Return at most `MOST_IDS` of the vote_ids, at equal distances, after those kept before."""
    new = pl.Series(dtype=pl.String) if ids is None else ids.drop_nulls().cast(pl.String)
    every = [*before, *new.gather_every(max(1, -(-len(new) // MOST_IDS)))]
    return every[:: -(-len(every) // MOST_IDS)] if every else []


class Estimator(Protocol):
    """What every entry of `ESTIMATORS` can do."""

    def fit(self, votes: Any = None, *, rankings: Any = None) -> Ratings:
        """Rate every model among the votes and K-wise votes (see `Comparisons.of`)."""


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
    models: list[str],
    wins: np.ndarray,
    ties: np.ndarray,
    mu: np.ndarray,
    sigma: np.ndarray,
    **more: np.ndarray,
) -> pl.DataFrame:
    """Put M ratings in the order of `schema.RATINGS`, with each model's tallies and group.

    mu, sigma and every further column: (M,), in the order of models.
    """
    won, lost, tied = wins.sum(1), wins.sum(0), ties.sum(1)
    table = pl.DataFrame(
        {
            "model": models,
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


def groups(compared: np.ndarray) -> np.ndarray:
    """Label the connected components of the comparison graph.

    compared: (M, M), how often two models met (any positive number links them).
    Returns (M,) int64 labels; 0 is the component with the most comparisons.
    """
    m = len(compared)
    linked = (compared + compared.T > 0) | np.eye(m, dtype=bool)
    label, new = np.full(m, -1), np.arange(m)
    while (new != label).any():  # every model takes the least label that it is linked to
        label, new = new, np.where(linked, new, m).min(1, initial=m)
    _, label = np.unique(label, return_inverse=True)
    weight = np.bincount(label, compared.sum(1))
    return np.argsort(np.argsort(-weight, kind="stable"))[label]
