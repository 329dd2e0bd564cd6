"""The arena's pictures, drawn off screen.

Every function returns a matplotlib Figure that no window and no global state knows; `png` turns one
into bytes, small enough for a page's metadata where asked. What is drawn is computed elsewhere.
"""

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from arena.calibration import HeldOut, predict, reliability
from arena.ratings import Ratings
from arena.votes.comparisons import A_WINS, B_WINS, Comparisons

COLOURS = ("#2a6f97", "#e07a5f", "#5b8e55", "#8d6a9f", "#c9a227", "#6c757d")
INK, FAINT = "#22303c", "#d8dee4"
LIMIT = 40  # models in one figure; more could not be read


def png(figure: Figure, dpi: int = 140, limit: int | None = None) -> bytes:
    """Return the figure as PNG bytes; limit: at most so many bytes, by lower resolution."""
    while True:
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=dpi, facecolor="white")
        if limit is None or stream.tell() <= limit or dpi <= 30:
            return stream.getvalue()
        dpi = max(30, int(dpi * 0.85))


def _figure(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold", pad=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=8.5, length=0)
    axes.set_axisbelow(True)
    return figure, axes


def short_names(models: Sequence[str]) -> dict[str, str]:
    """Return the models' names without the prefix (up to a separator) that all of them share."""
    first, last = min(models, default=""), max(models, default="")
    shared = next((k for k, (x, y) in enumerate(zip(first, last, strict=False)) if x != y), 0)
    cut = max((first.rfind(mark, 0, shared) for mark in "_-/:"), default=-1) + 1
    return {name: name[cut:] if len(name[cut:]) <= 34 else name[cut:][:33] + "…" for name in models}


def leaderboard(ratings: Ratings) -> Figure:
    """Draw mu with its 95% interval for each model, best at the top, one colour a group."""
    table = ratings.table.sort("group", "mu", descending=[False, True])
    cut = table.height - LIMIT
    table = table.head(LIMIT)
    several = ratings.table["group"].n_unique() > 1
    title = "Capability of each model, with 95% intervals"
    if several:
        title += "\n(colours are groups that were never compared)"
    figure, axes = _figure(7.2, 1.5 + 0.28 * table.height, title)
    names = short_names(ratings.table["model"].to_list())
    for place, row in enumerate(table.iter_rows(named=True)):
        colour = COLOURS[row["group"] % len(COLOURS)]
        half = 1.96 * row["sigma"]
        axes.plot(
            [row["mu"] - half, row["mu"] + half],
            [place, place],
            color=colour,
            lw=5,
            alpha=0.28,
            solid_capstyle="round",
        )
        axes.plot(row["mu"], place, "o", color=colour, ms=6)
        axes.annotate(
            f"{row['mu']:.1f}",
            (row["mu"], place),
            (0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=7,
            color=INK,
        )
    labels = [f"{names[m]}  ({n:,})" for m, n in table.select("model", "votes").iter_rows()]
    axes.set_yticks(range(table.height), labels)
    axes.set_ylim(table.height - 0.4, -0.7)
    axes.grid(axis="x", color=FAINT, lw=0.7)
    more = f"; {cut} more models are not drawn" if cut > 0 else ""
    axes.set_xlabel(f"mu (votes in brackets{more})", fontsize=9, color=INK)
    return figure


def gap_histogram(gaps: Mapping[str, pl.DataFrame]) -> Figure:
    """Draw the distribution of strict votes' gaps; gaps: columns `schema.GAPS` by estimator."""
    figure, axes = _figure(6.4, 3.6, "How much better the winner is: the gap of each strict vote")
    strict = {name: table.filter(pl.col("outcome") != "tie")["gap"] for name, table in gaps.items()}
    values = np.concatenate([series.to_numpy() for series in strict.values()] or [np.zeros(0)])
    if not len(values):
        axes.text(0.5, 0.5, "no strict votes", transform=axes.transAxes, ha="center", color=INK)
        return figure
    low, high = min(0.0, float(np.quantile(values, 0.001))), float(np.quantile(values, 0.999))
    edges = np.linspace(low, max(high, low + 1e-9), 51)
    for colour, (name, series) in zip(COLOURS, strict.items(), strict=False):
        one = series.to_numpy()
        weights = np.full(len(one), 1.0 / len(one))
        axes.hist(
            np.clip(one, edges[0], edges[-1]), edges.tolist(), weights=weights, color=colour, alpha=0.6
        )
        mean = float(one.mean())
        axes.axvline(mean, color=colour, lw=1.4, ls=(0, (4, 3)))
        axes.plot([], [], color=colour, lw=5, alpha=0.6, label=f"{name}: mean {mean:.2f}")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(axis="y", color=FAINT, lw=0.7)
    axes.set_xlabel("gap, on the scale of mu", fontsize=9, color=INK)
    axes.set_ylabel("share of strict votes", fontsize=9, color=INK)
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    return figure


def _rates(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.plot([0, 1], [0, 1], color=INK, lw=0.9, ls=(0, (4, 3)), zorder=1)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")
    axes.grid(color=FAINT, lw=0.7)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel(xlabel, fontsize=9, color=INK)
    axes.set_ylabel(ylabel, fontsize=9, color=INK)


def win_rates(votes: pl.DataFrame | Comparisons, ratings: Ratings) -> Figure:
    """Draw each pair's observed share of wins (of the model with the higher mu) by the predicted.

    Ties count as half a win in both. A pair's area grows with its votes.
    """
    comparisons = Comparisons.of(votes)
    wins, ties = comparisons.counts()
    met = wins + wins.T + ties
    rank = {name: place for place, name in enumerate(ratings.table["model"])}
    order = np.argsort([rank[name] for name in comparisons.models])
    pairs = [(i, j) for k, i in enumerate(order) for j in order[k + 1 :] if met[i, j]]
    figure, axes = _figure(4.8, 5.0, "Win rates of each pair of models")
    _rates(axes, "predicted", "observed")
    if pairs:
        i, j = np.array(pairs).T
        asked = Comparisons(comparisons.models, i, j, np.zeros(len(i), np.int8))
        p = predict(ratings, asked)
        predicted = p[:, A_WINS] + 0.5 * (1.0 - p[:, A_WINS] - p[:, B_WINS])
        n = met[i, j]
        observed = (wins[i, j] + 0.5 * ties[i, j]) / n
        half = 1.96 * np.sqrt(np.maximum(observed * (1 - observed), 0.25 / n) / n)
        if len(pairs) <= 300:
            axes.errorbar(
                predicted,
                observed,
                yerr=[np.minimum(half, observed), np.minimum(half, 1 - observed)],
                fmt="none",
                ecolor=COLOURS[0],
                alpha=0.35,
                lw=1,
            )
        area = 10 + 90 * n / n.max()
        axes.scatter(predicted, observed, area, COLOURS[0], alpha=0.75, edgecolors="white", lw=0.6)
        axes.text(
            0.03,
            0.95,
            f"{len(pairs):,} pairs, {int(n.sum()):,} votes",
            transform=axes.transAxes,
            fontsize=8.5,
            color=INK,
        )
    return figure


def calibration(result: HeldOut) -> Figure:
    """Draw how often the predicted happened, on votes after those that were fitted."""
    figure, axes = _figure(4.8, 5.0, f"Calibration on {result.votes:,} later votes")
    _rates(axes, "predicted P(a wins), ties aside", "observed")
    points = reliability(result.probability, result.outcome)
    if points:
        x, y, half, _ = np.array(points).T
        axes.errorbar(x, y, yerr=half, fmt="o-", color=COLOURS[0], ms=5, lw=1.2, elinewidth=1)
    lines = [f"log-loss {result.log_loss:.4f}"]
    lines += [f"{name} {score.log_loss:.4f}" for name, score in result.baselines.items()]
    axes.text(
        0.03, 0.97, "\n".join(lines), transform=axes.transAxes, fontsize=8.5, va="top", color=INK
    )
    return figure


def comparison_graph(votes: pl.DataFrame | Comparisons, ratings: Ratings) -> Figure:
    """Draw who met whom: models on a circle from the best, an edge as wide as its votes."""
    comparisons = Comparisons.of(votes)
    wins, ties = comparisons.counts()
    met = wins + wins.T + ties
    figure, axes = _figure(6.6, 6.2, "Who was compared with whom")
    axes.set_axis_off()
    axes.set_aspect("equal")
    place = {name: k for k, name in enumerate(comparisons.models)}
    shown = ratings.table.filter(pl.col("model").is_in(comparisons.models))
    shown = shown.sort("group", "mu", descending=[False, True]).head(LIMIT)
    names = short_names(shown["model"].to_list())
    where = np.array([place[name] for name in shown["model"]], dtype=np.int64)
    angle = math.pi / 2 - 2 * math.pi * np.arange(len(where)) / max(len(where), 1)
    x, y = np.cos(angle), np.sin(angle)
    most = max(int(met[np.ix_(where, where)].max(initial=0)), 1)
    for i in range(len(where)):
        for j in range(i + 1, len(where)):
            share = met[where[i], where[j]] / most
            if share:
                axes.plot(
                    x[[i, j]],
                    y[[i, j]],
                    color=COLOURS[0],
                    lw=0.4 + 5 * share,
                    alpha=0.15 + 0.45 * share,
                    zorder=1,
                    solid_capstyle="round",
                )
    colours = [COLOURS[group % len(COLOURS)] for group in shown["group"]]
    axes.scatter(x, y, 90, colours, edgecolors="white", lw=1.2, zorder=2)
    for k, row in enumerate(shown.iter_rows(named=True)):
        left = x[k] < -0.01
        turn = math.degrees(angle[k]) + (180 if left else 0)
        axes.text(
            1.07 * x[k],
            1.07 * y[k],
            names[row["model"]],
            fontsize=8,
            color=INK,
            rotation=turn,
            rotation_mode="anchor",
            ha="right" if left else "left",
            va="center",
        )
    axes.set_xlim(-1.75, 1.75)
    axes.set_ylim(-1.65, 1.65)
    axes.text(
        -1.72,
        -1.6,
        f"widest edge: {most:,} votes; clockwise from the top by mu, group by group",
        fontsize=8,
        color=INK,
    )
    return figure
