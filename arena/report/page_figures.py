"""The pictures that only the report shows: who met whom, and how later votes were predicted."""

import math

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from arena.prediction.calibration import reliability
from arena.prediction.held_out import BASELINES, Evaluation
from arena.ratings.comparisons import Comparisons
from arena.ratings.table import Ratings
from arena.report.figures import COLOURS, FAINT, GREY, INK, LIMIT, canvas, rates, short_names

# In a matrix of more models than this the cells are too small for a number.
NUMBERED = 14
# On a circle of more models than this the names must stand along the radius.
CROWDED = 16
WON = LinearSegmentedColormap.from_list("won", [COLOURS[1], "#ffffff", COLOURS[0]])
PREDICTION = {"online": COLOURS[1], "frozen": COLOURS[0]}


def calibration(evaluation: Evaluation, method: str) -> Figure:
    """Draw how often the favourite won against how often it was expected to, on later votes."""
    figure, axes = canvas(4.8, 4.7, "How often the favourite wins")
    rates(axes, 0.5, f"predicted by {method}", "observed on later votes, ties aside")
    lowest = 0.5
    for kind, colour in PREDICTION.items():
        if (method, kind) not in evaluation.probability:
            continue
        points = reliability(evaluation.probability[method, kind], evaluation.outcome)
        if points:
            x, y, half, _ = np.array(points).T
            lowest = min(lowest, float((y - half).min()))
            axes.errorbar(
                x, y, half, fmt="o-", color=colour, ms=5, lw=1.2, elinewidth=1, label=kind
            )
    axes.set_ylim(lowest - 0.02, 1.02)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper left")
    return figure


def held_out(evaluation: Evaluation) -> Figure:
    """Draw each method's log-loss on later votes: all blocks as a dot, each block as a tick."""
    table = evaluation.overall()
    figure, axes = canvas(
        5.6, 1.3 + 0.27 * table.height, "Log-loss on later votes (less is better)"
    )
    for place, row in enumerate(table.iter_rows(named=True)):
        colour = PREDICTION[row["prediction"]]
        blocks = evaluation.table.filter(
            (pl.col("method") == row["method"])
            & (pl.col("prediction") == row["prediction"])
            & pl.col("block").is_not_null()
        )["log_loss"]
        axes.plot(blocks, [place] * len(blocks), "|", color=colour, ms=8, alpha=0.5)
        fill = "white" if row["method"] in BASELINES else colour
        axes.plot(row["log_loss"], place, "o", color=colour, mfc=fill, ms=6, mew=1.4)
        axes.annotate(
            f"{row['log_loss']:.4f}",
            (1.02, place),
            xycoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=8.5,
            color=INK,
        )
    axes.set_yticks(
        range(table.height),
        [f"{m}, {kind}" for m, kind in table.select("method", "prediction").iter_rows()],
    )
    axes.set_ylim(table.height - 0.4, -0.6)
    axes.grid(axis="x", color=FAINT, lw=0.7)
    axes.spines["left"].set_visible(False)
    said = "nats a vote; ticks are blocks of time, baselines are hollow"
    axes.set_xlabel(said, fontsize=9, color=INK)
    return figure


def win_matrix(votes: pl.DataFrame | Comparisons, ratings: Ratings) -> Figure:
    """Draw the share of its votes that the row's model won over the column's, ties as half."""
    where, shown = _placed(Comparisons.of(votes), ratings)
    wins, ties = (table[np.ix_(where, where)] for table in Comparisons.of(votes).counts())
    met = wins + wins.T + ties
    share = np.divide(wins + ties / 2, met, out=np.full(met.shape, np.nan), where=met > 0)
    names = list(short_names(shown["model"].to_list()).values())
    side = 2.2 + (0.36 if len(names) <= NUMBERED else 0.16) * len(names)
    figure, axes = canvas(side + 0.4, side, "Share of wins, row over column")
    axes.imshow(share, cmap=WON, vmin=0.0, vmax=1.0)
    if len(names) <= NUMBERED:
        for i, j in np.argwhere(met > 0):
            colour = INK if 0.1 < share[i, j] < 0.8 else "white"
            said = f"{share[i, j]:.0%}"
            axes.text(j, i, said, ha="center", va="center", fontsize=8, color=colour)
    size = 9 if len(names) <= NUMBERED else 7
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.spines[["left", "bottom"]].set_visible(False)
    said = "best first; ties are half a win; empty where never met"
    axes.set_xlabel(said, fontsize=9, color=INK)
    return figure


