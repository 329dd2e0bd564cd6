"""The arena's figures, drawn off screen.

Every function returns a matplotlib Figure that no window and no global state knows; `png` turns one
into bytes, small enough for a page's metadata where asked. What is drawn is computed elsewhere.
All are drawn narrow, so that their text can be read on a phone.
"""

import io
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import PercentFormatter

from arena.escape import unformatted
from arena.prediction.calibration import predict, reliability
from arena.prediction.held_out import BASELINES, Evaluation
from arena.ratings.comparisons import A_WINS, TIE, Comparisons
from arena.ratings.table import Ratings

COLOURS = ("#2a6f97", "#e07a5f", "#5b8e55", "#8d6a9f", "#c9a227", "#6c757d")
INK, GREY, FAINT = "#22303c", "#66727d", "#d8dee4"
LIMIT = 40  # models in one figure; more could not be read
NUMBERED = 14  # in a matrix of more models the cells are too small for a number
DASHED = (0, (4, 3))
WON = LinearSegmentedColormap.from_list("won", [COLOURS[1], "#ffffff", COLOURS[0]])
PREDICTION = {"online": COLOURS[1], "frozen": COLOURS[0]}


def png(figure: Figure, dpi: int = 180, limit: int | None = None) -> bytes:
    """Return the figure as PNG bytes; limit: at most so many bytes, by lower resolution."""
    with warnings.catch_warnings():
        # A letter that no font here has is drawn as a box; that is no reason to speak on stderr.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        while True:
            stream = io.BytesIO()
            figure.savefig(stream, format="png", dpi=dpi, facecolor="white")
            if limit is None or stream.tell() <= limit or dpi <= 30:
                return stream.getvalue()
            dpi = max(30, int(dpi * 0.85))


def canvas(
    width: float, height: float, title: str, across: str, upwards: str = ""
) -> tuple[Figure, Axes]:
    """Return a figure of so many inches and its plain axes; across, upwards: their labels."""
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.02, ha="left", fontsize=11, color=INK, fontweight="bold")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.set_axisbelow(True)
    axes.set_xlabel(across, fontsize=9, color=INK)
    axes.set_ylabel(upwards, fontsize=9, color=INK)
    return figure, axes


def leaderboard(ratings: Ratings) -> Figure:
    """Draw each model's rating with its 95% interval, best at the top, one colour for each group.

    The rating is Elo where the ratings have it (bradley_terry), else mu.
    """
    elo = "elo" in ratings.table.columns
    value, sd, digits = ("elo", "elo_sd", 0) if elo else ("mu", "sigma", 2)
    table = ratings.table.sort("group", "mu", descending=[False, True])
    cut = table.height - LIMIT
    table = table.head(LIMIT)
    several = ratings.table["group"].n_unique() > 1
    # One row for each model; a group's name stands in a row of its own.
    place = np.arange(table.height) + several * (table["group"].to_numpy() + 1.0)
    high = 1.1 + 0.27 * (place[-1] + 1 if table.height else 1)
    more = f"; {cut} more models are not drawn" if cut > 0 else ""
    what = "Elo scale, 1000 is a group's mean" if elo else "mu"
    across = f"{what} ({unformatted(ratings.estimator)}{more})"
    figure, axes = canvas(5.6, high, "Rating of each model, with its 95% interval", across)
    names = _short_names(ratings.table["model"].to_list())
    for at, row in zip(place, table.iter_rows(named=True), strict=True):
        colour = COLOURS[row["group"] % len(COLOURS)]
        half = 1.96 * row[sd]
        span = [row[value] - half, row[value] + half]
        axes.plot(span, [at, at], color=colour, lw=5, alpha=0.3, solid_capstyle="butt")
        axes.plot(row[value], at, "o", color=colour, ms=6)
        _beside(axes, 1.02, at, f"{row[value]:.{digits}f} ± {half:.{digits}f}")
    if several:
        for group in table["group"].unique().sort():
            top = place[(table["group"] == group).to_numpy()][0] - 1.0
            said = f"group {group}" + (", never compared with those above" if group else "")
            _beside(axes, 0.0, top, said, COLOURS[group % len(COLOURS)])
    axes.set_yticks(place, [names[model] for model in table["model"]])
    _rows_down(axes, place[-1] if table.height else 0)
    return figure


