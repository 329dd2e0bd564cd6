"""Ratings and predictions said in text, for the terminal."""

from typing import TYPE_CHECKING

from arena.escape import printable
from arena.ratings.table import Ratings
from arena.report import tables

if TYPE_CHECKING:  # it loads scipy, which `fit` has no use for
    from arena.prediction.held_out import Evaluation


def leaderboard(ratings: Ratings) -> str:
    """Return the ratings as text, one block for each group of models that were compared."""
    parts = tables.leaderboard_tables(ratings)
    lines = [fit(ratings)]
    for group, votes, table in parts:
        title = f"group {group}: " if len(parts) > 1 else ""
        lines += ["", f"{title}{_count(len(table), 'model')}, {_count(votes, 'vote')}"]
        lines += tables.as_text(table)
    if len(parts) > 1:
        lines += [
            "",
            f"The {len(parts)} groups were never compared with each other: "
            "a rating says nothing about a model of another group.",
        ]
    return "\n".join(lines)


def fit(ratings: Ratings) -> str:
    """Return what made the ratings, such as "trueskill: beta 4.167, epsilon 0.7404"."""
    said = ", ".join(f"{key} {value:.4g}" for key, value in ratings.parameters.items())
    return printable(f"{ratings.estimator}: {said}")


def held_out_table(evaluation: "Evaluation") -> str:
    """Return how well each method predicted later votes, the best first."""
    votes = evaluation.overall()["votes"][0]
    return "\n".join(
        [
            f"prediction of the last {_count(votes, 'vote')} from those before "
            "(frozen: before their block; online: before each)",
            *tables.as_text(tables.held_out_table(evaluation)),
        ]
    )


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("" if n == 1 else "s")
