"""A check of one's own arena from outside: does a published leaderboard order the models alike?

    reference = Ratings.read("text_to_image/latest-00000-of-00001.parquet")
    print(agreement(ratings, reference))
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from arena.escape import printable
from arena.ratings.table import HALF, Ratings


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