def comparison_graph(votes: pl.DataFrame | Comparisons, ratings: Ratings) -> Figure:
    """Draw who met whom: each group on a circle of its own, an edge as wide as its votes."""
    comparisons = Comparisons.of(votes)
    where, shown = _placed(comparisons, ratings)
    wins, ties = (table[np.ix_(where, where)] for table in comparisons.counts())
    met = wins + wins.T + ties
    names = np.array(list(short_names(shown["model"].to_list()).values()), dtype=object)
    circles = [
        np.flatnonzero((shown["group"] == group).to_numpy())
        for group in shown["group"].unique().sort()
    ]
    crowded = max(map(len, circles), default=0) > CROWDED
    apart = 4.0 if crowded else 3.1
    figure, axes = canvas(5.8, 0.6 + 1.33 * apart * len(circles), "Who was compared with whom")
    axes.set_axis_off()
    axes.set_aspect("equal")
    for row, members in enumerate(circles):
        colour = COLOURS[row % len(COLOURS)]
        most = int(met[np.ix_(members, members)].max())
        middle = -apart * row
        angle = math.pi / 2 - 2 * math.pi * np.arange(len(members)) / len(members)
        x, y = np.cos(angle), np.sin(angle) + middle
        for i, j in np.argwhere(np.triu(met[np.ix_(members, members)], 1)):
            share = met[members[i], members[j]] / most
            width, alpha = 0.5 + 5.0 * share, 0.2 + 0.45 * share
            axes.plot(x[[i, j]], y[[i, j]], color=colour, lw=width, alpha=alpha, zorder=1)
        axes.scatter(x, y, 80, colour, edgecolors="white", lw=1.2, zorder=2)
        for name, at in zip(names[members], angle, strict=True):
            _label(axes, name, at, middle, crowded)
        said = f"clockwise from the top by rating; the widest edge is {most:,} votes"
        axes.text(0, middle - apart / 2 + 0.12, said, ha="center", fontsize=8.5, color=GREY)
    axes.set_xlim(-2.15, 2.15)
    axes.set_ylim(-apart * (len(circles) - 0.5), apart / 2 - 0.2)
    return figure


def _label(axes: Axes, name: str, angle: float, middle: float, crowded: bool) -> None:
    """Write a name outside the circle: along its radius where there are many, else level."""
    across, up = math.cos(angle), math.sin(angle)
    side = "left" if across > 0.01 else "right" if across < -0.01 else "center"
    turn = 0.0
    if crowded:
        side = "left" if across >= -0.01 else "right"
        turn = math.degrees(angle) + (180.0 if side == "right" else 0.0)
    elif side == "center":
        up *= 1.06
    axes.text(
        1.1 * across,
        1.1 * up + middle,
        name,
        fontsize=8.5 if not crowded else 7.5,
        color=INK,
        rotation=turn,
        rotation_mode="anchor",
        ha=side,
        va="center",
    )


def _placed(comparisons: Comparisons, ratings: Ratings) -> tuple[np.ndarray, pl.DataFrame]:
    """Return (positions in `comparisons.models`, rows) of the models shown, best first by group."""
    place = {name: k for k, name in enumerate(comparisons.models)}
    shown = ratings.table.filter(pl.col("model").is_in(comparisons.models))
    shown = shown.sort("group", "mu", descending=[False, True]).head(LIMIT)
    return np.array([place[name] for name in shown["model"]], dtype=np.int64), shown
