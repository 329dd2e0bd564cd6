"""docs/evidence/replication.md and its appendix from the parquet files, number by number.

`<!-- NAME -->` ... `<!-- /NAME -->` in either page encloses the table of that name; the words
around it are a person's. A table without a place, or with two, is an error: none is lost unseen.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl

from arena.report.figures import png
from replication import contrasts as compare
from replication import figures, images, rates
from replication.contrasts import (
    CAPABILITY,
    DPO,
    FIXED,
    JOINT,
    MODELS,
    ORACLE,
    OUTCOMES,
    PAIRWISE,
    QUESTIONS,
    SIGNED,
    Pair,
    new_world,
)
from replication.cost import POLICIES
from replication.markdown import (
    both,
    cell_name,
    outcome_name,
    pair_name,
    span,
    table,
    two,
    with_interval,
)
from replication.matrix import MAIN, MORE, Policy, best
from replication.runs import LEARNING_RATE, STEPS

HEADLINE = QUESTIONS[:4] + QUESTIONS[5:6] + QUESTIONS[7:9]
BY_WORLD: tuple[Pair, ...] = ((PAIRWISE, FIXED), (JOINT, PAIRWISE), (CAPABILITY, FIXED))
TRAINED: tuple[Pair, ...] = (
    *((policy, FIXED) for policy in (PAIRWISE, JOINT, MODELS, ORACLE)),
    (JOINT, PAIRWISE),
    (MODELS, ORACLE),
)
WEIGHTED = Policy("arenapo_weighted", "pairwise")


def write_report(docs: Path) -> list[Path]:
    """Rewrite the tables of `docs`.md and `docs`/tables.md, and the figures in `docs`.

    Returns what was written. Raises FileNotFoundError for a missing page or parquet, ValueError for
    a marker that neither page has or both have.
    """
    results, gaps, costs, seen = (
        pl.read_parquet(docs / f"{name}.parquet") for name in ("results", "gaps", "cost", "images")
    )
    pages = {page: page.read_text() for page in (docs.with_suffix(".md"), docs / "tables.md")}
    made = {name: partial(make, results) for name, make in TABLES.items()}
    made |= {"truth": partial(truth, gaps), "spreads": partial(spreads, gaps)}
    made |= {"cost": partial(cost, costs), "images": partial(images.tabulated, seen)}
    places = {name: _place(pages, name) for name in made}
    for name, make in made.items():
        page = places[name]
        pages[page] = _marked(name).sub(rf"\g<1>{make()}\n\g<2>", pages[page])
    for page, text in pages.items():
        page.write_text(text)
    drawn = {
        "worlds.png": figures.worlds(compare.equal(results)),
        "gaps.png": figures.truth(gaps),
        "response.png": figures.response(results),
        "curve.png": figures.curve(results),
    }
    for name, figure in drawn.items():
        (docs / name).write_bytes(png(figure, dpi=130))
    return [*pages, *(docs / name for name in drawn)]


def headline(results: pl.DataFrame) -> str:
    """Tabulate the contrasts over all worlds at one setting, with what a new world would show."""
    runs = compare.equal(results)
    rows = []
    for pair in HEADLINE:
        for outcome in OUTCOMES:
            if found := new_world(runs, pair, outcome):
                each = [c for c in compare.contrasts(runs, outcome, [pair]) if c.seeds > 1]
                above, below = sum(c.low > 0 for c in each), sum(c.high < 0 for c in each)
                rows.append(
                    (pair_name(pair), outcome_name(outcome), found.worlds, above, below,
                     with_interval(outcome, found.mean, found.low, found.high),
                     span(outcome, found.next_low, found.next_high))
                )  # fmt: skip
    head = ("difference", "outcome", "worlds", "above 0", "below 0", "mean (95%)", "a new world's")
    return table(head, rows)


def close_worlds(results: pl.DataFrame) -> str:
    """Tabulate the contrasts over the worlds of close models, tuned and at one setting."""
    close = pl.col("world").str.starts_with("close-")
    tables = []
    for how, runs in (
        ("Each policy at its own best setting", compare.tuned(results).filter(close)),
        ("All at one setting", compare.equal(results).filter(close)),
        ("All at one setting, every gap with a spread of three means",
         compare.spread(results).filter(close)),
    ):  # fmt: skip
        tables.append(f"{how}:\n\n{both(compare.pooled, runs, QUESTIONS)}")
    return "\n\n".join(tables)


def by_world(results: pl.DataFrame) -> str:
    """Tabulate the main contrasts world by world at one setting, by both outcomes."""
    return both(compare.contrasts, compare.equal(results), BY_WORLD)


def spread_gains(results: pl.DataFrame) -> str:
    """Tabulate what a wide spread gains the pairwise gap over its own spread, in every world."""
    wide, own = compare.spread(results), compare.equal(results)
    return two([compare.gains(wide, own, PAIRWISE, outcome) for outcome in OUTCOMES])


def trained_prompts(results: pl.DataFrame) -> str:
    """Tabulate contrasts judged by the prompts that were trained on."""
    spreads = results.filter(split="trained", objective="arenapo")["spread"].unique().sort()
    return "\n\n".join(
        f"Spread of margins: {f'{spread:g} means' if spread else 'its own'}\n\n"
        + both(compare.contrasts, compare.trained(results, spread), TRAINED)
        for spread in spreads
    )


def curve(results: pl.DataFrame) -> str:
    """Tabulate mean reward after every number of steps."""
    points = compare.curve(results)
    wide = points.pivot("steps", index=["world", "objective", "gap", "spread", "seeds"])
    steps = sorted(wide.columns[5:], key=int)
    rows = [
        (row["world"], cell_name(row), row["seeds"],
         *("-" if row[n] is None else f"{row[n]:.3f}" for n in steps))
        for row in wide.rows(named=True)
    ]  # fmt: skip
    return table(("world", "policy", "seeds", *(f"{n} steps" for n in steps)), rows)


def others(results: pl.DataFrame) -> str:
    """Tabulate the other objectives and gaps beside dpo and the pairwise margin, each tuned."""
    asked = [(policy, other) for policy in MORE for other in (DPO, PAIRWISE)]
    return both(compare.contrasts, compare.tuned(results), asked)


def settings(results: pl.DataFrame) -> str:
    """Tabulate what tuning chose."""
    tuning = results.filter(split="tuning", steps=STEPS, learning_rate=LEARNING_RATE, spread=0.0)
    rows = []
    for world in tuning["world"].unique(maintain_order=True):
        for policy in (*MAIN, *MORE):
            here = tuning.filter(world=world, objective=policy.objective, gap=policy.gap)
            if len(here):
                gamma, beta = best(results, world, policy)
                count = here.group_by("gamma", "beta_dpo").len().height
                seeds = here["seed"].n_unique()
                rows.append((world, policy.name, count, seeds, f"{gamma:g}", f"{beta:g}"))
    return table(("tuned in", "policy", "settings tried", "seeds", "gamma", "beta_dpo"), rows)


def means(results: pl.DataFrame) -> str:
    """Tabulate every policy's mean reward, its gain over the base and its win rate."""
    rows = []
    for how, runs in (
        ("own best", compare.tuned(results)),
        ("one for all", compare.equal(results)),
        ("one spread", compare.spread(results)),
    ):
        cell = ["world", "objective", "gap"]
        for row in (
            runs.group_by(cell, maintain_order=True)
            .agg(
                pl.len().alias("seeds"),
                pl.col("reward").mean(),
                error=pl.col("reward").std() / pl.len().sqrt(),
                gain=(pl.col("reward") - pl.col("base_reward")).mean(),
                wins=pl.col("win_rate").mean(),
            )
            .iter_rows(named=True)
        ):
            error = "-" if row["error"] is None else f"{row['error']:.3f}"
            rows.append(
                (how, row["world"], cell_name(row), row["seeds"], f"{row['reward']:.3f}", error,
                 f"{row['gain']:+.3f}", f"{row['wins']:.1%}")
            )  # fmt: skip
    head = ("setting", "world", "policy", "seeds", "reward", "its error", "over the base")
    return table((*head, "win rate"), rows)


