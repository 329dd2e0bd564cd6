"""Leaderboards from elsewhere, on the scale of mu: as a prior, and as a check of one's own arena.

    reference = Ratings.read("text_to_image/latest-00000-of-00001.parquet")
    print(agreement(ratings, reference))

They have model, mu and sigma, by hand, or LMArena's layout.

LMArena publishes its ratings as the data set `lmarena-ai/leaderboard-dataset` (CC BY 4.0), a folder
for each arena: model_name, organization, license, rating, rating_lower, rating_upper, variance,
vote_count, rank, category, leaderboard_publish_date. The ratings are Bradley-Terry's on the Elo
scale, the bounds a 95% interval.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from arena.escape import printable
from arena.ratings.comparisons import as_frame
from arena.schema import RATINGS
from arena.votes.containers import open_table
from arena.votes.faults import UNREADABLE

if TYPE_CHECKING:  # which reads leaderboards by this module
    from arena.ratings.table import Ratings

# The authors' parameters (Herbrich et al., 2006): the scale that all estimators share.
MU, SIGMA, BETA, TAU, DRAW_PROBABILITY = 25.0, 25.0 / 3.0, 25.0 / 6.0, 25.0 / 300.0, 0.10
ELO = 400.0 / math.log(10.0)
# The logistic function is within 0.01 of Phi(x / 1.702) everywhere (Haley, 1952).
LOGISTIC = 1.702
# Half the width of a 95% interval, in standard deviations.
HALF = 1.96

METADATA_KEY = b"arenapo"
PUBLISHED = ("model_name", "rating")
OVERALL = "overall"


def refuse_out_of_range(parameters: Mapping[str, Any]) -> None:
    """Raise ValueError for an estimator's parameter that is out of its range, naming it."""
    for name, value in parameters.items():
        if name == "draw_probability":
            known = value == "auto" or (isinstance(value, int | float) and 0.0 <= value < 1.0)
            wanted = "from 0 up to 1, or auto"
        elif name == "counts":
            known, wanted = value in ("majority", "each"), "majority or each"
        elif name in ("mu", "tau"):
            known = math.isfinite(value) and (name == "mu" or value >= 0.0)
            wanted = "a number" if name == "mu" else "0 or above"
        else:
            known, wanted = math.isfinite(value) and value > 0.0, "above 0"
        if not known:
            raise ValueError(f"{name} must be {wanted}, not {value}")


def mu_per_theta(beta: float) -> float:
    """Return how much of mu one unit of theta (`ELO` points of Elo) is, for a spread beta."""
    return math.sqrt(2.0) * beta / LOGISTIC


def read_table(path: Path) -> tuple[pl.DataFrame, dict[str, Any] | None]:
    """Return (the table of a file, the note that `Ratings.write` left, None in other files)."""
    try:
        with path.open("rb") as file:
            parquet = file.read(4) == b"PAR1"
        if parquet:
            table = pq.read_table(path)
            table.validate(full=True)  # polars panics at a text that is no UTF-8,
            table = table.select(table.column_names)  # such a name, and such metadata
            note = (table.schema.metadata or {}).get(METADATA_KEY)
            plain = pl.DataFrame(table.replace_schema_metadata())
            return plain, json.loads(note) if note else None
        rows = open_table(path)  # in any dialect that votes may have
        plain = pl.concat(rows.frames(rows.columns), how="diagonal_relaxed").drop("row")
        for row, _, reason, _ in rows.broken:
            raise ValueError(f"row {row}: {reason}")
        return plain.rename({name: "_".join(name.lower().split()) for name in rows.columns}), None
    except UNREADABLE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's: the file is not there, or not to be opened
        said = str(error).partition("\n")[0]
        raise ValueError(f"no table of ratings (parquet, csv, json or jsonl): {said}") from error


def leaderboard_table(table: Any) -> pl.DataFrame:
    """Return a leaderboard in the columns of `schema.RATINGS`, highest mu first.

    table: a frame with model, mu and sigma, or in LMArena's layout. Tallies are taken where it has
    them, else 0. Raises ValueError for a missing column, an absent or a second rating of a model,
    and a sigma that is not above 0.
    """
    frame = as_frame(table)
    try:
        if set(PUBLISHED) <= set(frame.columns) and "mu" not in frame.columns:
            frame = of_published(frame)
    except pl.exceptions.PolarsError as error:
        said = str(error).partition("\n")[0]
        raise ValueError(f"not a leaderboard, a column is of another type: {said}") from error
    missing = [name for name in ("model", "mu", "sigma") if name not in frame.columns]
    if missing:
        raise ValueError(
            f"not ratings, it lacks the columns {', '.join(missing)}; a leaderboard needs model, "
            "mu and sigma, or is written by `python -m arena fit`"
        )
    tallies = ("votes", "wins", "losses", "ties", "group")
    absent = [pl.lit(0).alias(name) for name in tallies if name not in frame.columns]
    try:
        frame = frame.with_columns(*absent).select(pl.col(n).cast(t) for n, t in RATINGS.items())
    except pl.exceptions.PolarsError as error:
        said = str(error).partition("\n")[0]
        raise ValueError(f"not ratings, a column is of another type: {said}") from error
    frame = frame.with_columns(pl.col("model").str.strip_chars(), pl.col(*tallies).fill_null(0))
    known = pl.col("mu").is_finite() & pl.col("sigma").is_finite() & (pl.col("sigma") > 0.0)
    wrong = frame.filter((pl.col("model").is_not_null() & known).fill_null(False).not_())
    if len(wrong):
        model, mu, sigma = wrong.row(0)[:3]
        raise ValueError(f"model {model!r} has mu {mu} and sigma {sigma}: it needs both, sigma > 0")
    twice = frame.filter(pl.col("model").is_duplicated())
    if len(twice):
        raise ValueError(f"model {twice['model'][0]!r} is rated twice")
    return frame.sort("mu", "model", descending=[True, False])


