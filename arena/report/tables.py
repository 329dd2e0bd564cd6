"""The printed tables, each made once: a frame of strings whose columns are the printed heads.

`leaderboard` and `held_out` line them up for a terminal; the page's template walks the same rows.
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


def leaderboard_tables(ratings: Ratings) -> list[tuple[int, int, pl.DataFrame]]:
    """Return (group, its votes, its printed table) for each group of compared models.

    Columns: place (by interval), by mean, model, Elo where the ratings have it, mu, votes, won,
    lost, tied. The two scales carry their 95% intervals.
    """
    table = ratings.table.with_columns(ratings.places())
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
            f"{mu:.3f} ± {1.96 * sd:.3f}" for mu, sd in members.select("mu", "sigma").iter_rows()
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


def fit(ratings: Ratings) -> str:
    """Return what made the ratings, such as "trueskill: beta 4.167, epsilon 0.7404"."""
    said = ", ".join(f"{key} {value:.4g}" for key, value in ratings.parameters.items())
    return printable(f"{ratings.estimator}: {said}")


def leaderboard(ratings: Ratings, most: int | None = None) -> str:
    """Return the ratings as text, one block for each group of models that were compared.

    most: how many models of a group are shown, the best first; None for all of them.
    """
    parts = leaderboard_tables(ratings)
    lines = [fit(ratings)]
    for group, votes, table in parts:
        title = f"group {group}: " if len(parts) > 1 else ""
        lines += ["", f"{title}{_count(len(table), 'model')}, {_count(votes, 'vote')}"]
        lines += _lines(table[:most])
        if most is not None and len(table) > most:
            lines.append(f"  ... and {len(table) - most:,} more")
    if len(parts) > 1:
        lines += [
            "",
            f"The {len(parts)} groups were never compared with each other: "
            "a rating says nothing about a model of another group.",
        ]
    return "\n".join(lines)


def held_out(evaluation: "Evaluation") -> str:
    """Return how well each method predicted later votes as text, the best first."""
    said = (
        f"prediction of the last {_count(evaluation.overall()['votes'][0], 'vote')} from those "
        "before (frozen: before their block; online: before each)"
    )
    return "\n".join([said, *_lines(held_out_table(evaluation))])


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("" if n == 1 else "s")


def _lines(table: pl.DataFrame) -> list[str]:
    """Return a frame of strings as lines, its columns lined up under their heads."""
    columns = []
    for head in table.columns:
        cells = [head, *table[head]]
        wide = max(map(len, cells))
        columns.append([f"{c:<{wide}}" if head in WORDS else f"{c:>{wide}}" for c in cells])
    return ["  ".join(("", *cells)).rstrip() for cells in zip(*columns, strict=True)]