def everything(results: pl.DataFrame) -> str:
    """Tabulate every contrast in every world, at each choice of settings."""
    parts = {
        "each policy at its own best setting": compare.tuned(results),
        "all at one setting": compare.equal(results),
        "all at one setting and one spread of margins": compare.spread(results),
    }
    questions = (*QUESTIONS, (SIGNED, JOINT), (CAPABILITY, ORACLE), (WEIGHTED, PAIRWISE))
    return "\n\n".join(
        f"### {how.capitalize()}\n\n{both(compare.contrasts, runs, questions)}"
        for how, runs in parts.items()
    )


TABLES: dict[str, Callable[[pl.DataFrame], str]] = {
    "headline": headline,
    "close worlds": close_worlds,
    "by world": by_world,
    "spread gains": spread_gains,
    "trained prompts": trained_prompts,
    "curve": curve,
    "own rates": rates.own_rates,
    "rate settings": rates.rate_settings,
    "own rates by world": rates.by_world,
    "others": others,
    "settings": settings,
    "means": means,
    "everything": everything,
}


def truth(gaps: pl.DataFrame) -> str:
    """Tabulate every gap's correlation with the latent difference, mean over seeds."""
    names = ("pairwise", "predictive", "capability", "models", "joint", "signed")
    rows = []
    for world in gaps["world"].unique(maintain_order=True):
        here = gaps.filter(world=world)
        mean = dict(here.group_by("gap").agg(pl.col("correlation").mean()).iter_rows())
        right, seeds = here.select(pl.col("right").mean(), pl.col("seed").n_unique()).row(0)
        rows.append((world, seeds, f"{right:.1%}", *(f"{mean[name]:.3f}" for name in names)))
    return table(("world", "seeds", "votes right", *names), rows)