def of_published(frame: pl.DataFrame) -> pl.DataFrame:
    """Return model, mu, sigma and votes of a leaderboard in LMArena's layout.

    With s = sqrt(2) beta / 1.702 for each unit of theta, which is 400 / ln 10 points:

        mu = 25 + s (rating - 1000) / (400 / ln 10),   sigma likewise (upper - lower) / (2 * 1.96)

    A rating without bounds gets the sigma of a model never seen. Of several categories `overall`
    counts, of several dates the newest.
    """
    if "category" in frame.columns and frame["category"].n_unique() > 1:
        frame = frame.filter(pl.col("category") == OVERALL)
    if "leaderboard_publish_date" in frame.columns:
        date = pl.col("leaderboard_publish_date")
        frame = frame.filter((date == date.max()).fill_null(True))
    scale = mu_per_theta(BETA) / ELO
    sigma = pl.lit(SIGMA)
    if {"rating_lower", "rating_upper"} <= set(frame.columns):
        upper, lower = (pl.col(f"rating_{end}").cast(pl.Float64) for end in ("upper", "lower"))
        width = upper - lower
        sigma = (width * (scale / (2.0 * HALF))).fill_nan(None).fill_null(SIGMA)
    votes = pl.col("vote_count") if "vote_count" in frame.columns else pl.lit(0)
    return frame.select(
        model="model_name",
        mu=MU + scale * (pl.col("rating").cast(pl.Float64) - 1000.0),
        sigma=sigma,
        votes=votes.cast(pl.Int64),
    )


@dataclass(frozen=True)
class Agreement:
    """How one's own arena and a reference order the models that both rate.

    spearman: the rank correlation of their mu, NaN for fewer than two models. models: a row for
    each common model: model, place, place_reference (by mu, among the common ones), against (with
    how many models its order is the other way round in the reference, both intervals being sure),
    most contradicted first. only_here, only_there: the models that the other lacks.
    """

    spearman: float
    models: pl.DataFrame
    only_here: list[str]
    only_there: list[str]

    @property
    def disagree(self) -> list[str]:
        """Return the models whose order with some other one is surely the other way round."""
        return self.models.filter(pl.col("against") > 0)["model"].to_list()

    def __str__(self) -> str:
        lines = [f"{len(self.models)} models in common, rank correlation {self.spearman:.3f}"]
        for model, place, there, against in self.models.iter_rows():
            if against:
                lines.append(
                    f"  {printable(model)}: place {place} here, {there} there; surely the other "
                    f"way round with {against} model" + ("s" if against > 1 else "")
                )
        if not self.disagree:
            lines.append("  no two models are surely the other way round")
        if self.only_here:
            lines.append(f"  not in the reference: {', '.join(map(printable, self.only_here))}")
        return "\n".join(lines)


def agreement(ratings: "Ratings", reference: "Ratings") -> Agreement:
    """Compare one's own ratings with a reference over the models that both rate, by name.

    Two models are surely ordered where the 95% interval of their difference leaves 0 out. Raises
    ValueError where no model is in both.
    """
    here, there = ratings.table["model"].to_list(), reference.table["model"].to_list()
    common = sorted({*here} & {*there})
    if not common:
        raise ValueError(
            f"the reference rates none of these models, by name: here {', '.join(here[:3])}, "
            f"there {', '.join(there[:3])}"
        )
    orders, places = [], []
    for one, names in ((ratings, here), (reference, there)):
        row = np.array([names.index(name) for name in common])
        a, b = np.repeat(row, len(row)), np.tile(row, len(row))
        mean, variance = one.difference(a, b)
        sure = np.where(np.abs(mean) > HALF * np.sqrt(variance), np.sign(mean), 0.0)
        orders.append(sure.reshape(len(row), -1))
        places.append(pl.Series(-one.table["mu"].to_numpy()[row]).rank("average"))
    against = ((orders[0] * orders[1]) < 0).sum(1)
    first, second = (place.to_numpy() for place in places)
    varied = len(common) > 1 and first.std() > 0.0 and second.std() > 0.0
    models = pl.DataFrame(
        {
            "model": common,
            "place": places[0].rank("min").cast(pl.Int64),
            "place_reference": places[1].rank("min").cast(pl.Int64),
            "against": against,
        }
    ).sort("against", "place", descending=[True, False])
    return Agreement(
        spearman=float(np.corrcoef(first, second)[0, 1]) if varied else float("nan"),
        models=models,
        only_here=[name for name in here if name not in common],
        only_there=[name for name in there if name not in common],
    )
