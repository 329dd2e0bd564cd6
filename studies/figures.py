"""The study's pictures: what each gap captures, and how true it is, against votes an image."""

from collections.abc import Sequence

import polars as pl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from arena.report.figures import COLOURS, DASHED, FAINT, GREY, INK
from studies.comparisons import (
    CAPABILITY,
    DPO,
    FIXED,
    JOINT,
    MODELS,
    ORACLE,
    PAIRWISE,
    SHUFFLED,
    SPREAD_POLICIES,
    captured,
    curve_steps,
    curves,
    differences,
    spread_trials,
    worlds_of,
)
from studies.matrix import GAMMAS, Policy, tried
from studies.runs import LEARNING_RATE, STEPS
from studies.world import WORLDS

SERIES = (("close", "models of close ability"), ("far", "models far apart"))
NAMES = {
    "pairwise": "pairwise gap (the paper's)",
    "joint": "joint gap",
    "capability": "capability gap (difference of mu)",
    "models": "true difference of the models (control)",
    "oracle": "true difference of the images (control)",
    "signed": "joint gap, signed",
    "shuffled": "joint gap, shuffled (control)",
    "one": "fixed margin",
}
PALE = "#7fb3d0"
COLOUR = dict(
    zip(NAMES, [*(COLOURS[k] for k in (1, 0, 2, 3, 4)), PALE, COLOURS[5], INK], strict=True)
)


def head_room(rounds: Sequence[tuple[str, pl.DataFrame]]) -> Figure:
    """Share of the oracle's head-room that each gap captures, a panel a round of the study."""
    figure, panels = _panels("What each gap gains, as a share of the true gap's gain", len(rounds))
    for axes, (title, results) in zip(panels, rounds, strict=True):
        places = _places(worlds_of(results), "close")
        seeds = results.filter(split="main")["seed"].n_unique()
        axes.set_title(f"{title}, {seeds} seeds", fontsize=10, color=INK, loc="left")
        axes.axhline(1.0, color=GREY, linestyle=DASHED, linewidth=1)
        axes.axhline(0.0, color=GREY, linestyle=DASHED, linewidth=1)
        policies = (SHUFFLED, PAIRWISE, JOINT, CAPABILITY, MODELS)
        for k, policy in enumerate(policies):
            points = [
                (place, found)
                for place, world in enumerate(places)
                if (found := captured(results, world, policy))
            ]
            x = [place + 0.1 * (k - 2) for place, _ in points]
            y = [found[0] for _, found in points]
            spread = [[f[0] - f[1] for _, f in points], [f[2] - f[0] for _, f in points]]
            axes.errorbar(
                x, y, spread, fmt="o-", color=COLOUR[policy.gap], label=NAMES[policy.gap],
                linewidth=1.2, markersize=5, capsize=2,
            )  # fmt: skip
        for place, world in enumerate(places):
            if not captured(results, world, ORACLE):
                nothing = "here the true gap\ngains too little\nfor a share"
                axes.text(place, 0.5, nothing, fontsize=8, color=GREY, ha="center", va="center")
        _votes_axis(axes, places)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_ylim(-1.0, 3.5)  # wider intervals are cut: they say that little is known
        axes.text(-0.45, 1.04, "the true gap", fontsize=8, color=GREY)
        axes.text(-0.45, -0.19, "a fixed margin", fontsize=8, color=GREY)
    _legend(figure, panels[-1])
    return figure


