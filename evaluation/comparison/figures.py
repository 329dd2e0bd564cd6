"""Pictures of a comparison: win rates, K-Sort's course, and images side by side.

Matplotlib figures drawn off screen; every function returns PNG bytes. What is drawn is computed
elsewhere.
"""

import io
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from PIL import Image

from arena.escape import unformatted
from arena.votes.images import ImageFault
from evaluation.errors import EvaluationError
from evaluation.pictures import FILES
from evaluation.tables import IMAGES, read_table

INK, GREY, FAINT, WORSE = "#22303c", "#6c757d", "#d8dee4", "#e07a5f"
VERDICTS = {"better": "#2a6f97", "worse": WORSE, "open": "#8a939c"}
COLOURS = ("#2a6f97", "#e07a5f", "#5b8e55", "#8d6a9f", "#c9a227", "#6c757d")
ENOUGH = 0.75  # sigma at which K-Sort Eval stops
SMALL = 45_000  # bytes that a page's metadata carries easily
STYLE = {
    "axes.titlelocation": "left", "axes.titlesize": 11, "axes.titlecolor": INK,
    "axes.titleweight": "bold", "axes.titlepad": 10, "axes.edgecolor": FAINT,
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
    "axes.grid": True, "axes.grid.axis": "x", "axes.axisbelow": True,
    "grid.color": FAINT, "grid.linewidth": 0.6,
    "xtick.color": INK, "xtick.labelsize": 9, "xtick.major.size": 0,
    "ytick.color": INK, "ytick.labelsize": 9, "ytick.major.size": 0,
}  # fmt: skip


def to_png(figure: Figure, limit: int | None = None) -> bytes:
    """Encode a figure; limit: at most so many bytes, by fewer colours and lower resolution."""
    for dpi in (140, 110, 85, 65, 50, 40):
        sink = io.BytesIO()
        figure.savefig(sink, format="png", dpi=dpi, facecolor="white")
        if limit is None or sink.tell() <= limit:
            break
        picture = Image.open(sink).convert("RGB").quantize(48, dither=Image.Dither.NONE)
        sink = io.BytesIO()
        picture.save(sink, format="PNG", optimize=True)
        if sink.tell() <= limit:
            break
    return sink.getvalue()


