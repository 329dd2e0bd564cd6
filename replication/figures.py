"""The pictures: what each gap gains in every world, how true it is, and how training goes."""

from collections.abc import Iterable, Sequence

import polars as pl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from arena.report.figures import COLOURS, DASHED, FAINT, GREY, INK
from replication import contrasts as compare
from replication.contrasts import (
    CAPABILITY,
    DPO,
    FIXED,
    JOINT,
    MODELS,
    ORACLE,
    OUTCOMES,
    PAIRWISE,
    SHUFFLED,
)
from replication.matrix import GAMMAS, Policy, tried
from replication.runs import LEARNING_RATE, STEPS
from replication.world import WORLDS

NAMES = {
    "pairwise": "pairwise gap (the paper's)",
    "joint": "joint gap",
    "capability": "capability gap (difference of mu)",
    "models": "true difference of the models (control)",
    "oracle": "true difference of the images (control)",
    "shuffled": "joint gap, shuffled (control)",
    "one": "fixed margin",
}
COLOUR = dict(zip(NAMES, [*(COLOURS[k] for k in (1, 0, 2, 3, 4, 5)), INK], strict=True))
UNITS = {"reward": "mean quality", "win_rate": "win rate over the base"}


def worlds(runs: pl.DataFrame) -> Figure:
    """What each gap gains over a fixed margin: a row per world, a panel per outcome."""
    places = [world for world in WORLDS if world in compare.worlds_of(runs)]
    figure, panels = _panels("What each gap gains over a fixed margin, at one setting", OUTCOMES)
    figure.set_size_inches(9.6, 1.9 + 0.42 * len(places))
    for axes, outcome in zip(panels, OUTCOMES, strict=True):
        axes.axvline(0.0, color=GREY, linestyle=DASHED, linewidth=1)
        for k, policy in enumerate((PAIRWISE, JOINT, CAPABILITY, ORACLE)):
            found = compare.contrasts(runs, outcome, [(policy, FIXED)])
            axes.errorbar(
                [one.mean for one in found],
                [places.index(one.over) + 0.17 * (k - 1.5) for one in found],
                xerr=[[c.mean - c.low for c in found], [c.high - c.mean for c in found]],
                fmt="o", color=COLOUR[policy.gap], label=NAMES[policy.gap], linewidth=1.2,
                markersize=4, capsize=2,
            )  # fmt: skip
        axes.set_yticks(range(len(places)), places)
        axes.set_ylim(len(places) - 0.5, -0.5)
        axes.set_xlabel(f"{UNITS[outcome]}, minus the fixed margin's; 95% interval", fontsize=9)
        axes.grid(axis="y", color=FAINT, linewidth=0.5)
        axes.set_axisbelow(True)
    _legend(figure, panels[0])
    return figure


def truth(gaps: pl.DataFrame) -> Figure:
    """Correlation of each gap with the latent difference, mean over seeds, against votes."""
    series = {"close": "models of close ability", "far": "models far apart"}
    figure, panels = _panels("How true is each gap?", series)
    means = gaps.group_by("world", "gap").agg(pl.col("correlation").mean())
    for axes, (name, title) in zip(panels, series.items(), strict=True):
        places = [world for world in WORLDS if world.startswith(f"{name}-")]
        axes.set_title(title, fontsize=10, color=INK, loc="left")
        for gap in ("pairwise", "joint", "capability", "models"):
            cells = dict(means.filter(gap=gap).select("world", "correlation").iter_rows())
            _line(axes, [cells[world] for world in places], NAMES[gap], COLOUR[gap])
        votes = [f"{WORLDS[world].votes_per_image:g}" for world in places]
        axes.set_xticks(range(len(places)), votes)
        axes.set_xlabel("votes per image", fontsize=9, color=INK)
        axes.set_ylim(0, 1)
    panels[0].set_ylabel("correlation with the true difference", fontsize=9, color=INK)
    _legend(figure, panels[0])
    return figure