def worlds(rounds: Sequence[tuple[str, pl.DataFrame]]) -> Figure:
    """What each gap gains over a fixed margin, a row a world and a panel a round of the study."""
    places = [w for w in WORLDS if any(w in worlds_of(results) for _, results in rounds)]
    figure, panels = _panels("What each gap gains over a fixed margin", len(rounds))
    figure.set_size_inches(9.6, 1.9 + 0.42 * len(places))
    for axes, (title, results) in zip(panels, rounds, strict=True):
        axes.set_title(title, fontsize=10, color=INK, loc="left")
        axes.axvline(0.0, color=GREY, linestyle=DASHED, linewidth=1)
        for k, policy in enumerate((PAIRWISE, JOINT, CAPABILITY, ORACLE)):
            found = differences(results, [(policy, FIXED)])
            mean = [one.mean for one in found]
            interval = [[d.mean - d.low for d in found], [d.high - d.mean for d in found]]
            axes.errorbar(
                mean, [places.index(one.world) + 0.17 * (k - 1.5) for one in found], xerr=interval,
                fmt="o", color=COLOUR[policy.gap], label=NAMES[policy.gap], linewidth=1.2,
                markersize=4, capsize=2,
            )  # fmt: skip
        axes.set_yticks(range(len(places)), places)
        axes.set_ylim(len(places) - 0.5, -0.5)
        axes.set_xlabel("reward over the fixed margin's, 95% interval", fontsize=9, color=INK)
        axes.grid(axis="y", color=FAINT, linewidth=0.5)
        axes.set_axisbelow(True)
    _legend(figure, panels[0])
    return figure


def truth(gaps: pl.DataFrame) -> Figure:
    """Correlation of each gap with the latent difference, mean over seeds."""
    figure, panels = _panels("How true is each gap?", len(SERIES))
    means = gaps.group_by("world", "gap").agg(pl.col("correlation").mean())
    for axes, (series, title) in zip(panels, SERIES, strict=True):
        places = _places(list(WORLDS), series)
        axes.set_title(title, fontsize=10, color=INK, loc="left")
        for gap in ("pairwise", "joint", "capability", "models"):
            cells = dict(means.filter(gap=gap).select("world", "correlation").iter_rows())
            y = [cells[world] for world in places]
            axes.plot(range(len(y)), y, "o-", color=COLOUR[gap], label=NAMES[gap], linewidth=1.2)
        _votes_axis(axes, places)
        axes.set_ylim(0, 1)
    panels[0].set_ylabel("correlation with the true difference", fontsize=9, color=INK)
    _legend(figure, panels[0])
    return figure


def response(results: pl.DataFrame) -> Figure:
    """Mean reward on the tuning seeds against gamma, a panel a beta_dpo; DPO at its best beside."""
    tuning = results.filter(split="tuning", steps=STEPS, learning_rate=LEARNING_RATE, spread=0.0)
    world = tuning["world"][0]
    early = sorted(tuning["seed"].unique())[:3]  # on which every setting was tried
    tuning = tuning.filter(pl.col("world") == world, pl.col("seed").is_in(early))
    figure, panels = _panels(f"Reward against gamma, on the tuning seeds of {world}", len(GAMMAS))
    beta = tried(results, world, DPO)[0][1]
    best_dpo = tuning.filter(objective="dpo", beta_dpo=beta)["reward"].to_numpy().mean()
    for axes, (beta, gammas) in zip(panels, GAMMAS.items(), strict=True):
        axes.set_title(f"beta_dpo {beta:g}", fontsize=10, color=INK, loc="left")
        label = "plain DPO at its best beta_dpo"
        axes.axhline(best_dpo, color=GREY, linestyle=DASHED, linewidth=1, label=label)
        for policy in (PAIRWISE, JOINT, CAPABILITY, MODELS, ORACLE, SHUFFLED, FIXED):
            mine = tuning.filter(objective=policy.objective, gap=policy.gap, beta_dpo=beta)
            means = dict(mine.group_by("gamma").agg(pl.col("reward").mean()).iter_rows())
            y = [means.get(gamma, float("nan")) for gamma in gammas]
            _gap_line(axes, policy, y)
        axes.set_xticks(range(len(gammas)), [f"{gamma:g}" for gamma in gammas])
        axes.set_xlim(-0.5, len(gammas) - 0.5)
        axes.set_xlabel("gamma, the mean margin in logits", fontsize=9, color=INK)
    panels[0].set_ylabel("mean quality of held-out images", fontsize=9, color=INK)
    _legend(figure, panels[0])
    return figure