def held_out(evaluation: Evaluation) -> Figure:
    """Draw each method's log-loss on later votes: all blocks as a dot, each block as a tick."""
    table = evaluation.overall()
    title = "Log-loss on later votes (less is better)"
    said = "nats per vote; ticks are blocks of time, baselines are hollow"
    figure, axes = canvas(5.6, 1.3 + 0.27 * table.height, title, said)
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
        _beside(axes, 1.02, place, f"{row['log_loss']:.4f}")
    methods = table.select("method", "prediction").iter_rows()
    axes.set_yticks(range(table.height), [f"{unformatted(name)}, {kind}" for name, kind in methods])
    _rows_down(axes, table.height - 1)
    return figure


def gap_histogram(gaps: Mapping[str, pl.DataFrame]) -> Figure:
    """Draw the distribution of strict votes' gaps; gaps: columns `schema.GAPS` by estimator."""
    across = "how much better the winner is, on the scale of mu"
    figure, axes = canvas(5.4, 3.6, "The gap of each strict vote", across, "share of strict votes")
    strict = {
        name: table.filter(pl.col("outcome") != "tie")["gap"].drop_nulls()
        for name, table in gaps.items()
    }
    strict = {name: series for name, series in strict.items() if len(series)}
    values = np.concatenate([series.to_numpy() for series in strict.values()] or [np.zeros(0)])
    if not len(values):
        axes.text(0.5, 0.5, "no strict votes", transform=axes.transAxes, ha="center", color=INK)
        return figure
    low, high = min(0.0, float(np.quantile(values, 0.001))), float(np.quantile(values, 0.999))
    width = max(high - low, 1e-9) / 50.0
    edges = width * np.arange(np.floor(low / width), np.ceil(high / width) + 1)  # 0 is an edge
    for colour, (name, series) in zip(COLOURS, strict.items(), strict=False):
        inside = np.clip(series.to_numpy(), edges[0], edges[-1])
        share = np.histogram(inside, edges)[0] / len(inside)
        mean = float(series.mean())  # type: ignore[arg-type]
        axes.stairs(share, edges, fill=True, color=colour, alpha=0.45)
        axes.stairs(share, edges, color=colour, lw=1.2, label=f"{name}: mean {mean:.2f}")
        axes.axvline(mean, color=colour, lw=1.4, ls=DASHED)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="y", color=FAINT, lw=0.7)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return figure


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
    across = "predicted for the higher rated"
    figure, axes = canvas(4.8, 4.7, "Win rate of each pair of models", across, "observed")
    _shares(axes, 0.0)
    if not pairs:
        return figure
    i, j = np.array(pairs).T
    asked = Comparisons(comparisons.models, i, j, np.zeros(len(i), np.int8))
    p = predict(ratings, asked)
    predicted = p[:, A_WINS] + 0.5 * p[:, TIE]
    n = met[i, j]
    observed = (wins[i, j] + 0.5 * ties[i, j]) / n
    half = 1.96 * np.sqrt(np.maximum(observed * (1 - observed), 0.25 / n) / n)
    few = len(pairs) <= 300
    if few:
        # A pair that met a few times could have any rate: its interval stays pale.
        low, high = np.maximum(observed - half, 0.0), np.minimum(observed + half, 1.0)
        paleness = [(COLOURS[0], 0.1 + 0.3 * min(1.0, met / 50.0)) for met in n]
        axes.vlines(predicted, low, high, paleness, lw=1.4)
    area, alpha = 10 + 90 * n / n.max(), 0.75 if few else 0.35
    axes.scatter(predicted, observed, area, COLOURS[0], alpha=alpha, edgecolors="white", lw=0.5)
    # The higher rated seldom loses, so the corner below the diagonal is free.
    said = f"{len(pairs):,} pairs\n{int(n.sum()):,} votes"
    axes.text(0.97, 0.04, said, transform=axes.transAxes, ha="right", fontsize=9, color=GREY)
    return figure