def response(results: pl.DataFrame) -> Figure:
    """Mean reward on the tuning seeds against gamma, a panel per beta_dpo."""
    tuning = results.filter(split="tuning", steps=STEPS, learning_rate=LEARNING_RATE, spread=0.0)
    world = tuning["world"][0]
    early = sorted(tuning["seed"].unique())[:3]  # on which every setting was tried
    tuning = tuning.filter(pl.col("world") == world, pl.col("seed").is_in(early))
    figure, panels = _panels(f"Reward against gamma, on the tuning seeds of {world}", GAMMAS)
    own_beta = tried(results, world, DPO)[0][1]
    level = tuning.filter(objective="dpo", beta_dpo=own_beta).select(pl.mean("reward")).item()
    for axes, (beta, gammas) in zip(panels, GAMMAS.items(), strict=True):
        axes.set_title(f"beta_dpo {beta:g}", fontsize=10, color=INK, loc="left")
        label = "plain DPO at its best beta_dpo"
        axes.axhline(level, color=GREY, linestyle=DASHED, linewidth=1, label=label)
        for policy in (PAIRWISE, JOINT, CAPABILITY, MODELS, ORACLE, SHUFFLED, FIXED):
            mine = tuning.filter(objective=policy.objective, gap=policy.gap, beta_dpo=beta)
            means = dict(mine.group_by("gamma").agg(pl.col("reward").mean()).iter_rows())
            y = [means.get(gamma, float("nan")) for gamma in gammas]
            _line(axes, y, NAMES[policy.gap], COLOUR[policy.gap])
        axes.set_xticks(range(len(gammas)), [f"{gamma:g}" for gamma in gammas])
        axes.set_xlabel("gamma, the mean margin in logits", fontsize=9, color=INK)
    panels[0].set_ylabel("mean quality of held-out images", fontsize=9, color=INK)
    _legend(figure, panels[0])
    return figure


def curve(results: pl.DataFrame) -> Figure:
    """Both outcomes against training steps, each policy at its best setting."""
    figure, panels = _panels("Outcome against steps of training", OUTCOMES, sharey=False)
    for axes, outcome in zip(panels, OUTCOMES, strict=True):
        points = compare.curve(results, outcome)
        steps = sorted(points["steps"].unique())
        cells = points.partition_by("world", "objective", "gap", "spread", maintain_order=True)
        for cell, colour in zip(cells, [*COLOURS, INK, GREY], strict=False):
            row = cell.row(0, named=True)
            spread = f", spread {row['spread']:g}" if row["spread"] else ""
            name = f"{row['world']}: {Policy(row['objective'], row['gap']).name}{spread}"
            _line(axes, cell["mean"].to_list(), name, colour)
        axes.set_xticks(range(len(steps)), [str(n) for n in steps])
        axes.set_xlabel("steps", fontsize=9, color=INK)
        axes.set_ylabel(UNITS[outcome], fontsize=9, color=INK)
    _legend(figure, panels[0])
    return figure


def _line(axes: Axes, y: Sequence[float], label: str, colour: str) -> None:
    axes.plot(range(len(y)), y, "o-", color=colour, label=label, linewidth=1.2, markersize=4)


def _panels(title: str, of: Iterable[object], sharey: bool = True) -> tuple[Figure, list[Axes]]:
    """Return a titled figure with one panel for each of `of`, side by side."""
    count = len(list(of))
    figure = Figure(figsize=(1.8 + 3.9 * count, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.02, ha="left", fontsize=11, color=INK, fontweight="bold")
    panels = list(figure.subplots(1, count, squeeze=False, sharey=sharey)[0])
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(FAINT)
        axes.tick_params(colors=INK, labelsize=9, length=0)
    return figure, panels


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower left", ncols=2, frameon=False, fontsize=9,
        labelcolor=INK,
    )  # fmt: skip
