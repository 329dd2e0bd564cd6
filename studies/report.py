"""study.md from the parquet files: every number in it is written here, between markers.

`<!-- NAME -->` ... `<!-- /NAME -->` in the text encloses what `TABLES[NAME]` returns; the prose
around them is a person's. A table whose marker is missing is an error, so none is lost unseen.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from arena.figures import png
from studies import figures
from studies.comparisons import (
    FIXED,
    JOINT,
    ORACLE,
    PAIRWISE,
    SHUFFLED,
    SIGNED,
    captured,
    differences,
    rewards,
    worlds_of,
)
from studies.matrix import MAIN, MORE, Policy, best
from studies.runs import Scale


def write_report(docs: Path) -> list[Path]:
    """Rewrite the tables of `docs`.md and the figures in `docs`; return what was written.

    Raises FileNotFoundError for a missing parquet, ValueError for a missing marker.
    """
    results = pl.read_parquet(docs / "results.parquet")
    gaps = pl.read_parquet(docs / "gaps.parquet")
    page = docs.with_suffix(".md")
    text = page.read_text()
    for name, table in TABLES.items():
        text = _between(text, name, table(results, gaps), page)
    page.write_text(text)
    written = [page]
    for name, figure in (
        ("head_room.png", figures.head_room(results)),
        ("gaps.png", figures.truth(gaps)),
    ):
        (docs / name).write_bytes(png(figure, dpi=130))
        written.append(docs / name)
    return written


def answer(results: pl.DataFrame, gaps: pl.DataFrame) -> str:
    """State the main comparison in one sentence a world."""
    lines = []
    for world in worlds_of(results):
        values = rewards(results, world, [FIXED, ORACLE])
        if len(values) < 2:
            continue
        shares = {
            name: _share(results, world, policy)
            for name, policy in (("pairwise", PAIRWISE), ("joint", JOINT), ("signed", SIGNED))
        }
        lines.append(
            f"- {world} ({len(values)} seeds): the oracle gains "
            f"{(values[:, 1] - values[:, 0]).mean():+.3f} over a fixed margin; of that the "
            f"pairwise gap captures {shares['pairwise']}, the joint gap {shares['joint']}, the "
            f"signed joint gap {shares['signed']}."
        )
    return "\n".join(lines)


def settings(results: pl.DataFrame, gaps: pl.DataFrame) -> str:
    """Tabulate what tuning chose."""
    tuned = results.filter(split="tuning")
    rows = []
    for world in tuned["world"].unique(maintain_order=True):
        for policy in (*MAIN, *MORE):
            here = tuned.filter(world=world, objective=policy.objective, gap=policy.gap)
            if len(here):
                gamma, beta = best(results, world, policy)
                seeds = here["seed"].n_unique()
                tried = here.group_by("gamma", "beta_dpo").len().height
                rows.append((world, policy.name, tried, seeds, f"{gamma:g}", f"{beta:g}"))
    return _table(("tuned in", "policy", "settings tried", "seeds", "gamma", "beta_dpo"), rows)


def main_table(results: pl.DataFrame, gaps: pl.DataFrame) -> str:
    """Tabulate every policy's mean reward, its gain over the base and its win rate."""
    rows = []
    for world in worlds_of(results):
        for policy in (*MAIN, *MORE):
            cell = results.filter(
                split="main", world=world, objective=policy.objective, gap=policy.gap
            )
            if len(cell):
                reward = cell["reward"].to_numpy()
                error = reward.std(ddof=1) / np.sqrt(len(cell)) if len(cell) > 1 else np.nan
                gain = (cell["reward"] - cell["base_reward"]).to_numpy().mean()
                wins = cell["win_rate"].to_numpy().mean()
                rows.append(
                    (world, policy.name, len(cell), f"{reward.mean():.3f}", f"{error:.3f}",
                     f"{gain:+.3f}", f"{wins:.1%}")
                )  # fmt: skip
    head = ("world", "policy", "seeds", "reward", "its error", "over the base", "win rate")
    return _table(head, rows)


def questions(results: pl.DataFrame, gaps: pl.DataFrame) -> str:
    """Tabulate the differences asked for, paired by seed."""
    rows = [
        (d.world, f"{d.policy} - {d.other}", d.seeds, f"{d.mean:+.3f}",
         f"{d.low:+.3f} to {d.high:+.3f}", f"{d.p_value:.4f}", f"{d.p_holm:.4f}")
        for d in differences(results)
    ]  # fmt: skip
    return _table(("world", "difference", "seeds", "mean", "95% interval", "p", "p (Holm)"), rows)


def shares(results: pl.DataFrame, gaps: pl.DataFrame) -> str:
    """Tabulate the share of the oracle's head-room."""
    rows = [
        (world, *(_share(results, world, p) for p in (PAIRWISE, JOINT, SIGNED, SHUFFLED)))
        for world in worlds_of(results)
        if captured(results, world, PAIRWISE)
    ]
    return _table(("world", "pairwise", "joint", "joint, signed", "shuffled"), rows)


def truth(results: pl.DataFrame, gaps: pl.DataFrame) -> str:
    """Tabulate every gap's correlation with the latent difference, and joint minus pairwise."""
    rows = []
    for world in gaps["world"].unique(maintain_order=True):
        here = gaps.filter(world=world)
        by_gap = {
            name: here.filter(gap=name).sort("seed")["correlation"].to_numpy()
            for name in ("pairwise", "predictive", "joint", "signed")
        }
        lead = by_gap["joint"] - by_gap["pairwise"]
        error = lead.std(ddof=1) / np.sqrt(len(lead)) if len(lead) > 1 else np.nan
        rows.append(
            (world, here["seed"].n_unique(), f"{here['right'].to_numpy().mean():.1%}",
             *(f"{values.mean():.3f}" for values in by_gap.values()),
             f"{lead.mean():+.3f} ± {error:.3f}")
        )  # fmt: skip
    head = ("world", "seeds", "votes right", "pairwise", "predictive", "joint", "joint, signed")
    return _table((*head, "joint - pairwise"), rows)


def cost(results: pl.DataFrame, gaps: pl.DataFrame) -> str:
    """Tabulate the training loop's seconds a step, the median over runs, beside dpo's."""
    steps = Scale().steps
    medians = (
        results.filter(split="main")
        .group_by("objective", "gap", maintain_order=True)
        .agg(pl.col("train_seconds").median() / steps, pl.len())
    )
    base = medians.filter(objective="dpo")["train_seconds"]
    rows = [
        (objective if gap in ("none", "one") else f"{objective} {gap}", runs,
         f"{1000 * seconds:.0f}", f"{seconds / base[0]:.2f}" if len(base) else "-")
        for objective, gap, seconds, runs in medians.iter_rows()
    ]  # fmt: skip
    return _table(("policy", "runs", "ms a step", "times dpo's"), rows)


TABLES: dict[str, Callable[[pl.DataFrame, pl.DataFrame], str]] = {
    "answer": answer,
    "settings": settings,
    "main": main_table,
    "questions": questions,
    "shares": shares,
    "truth": truth,
    "cost": cost,
}


def _share(results: pl.DataFrame, world: str, policy: Policy) -> str:
    found = captured(results, world, policy)
    return "-" if found is None else f"{found[0]:.0%} ({found[1]:.0%} to {found[2]:.0%})"


def _between(text: str, name: str, content: str, page: Path) -> str:
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{page}: no place for a table: <!-- {name} --> and <!-- /{name} -->")
    return pattern.sub(lambda found: f"{found[1]}{content}\n{found[2]}", text)


def _table(head: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    lines: list[Iterable[object]] = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
