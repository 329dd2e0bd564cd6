"""The printed tables, each made once: a frame of strings whose columns are the printed heads.

`as_text` lines a frame up for a terminal; the page's template walks the same rows.
"""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from arena.escape import printable
from arena.ratings.table import Ratings

if TYPE_CHECKING:  # it loads scipy, which `fit` has no use for
    from arena.prediction.held_out import Evaluation

# Columns of words stand to the left, columns of numbers to the right.
WORDS = frozenset({"model", "method", "predicts", "gap"})
GAIN = "nats over the better baseline"


def interval_sd(ratings: Ratings) -> np.ndarray:
    """Return the standard deviation of each model's mu from the mean of its group, (M,).

    A batch fit knows differences far better than the level of the whole board, which only the
    prior holds: sigma by itself would say that no model can be told from another. Without a
    covariance the models are independent, and sigma is returned.
    """
    sigma = ratings.table["sigma"].to_numpy()
    if ratings.covariance is None:
        return sigma
    group = ratings.table["group"].to_numpy()
    variance = np.empty(len(sigma))
    for members in (np.flatnonzero(group == each) for each in np.unique(group)):
        inside = ratings.covariance[np.ix_(members, members)]
        variance[members] = np.diag(inside)
        if len(members) > 1:  # a lone model has nobody to be apart from
            variance[members] += inside.mean() - 2.0 * inside.mean(1)
    return np.sqrt(np.maximum(variance, 0.0))


def places(ratings: Ratings) -> np.ndarray:
    """Return each model's place by interval within its group, (M,): several may share one.

    The place is 1 + how many models have a lower 95% bound above this model's upper one, as
    LMArena's leaderboard counts it.
    """
    mu, half = ratings.table["mu"].to_numpy(), 1.96 * interval_sd(ratings)
    group = ratings.table["group"].to_numpy()
    found = np.empty(len(mu), np.int64)
    for members in (np.flatnonzero(group == each) for each in np.unique(group)):
        low = np.sort((mu - half)[members])
        above = len(members) - np.searchsorted(low, (mu + half)[members], side="right")
        found[members] = 1 + above
    return found


def leaderboard_tables(ratings: Ratings) -> list[tuple[int, int, pl.DataFrame]]:
    """Return (group, its votes, its printed table) for each group of compared models.

    Columns: place (by interval), by mean, model, Elo where the ratings have it, mu, votes, won,
    lost, tied. The two scales carry their 95% intervals.
    """
    table = ratings.table.with_columns(place=places(ratings), sd=interval_sd(ratings))
    found = []
    for (group,), members in sorted(table.group_by("group", maintain_order=True)):
        # A published leaderboard has no tallies of wins and losses.
        tallies = {"votes": "votes", "wins": "won", "losses": "lost", "ties": "tied"}
        columns = {
            "place": [str(place) for place in members["place"]],
            "by mean": [str(1 + k) for k in range(members.height)],
            "model": [printable(name) for name in members["model"]],
        }
        if "elo" in members.columns:
            columns["Elo, 95%"] = [
                f"{elo:.0f} ± {1.96 * sd:.0f}"
                for elo, sd in members.select("elo", "elo_sd").iter_rows()
            ]
        columns["mu, 95%"] = [
            f"{mu:.3f} ± {1.96 * sd:.3f}" for mu, sd in members.select("mu", "sd").iter_rows()
        ]
        columns |= {
            head: ["" if n is None else f"{n:,}" for n in members[name]]
            for name, head in tallies.items()
        }
        votes = int(members["votes"].sum()) // 2
        found.append((int(group), votes, pl.DataFrame(columns)))
    return found


def held_out_table(evaluation: "Evaluation") -> pl.DataFrame:
    """Return the printed scores of every method on later votes, the best first."""
    rows = evaluation.overall()
    return pl.DataFrame(
        {
            "method": [printable(name) for name in rows["method"]],
            "predicts": rows["prediction"],
            "log-loss": [f"{value:.4f}" for value in rows["log_loss"]],
            "Brier": [f"{value:.4f}" for value in rows["brier"]],
            "accuracy": [f"{value:.1%}" for value in rows["accuracy"]],
            "calibration error": [f"{value:.3f}" for value in rows["calibration_error"]],
            GAIN: [
                f"{gain:+.4f} ± {half:.4f}" if half else "–"
                for gain, half in rows.select("gain", "gain_half").iter_rows()
            ],
            "unrated votes": [f"{n:,}" for n in rows["unrated"]],
        }
    )


def gap_table(gaps: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """Return the printed moments of the strict votes' gaps; gaps: `schema.GAPS` by estimator."""
    heads = ["gap", "strict votes", "mean", "sd", "upsets", "below 0"]
    rows = []
    for name, table in gaps.items():
        strict = table.filter((pl.col("outcome") != "tie") & pl.col("gap").is_not_null())
        if strict.height:
            gap, odds = strict["gap"].to_numpy(), strict["probability"].to_numpy()
            mean, sd = f"{gap.mean():.3f}", f"{gap.std():.3f}"
            shares = (f"{np.mean(odds < 0.5):.1%}", f"{np.mean(gap < 0.0):.1%}")
            rows.append((name, f"{len(gap):,}", mean, sd, *shares))
    return pl.DataFrame(rows, dict.fromkeys(heads, pl.String), orient="row")


def as_text(table: pl.DataFrame) -> list[str]:
    """Return a frame of strings as lines for a terminal, its columns lined up under their heads."""
    columns = []
    for head in table.columns:
        cells = [head, *table[head]]
        wide = max(map(len, cells))
        columns.append([f"{c:<{wide}}" if head in WORDS else f"{c:>{wide}}" for c in cells])
    return ["  ".join(("", *cells)).rstrip() for cells in zip(*columns, strict=True)]