def spreads(gaps: pl.DataFrame) -> str:
    """Tabulate each gap's standard deviation over its mean, mean over seeds."""
    names = ("pairwise", "clipped", "joint", "signed", "oracle", "capability", "models")
    rows = []
    for world in gaps["world"].unique(maintain_order=True):
        here = gaps.filter(world=world)
        mean = dict(here.group_by("gap").agg(pl.col("spread").mean()).iter_rows())
        rows.append((world, here["seed"].n_unique(), *(f"{mean[name]:.1f}" for name in names)))
    return table(("world", "seeds", *names), rows)


def cost(costs: pl.DataFrame) -> str:
    """Tabulate processor time per step and peak memory beside those of dpo in the same turn."""
    dpo = costs.filter(objective="dpo").select(
        "turn", time="seconds_a_step", memory="peak_memory_gib"
    )
    rows = []
    for policy in POLICIES:
        mine = costs.filter(objective=policy.objective, gap=policy.gap).join(dpo, on="turn")
        if len(mine):
            step, ratio, memory = mine.select(
                1000 * pl.median("seconds_a_step"),
                (pl.col("seconds_a_step") / pl.col("time")).median().alias("ratio"),
                (pl.col("peak_memory_gib") / pl.col("memory")).median(),
            ).row(0)
            rows.append((policy.name, len(mine), f"{step:.0f}", f"{ratio:.2f}", f"{memory:.3f}"))
    return table(("policy", "turns", "ms a step", "times dpo's", "memory, times dpo's"), rows)


def _place(pages: dict[Path, str], name: str) -> Path:
    places = [page for page, text in pages.items() if _marked(name).search(text)]
    if len(places) != 1:
        count = "two places" if places else "no place"
        names = " and ".join(str(page) for page in pages)
        raise ValueError(f"{count} for a table in {names}: <!-- {name} --> and <!-- /{name} -->")
    return places[0]


def _marked(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