def spread(results: pl.DataFrame) -> Figure:
    """Mean reward on the tuning seeds against the spread of margins, a panel a world.

    The spread is the margins' standard deviation in units of their mean; 0 is the fixed margin.
    """
    wide = spread_trials(results)
    worlds = wide["world"].unique(maintain_order=True).to_list()
    figure, panels = _panels("Reward against the spread of margins, tuning seeds", len(worlds))
    for axes, world in zip(panels, worlds, strict=True):
        here = wide.filter(world=world)
        at = {name: here[name][0] for name in ("gamma", "beta_dpo")}
        seeds = here["seed"].unique().implode()
        setting = f"gamma {at['gamma']:g}, beta_dpo {at['beta_dpo']:g}"
        title = f"{world}, {here['seed'].n_unique()} seeds, {setting}"
        axes.set_title(title, fontsize=10, color=INK, loc="left")
        places = [0.0, *sorted(here["spread"].unique())]
        fixed = results.filter(
            pl.col("seed").is_in(seeds), split="tuning", world=world, objective="fixed_margin", **at
        )
        zero = fixed["reward"].to_numpy().mean()
        for policy in SPREAD_POLICIES:
            mine = here.filter(objective=policy.objective, gap=policy.gap)
            means = dict(mine.group_by("spread").agg(pl.col("reward").mean()).iter_rows())
            if means:
                y = [zero, *(means.get(place, float("nan")) for place in places[1:])]
                _gap_line(axes, policy, y)
        axes.set_xticks(range(len(places)), [f"{place:g}" for place in places])
        axes.set_xlim(-0.5, len(places) - 0.5)
        axes.set_xlabel("standard deviation of margins, in means", fontsize=9, color=INK)
    panels[0].set_ylabel("mean quality of held-out images", fontsize=9, color=INK)
    _legend(figure, panels[0])
    return figure


def curve(results: pl.DataFrame) -> Figure:
    """Mean reward against training steps, a panel a world, each policy at its best setting."""
    found = curves(results)
    worlds = list(dict.fromkeys(world for world, *_ in found))
    figure, panels = _panels("Reward against steps of training", len(worlds))
    steps = curve_steps(results)
    for axes, world in zip(panels, worlds, strict=True):
        seeds = max(n for w, _, n, _ in found if w == world)
        axes.set_title(f"{world}, {seeds} seeds", fontsize=10, color=INK, loc="left")
        for k, (_, policy, _, means) in enumerate(one for one in found if one[0] == world):
            axes.plot(
                range(len(steps)), means, "o-", color=[*COLOURS, INK][k % (len(COLOURS) + 1)],
                label=policy, linewidth=1.2, markersize=4,
            )  # fmt: skip
        axes.set_xticks(range(len(steps)), [f"{n}" for n in steps])
        axes.set_xlabel("steps", fontsize=9, color=INK)
    panels[0].set_ylabel("mean quality of held-out images", fontsize=9, color=INK)
    _legend(figure, panels[0])
    return figure


def _gap_line(axes: Axes, policy: Policy, y: Sequence[float]) -> None:
    axes.plot(
        range(len(y)), y, "o-", color=COLOUR[policy.gap], label=NAMES[policy.gap],
        linewidth=1.2, markersize=4,
    )  # fmt: skip


def _panels(title: str, count: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(1.8 + 3.9 * count, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.02, ha="left", fontsize=11, color=INK, fontweight="bold")
    panels = list(figure.subplots(1, count, squeeze=False, sharey=True)[0])
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(FAINT)
        axes.tick_params(colors=INK, labelsize=9, length=0)
    return figure, panels


def _places(worlds: Sequence[str], series: str) -> list[str]:
    """Worlds of a series, fewest votes first."""
    chosen = [world for world in worlds if world.startswith(series + "-")]
    return sorted((w for w in chosen if w in WORLDS), key=lambda w: WORLDS[w].votes_per_image)


def _votes_axis(axes: Axes, places: Sequence[str]) -> None:
    axes.set_xticks(range(len(places)), [f"{WORLDS[w].votes_per_image:g}" for w in places])
    axes.set_xlim(-0.5, len(places) - 0.5)
    axes.set_xlabel("votes an image", fontsize=9, color=INK)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower left", ncols=2, frameon=False, fontsize=9,
        labelcolor=INK,
    )  # fmt: skip
