"""The tables of study.md about the gaps themselves, apart from training, and about their cost."""

import numpy as np
import polars as pl

from studies.cost import POLICIES
from studies.graph import SCOPES
from studies.markdown import table


def truth(gaps: pl.DataFrame) -> str:
    """Tabulate every gap's correlation with the latent difference, and joint minus pairwise."""
    rows = []
    for world in gaps["world"].unique(maintain_order=True):
        here = gaps.filter(world=world)
        by_gap = {
            name: here.filter(gap=name).sort("seed")["correlation"].to_numpy()
            for name in ("pairwise", "predictive", "capability", "models", "joint", "signed")
        }
        lead = by_gap["joint"] - by_gap["pairwise"]
        error = lead.std(ddof=1) / np.sqrt(len(lead)) if len(lead) > 1 else np.nan
        rows.append(
            (world, here["seed"].n_unique(), f"{here['right'].to_numpy().mean():.1%}",
             *(f"{values.mean():.3f}" for values in by_gap.values()),
             f"{lead.mean():+.3f} ± {error:.3f}")
        )  # fmt: skip
    head = (
        "world",
        "seeds",
        "votes right",
        "pairwise",
        "predictive",
        "capability",
        "models",
        "joint",
    )
    return table((*head, "joint, signed", "joint - pairwise"), rows)


def spreads(gaps: pl.DataFrame) -> str:
    """Tabulate each gap's standard deviation over its mean, mean over seeds."""
    names = ("pairwise", "clipped", "joint", "signed", "oracle", "capability", "models")
    known = gaps.drop_nulls("spread")
    rows = []
    for world in known["world"].unique(maintain_order=True):
        here = known.filter(world=world)
        means = dict(here.group_by("gap").agg(pl.col("spread").mean()).iter_rows())
        rows.append((world, here["seed"].n_unique(), *(f"{means[name]:.1f}" for name in names)))
    return table(("world", "seeds", *names), rows)


def graph(parts: pl.DataFrame) -> str:
    """Tabulate the joint gap's correlation by scope, and its share of the gain of the whole graph.

    The gain of a scope is over this vote alone, as a share of that of all votes.
    """
    rows = []
    for world in parts["world"].unique(maintain_order=True):
        here = parts.filter(world=world)
        means = [here.filter(scope=s)["correlation"].to_numpy().mean() for s in SCOPES]
        whole = means[SCOPES.index("all")] - means[0]
        shares = [f"{mean:.3f} ({(mean - means[0]) / whole:.0%})" for mean in means[1:]]
        rows.append((world, here["seed"].n_unique(), f"{means[0]:.3f}", *shares))
    return table(("world", "seeds", *SCOPES), rows)


def cost(costs: pl.DataFrame) -> str:
    """Tabulate processor time a step and peak memory beside those of dpo in the same turn."""
    dpo = costs.filter(objective="dpo").select(
        "turn", time="seconds_a_step", memory="peak_memory_gib"
    )
    rows = []
    for policy in POLICIES:
        mine = costs.filter(objective=policy.objective, gap=policy.gap).join(dpo, on="turn")
        if len(mine):
            time = 1000 * mine["seconds_a_step"].to_numpy()
            ratio = mine["seconds_a_step"].to_numpy() / mine["time"].to_numpy()
            memory = mine["peak_memory_gib"].to_numpy() / mine["memory"].to_numpy()
            rows.append(
                (policy.name, len(mine), f"{np.median(time):.0f}", f"{np.median(ratio):.2f}",
                 f"{ratio.min():.2f} to {ratio.max():.2f}", f"{np.median(memory):.3f}")
            )  # fmt: skip
    head = ("policy", "turns", "ms a step", "times dpo's", "from, to", "memory, times dpo's")
    return table(head, rows)