@rc_context(STYLE)
def win_rate_chart(table: Any, baseline: str, *, limit: int | None = SMALL) -> bytes:
    """Win rates over the baseline with their intervals, best first.

    table : columns policy, win_rate, win_rate_low, win_rate_high (null for the baseline itself) and
        verdict ("better", "worse", "open"), which colours them.
    """
    columns = (table if isinstance(table, pa.Table) else table.to_arrow()).to_pydict()
    names = ("policy", "win_rate", "win_rate_low", "win_rate_high", "verdict")
    rows = [
        row
        for row in zip(*(columns[name] for name in names), strict=True)
        if row[0] != baseline and row[1] is not None and np.isfinite(row[1])
    ]
    rows.sort(key=lambda row: -row[1])
    figure = Figure(figsize=(6.4, 1.5 + 0.45 * max(len(rows), 1)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(unformatted(f"Win rate over {baseline}"))
    axes.axvline(0.5, color=INK, lw=1, ls=(0, (4, 3)))
    for place, (_, rate, low, high, verdict) in enumerate(rows):
        colour = VERDICTS[verdict]
        axes.plot([low, high], [place] * 2, color=colour, lw=6, alpha=0.3, solid_capstyle="round")
        axes.plot(rate, place, "o", color=colour, ms=7)
        axes.text(rate, place - 0.22, f"{rate:.1%}", ha="center", fontsize=8.5, color=INK)
    axes.set_yticks(range(len(rows)), [unformatted(row[0]) for row in rows])
    axes.set_ylim(len(rows) - 0.45, -0.75)
    reach = max([0.08, *(abs(end - 0.5) for row in rows for end in row[2:4])])
    axes.set_xlim(max(-0.02, 0.46 - reach), min(1.02, 0.54 + reach))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    figure.supxlabel(
        "share of images that score higher than the baseline's of the same prompt; bar: 95%\n"
        "interval over prompts; blue: better by a corrected test, red: worse, grey: not told apart",
        fontsize=8,
        color=GREY,
    )
    return to_png(figure, limit=limit)


@rc_context({**STYLE, "axes.grid.axis": "both"})
def ksort_chart(results: Mapping[str, Mapping[str, Any]], *, limit: int | None = SMALL) -> bytes:
    """Rating after each round of K-Sort Eval for every policy: mu ± sigma above, sigma below.

    results : policy -> content of result.json.
    """
    figure = Figure(figsize=(6.4, 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    above.set_title("K-Sort Eval: rating after each round")
    for i, (policy, result) in enumerate(results.items()):
        mu = np.array([25.0, *(one["mu"] for one in result["rounds"])])
        sigma = np.array([25 / 3, *(one["sigma"] for one in result["rounds"])])
        colour, rounds = COLOURS[i % len(COLOURS)], np.arange(len(mu))
        dashes = ("-", "--", ":")[i // len(COLOURS) % 3]  # where the colours come round again
        above.fill_between(rounds, mu - sigma, mu + sigma, color=colour, alpha=0.12, lw=0)
        above.plot(
            rounds, mu, dashes, color=colour, lw=1.8, label=unformatted(f"{policy}  {mu[-1]:.1f}")
        )
        below.plot(rounds, sigma, dashes, color=colour, lw=1.8)
    below.axhline(ENOUGH, color=INK, lw=1, ls=(0, (4, 3)))
    below.set_ylim(0, 9)
    above.legend(frameon=False, fontsize=8.5, ncols=2, labelcolor=INK)
    below.set_xlabel(f"round; settled when sigma is below {ENOUGH}", fontsize=8.5, color=GREY)
    above.set_ylabel("mu ± sigma", fontsize=8.5, color=GREY)
    below.set_ylabel("sigma", fontsize=8.5, color=GREY)
    return to_png(figure, limit=limit)


def image_grid(images: Mapping[str, Path], prompts: int = 6, *, limit: int | None = SMALL) -> bytes:
    """Images of several policies for the same prompts and noise, a row a policy.

    images : policy -> its images.parquet (or .csv), as `generate` writes it. The prompts are
    spread evenly over those that every policy has an image for. A missing image is a crossed field.
    """
    tables: dict[str, dict[str, tuple[str, str]]] = {}
    for policy, path in images.items():
        found = read_table(path, IMAGES).to_pydict()
        ids = found.get("prompt_id", found["prompt"])
        rows = zip(
            ids, found["prompt"], found["image"], found.get("seed", [0] * len(ids)), strict=True
        )
        tables[policy] = {one: (text, image) for one, text, image, seed in rows if not seed}
    first = next(iter(tables.values()))
    shared = [key for key in first if all(key in table for table in tables.values())]
    if not shared:
        raise EvaluationError("the policies have no prompt in common to be shown side by side")
    places = np.linspace(0, len(shared) - 1, min(prompts, len(shared)), dtype=int)
    figure = Figure(figsize=(1.2 * len(places) + 1, 1.2 * len(tables) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(tables), len(places), squeeze=False)
    for axes_of_policy, (policy, table) in zip(grid, tables.items(), strict=True):
        for axes, key in zip(axes_of_policy, (shared[place] for place in places), strict=True):
            text, image = table[key]
            if axes in grid[0]:
                lines = textwrap.wrap(text[:100], 20, max_lines=4, placeholder=" …")
                title = "\n".join(map(unformatted, lines))
                axes.set_title(title, fontsize=6, color=GREY, loc="left")
            show_image(axes, Path(image))
        label = unformatted(textwrap.shorten(policy, 24, placeholder="…"))
        axes_of_policy[0].set_ylabel(
            label, rotation=0, ha="right", va="center", color=INK, fontsize=8
        )
    return to_png(figure, limit=limit)


def show_image(axes: Axes, path: Path) -> None:
    """An image on axes without ticks, small ones pixel by pixel; a cross where there is none."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(FAINT)
    try:
        picture = FILES.read(str(path))
    except ImageFault:
        axes.plot([0, 1], [0, 1], [0, 1], [1, 0], color=WORSE)
        axes.spines[:].set_color(WORSE)
        return
    picture.thumbnail((256, 256))
    axes.imshow(picture, interpolation="nearest" if max(picture.size) < 96 else "auto")
