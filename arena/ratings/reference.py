"""Published leaderboards: as a prior of one's own arena, and as a check of it from outside.

    reference = Ratings.read("text_to_image/latest-00000-of-00001.parquet")
    print(agreement(ratings, reference))

LMArena publishes its ratings as the data set `lmarena-ai/leaderboard-dataset` (CC BY 4.0), a folder
for each arena: model_name, organization, license, rating, rating_lower, rating_upper, variance,
vote_count, rank, category, leaderboard_publish_date. The ratings are Bradley-Terry's on the Elo
scale, the bounds a 95% interval.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from arena.ratings.bradley_terry import ELO, mu_per_theta
from arena.ratings.table import HALF, Ratings
from arena.ratings.trueskill import TrueSkill

PUBLISHED = ("model_name", "rating")
OVERALL = "overall"


def is_published(frame: pl.DataFrame) -> bool:
    """Tell whether a frame has LMArena's columns."""
    return set(PUBLISHED) <= set(frame.columns) and "mu" not in frame.columns


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
    chosen = TrueSkill()
    scale = mu_per_theta(chosen.beta) / ELO
    sigma = pl.lit(chosen.sigma)
    if {"rating_lower", "rating_upper"} <= set(frame.columns):
        width = pl.col("rating_upper").cast(pl.Float64) - pl.col("rating_lower")
        sigma = (width * (scale / (2.0 * HALF))).fill_nan(None).fill_null(chosen.sigma)
    votes = pl.col("vote_count") if "vote_count" in frame.columns else pl.lit(0)
    return frame.select(
        model="model_name",
        mu=chosen.mu + scale * (pl.col("rating").cast(pl.Float64) - 1000.0),
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
                    f"  {model}: place {place} here, {there} there; surely the other way round "
                    f"with {against} model" + ("s" if against > 1 else "")
                )
        if not self.disagree:
            lines.append("  no two models are surely the other way round")
        if self.only_here:
            lines.append(f"  not in the reference: {', '.join(self.only_here)}")
        return "\n".join(lines)


def agreement(ratings: Ratings, reference: Ratings) -> Agreement:
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