def calibration(evaluation: Evaluation, method: str) -> Figure:
    """Draw how often the favourite won against how often it was expected to, on later votes."""
    labels = f"predicted by {unformatted(method)}", "observed on later votes, ties aside"
    figure, axes = canvas(4.8, 4.7, "How often the favourite wins", *labels)
    _shares(axes, 0.5)
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


def win_matrix(votes: pl.DataFrame | Comparisons, ratings: Ratings) -> Figure:
    """Draw the share of its votes that the row's model won over the column's, ties as half."""
    comparisons = Comparisons.of(votes)
    place = {name: k for k, name in enumerate(comparisons.models)}
    table = ratings.table.filter(pl.col("model").is_in(comparisons.models))
    table = table.sort("group", "mu", descending=[False, True]).head(LIMIT)
    names = list(_short_names(table["model"].to_list()).values())
    where = np.array([place[name] for name in table["model"]], dtype=np.int64)
    wins, ties = (counts[np.ix_(where, where)] for counts in comparisons.counts())
    met = wins + wins.T + ties
    share = np.divide(wins + ties / 2, met, out=np.full(met.shape, np.nan), where=met > 0)
    numbered = len(names) <= NUMBERED
    side = 2.2 + (0.36 if numbered else 0.16) * len(names)
    said = "best first; ties are half a win; empty where never met"
    figure, axes = canvas(side + 0.4, side, "Share of wins, row over column", said)
    axes.imshow(share, cmap=WON, vmin=0.0, vmax=1.0)
    for i, j in np.argwhere(met > 0) if numbered else ():
        colour = INK if 0.1 < share[i, j] < 0.8 else "white"
        axes.text(j, i, f"{share[i, j]:.0%}", ha="center", va="center", fontsize=8, color=colour)
    size = 9 if numbered else 7
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.spines[["left", "bottom"]].set_visible(False)
    return figure


def _short_names(models: Sequence[str]) -> dict[str, str]:
    """Return the models' names without the prefix (up to a separator) that all of them share."""
    first, last = min(models, default=""), max(models, default="")
    shared = next((k for k, (x, y) in enumerate(zip(first, last, strict=False)) if x != y), 0)
    cut = max((first.rfind(mark, 0, shared) for mark in "_-/:"), default=-1) + 1
    return {
        name: unformatted(name[cut:] if len(name) - cut <= 30 else name[cut:][:29] + "…")
        for name in models
    }


def _shares(axes: Axes, low: float) -> None:
    """Make both axes shares from low to 1, with the diagonal where they agree."""
    axes.plot([low, 1], [low, 1], color=INK, lw=0.9, ls=DASHED, zorder=1)
    axes.set_xlim(low - 0.02, 1.02)
    axes.set_ylim(low - 0.02, 1.02)
    axes.set_aspect("equal")
    axes.grid(color=FAINT, lw=0.7)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _rows_down(axes: Axes, last: float) -> None:
    """Let rows 0 to last run down the axes, each with its name on the left."""
    axes.set_ylim(last + 0.6, -0.7)
    axes.grid(axis="x", color=FAINT, lw=0.7)
    axes.spines["left"].set_visible(False)


def _beside(axes: Axes, across: float, row: float, said: str, colour: str = INK) -> None:
    """Write something into a row, across as a share of the axes' width."""
    where = axes.get_yaxis_transform()
    axes.annotate(said, (across, row), xycoords=where, va="center", fontsize=8.5, color=colour)
