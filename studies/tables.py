"""The tables of what was trained, for study.md and study/tables.md, from the tidy table alone."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import polars as pl

from studies.comparisons import (
    CAPABILITY,
    DPO,
    EQUAL_QUESTIONS,
    FIXED,
    JOINT,
    MODELS,
    ORACLE,
    PAIRWISE,
    SHUFFLED,
    SPREAD_POLICIES,
    SPREAD_QUESTIONS,
    Difference,
    at_equal_settings,
    at_one_spread,
    captured,
    curve_steps,
    curves,
    differences,
    gains_of,
    ladders,
    on_trained_prompts,
    pooled,
    worlds_of,
)
from studies.gaps import KINDS, SHARES
from studies.markdown import table
from studies.matrix import FINALISTS, MAIN, MORE, Policy, best, tried
from studies.runs import LEARNING_RATE, STEPS
from studies.world import WORLDS


def settings(results: pl.DataFrame, gaps: pl.DataFrame) -> str:
    """Tabulate what tuning chose."""
    tuned = results.filter(split="tuning", steps=STEPS, learning_rate=LEARNING_RATE, spread=0.0)
    rows = []
    for world in tuned["world"].unique(maintain_order=True):
        for policy in (*MAIN, *MORE):
            here = tuned.filter(world=world, objective=policy.objective, gap=policy.gap)
            if len(here):
                gamma, beta = best(results, world, policy)
                seeds = here["seed"].n_unique()
                tried = here.group_by("gamma", "beta_dpo").len().height
                rows.append((world, policy.name, tried, seeds, f"{gamma:g}", f"{beta:g}"))
    return table(("tuned in", "policy", "settings tried", "seeds", "gamma", "beta_dpo"), rows)


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
    return table(head, rows)


def questions(results: pl.DataFrame, gaps: pl.DataFrame) -> str:
    """Tabulate the differences asked for, paired by seed."""
    return _differences(differences(results))


def over_worlds(results: pl.DataFrame, gaps: pl.DataFrame) -> str:
    """Tabulate the differences over all close worlds at once, by tuned and by equal settings."""
    tuned = _differences(pooled(results))
    same = _differences(pooled(at_equal_settings(results), questions=EQUAL_QUESTIONS))
    return f"Each policy at its own best setting:\n\n{tuned}\n\nAll at one setting:\n\n{same}"


def _differences(found: Iterable[Difference]) -> str:
    rows = [
        (d.world, f"{d.policy} - {d.other}", d.seeds, f"{d.mean:+.3f}",
         f"{d.low:+.3f} to {d.high:+.3f}", f"{d.p_value:.4f}", f"{d.p_holm:.4f}")
        for d in found
    ]  # fmt: skip
    return table(("world", "difference", "seeds", "mean", "95% interval", "p", "p (Holm)"), rows)


def tuning_seeds(results: pl.DataFrame, gaps: pl.DataFrame) -> str:
    """Tabulate the same differences on the tuning seeds, each policy's mean over its finalists.

    One run of one setting is noisy: the mean over three is less so, and less flattered by choice.
    """
    tuning = results.filter(split="tuning", steps=STEPS, learning_rate=LEARNING_RATE, spread=0.0)
    keys = ["world", "objective", "gap", "seed"]
    chosen = []
    for world in tuning["world"].unique(maintain_order=True):
        for policy in MAIN:
            mine = tuning.filter(world=world, objective=policy.objective, gap=policy.gap)
            if len(mine):
                settings = tried(results, world, policy)[:FINALISTS]
                found = pl.DataFrame(settings, schema=["gamma", "beta_dpo"], orient="row")
                mine = mine.join(found, on=["gamma", "beta_dpo"], how="semi")
                chosen.append(mine.group_by(keys, maintain_order=True).agg(pl.col("reward").mean()))
    return questions(pl.concat(chosen).with_columns(split=pl.lit("main")), gaps)


def equal(results: pl.DataFrame, gaps: pl.DataFrame) -> str:
    """Tabulate the runs at one setting for all, and the differences."""
    same = at_equal_settings(results)
    return main_table(same, gaps) + "\n\n" + _differences(differences(same, EQUAL_QUESTIONS))


def worlds(results: pl.DataFrame, gaps: pl.DataFrame) -> str:
    """Tabulate the main differences at one setting: a row a world and spread of margins."""
    asked = [(p, FIXED) for p in (PAIRWISE, JOINT, CAPABILITY, ORACLE)] + [(JOINT, PAIRWISE)]
    wide = at_one_spread(results)
    by_spread = {"its own": at_equal_settings(results), spread_of(wide): wide}
    rows = []
    for world in WORLDS:
        for spread, runs in by_spread.items():
            here = runs.filter(world=world)
            found = [differences(here, [question]) for question in asked]
            if any(found):
                seeds = max(one.seeds for answers in found for one in answers)
                cells = [_interval(answers[0]) if answers else "-" for answers in found]
                rows.append((world, spread, seeds, *cells))
    names = [f"{p.gap} - {'fixed' if o is FIXED else o.gap}" for p, o in asked]
    return table(("world", "spread", "seeds", *names), rows)


def others(results: pl.DataFrame, gaps: pl.DataFrame) -> str:
    """Tabulate the other objectives and gaps beside dpo and the pairwise margin.

    Where the margin ran at the one setting for all alone, that is what they are compared with.
    """
    asked = [(policy, other) for policy in MORE for other in (DPO, PAIRWISE)]
    same = at_equal_settings(results).filter(objective="arenapo", gap="pairwise")
    tuned = results.filter(split="main")
    cell = ["world", "objective", "gap", "seed"]
    margins = same.join(tuned, on=cell, how="anti", maintain_order="left")
    return _differences(differences(pl.concat([tuned, margins]), asked))


def spread(results: pl.DataFrame, gaps: pl.DataFrame) -> str:
    """Tabulate the gaps at one mean and one spread of margins, and what the spread alone changes.

    The last table is of the same policy, with the margins' spread and with the gap's own.
    """
    wide = at_one_spread(results)
    gains = _differences(
        replace(gain, policy=f"{gain.policy}: spread", other="own")
        for gain in gains_of(wide, at_equal_settings(results), SPREAD_POLICIES)
    )
    return "\n\n".join(
        (
            main_table(wide, gaps),
            _differences(differences(wide, SPREAD_QUESTIONS)),
            "With that spread, minus with its own:",
            gains,
        )
    )


def spread_over_worlds(results: pl.DataFrame, gaps: pl.DataFrame) -> str:
    """Tabulate the same over the close worlds, and the pairwise gap as a weight beside it."""
    wide = at_one_spread(results)
    over = _differences(pooled(wide, questions=SPREAD_QUESTIONS))
    weight = Policy("arenapo_weighted", "pairwise")
    weighted = results.filter(split="main", objective=weight.objective, gap=weight.gap)
    beside = _differences(differences(pl.concat([wide, weighted]), [(weight, PAIRWISE)]))
    return "\n\n".join(
        (
            over,
            "The pairwise gap as a weight, at its own best beta_dpo, minus as a margin so spread:",
            beside,
        )
    )


def spread_gains(results: pl.DataFrame, gaps: pl.DataFrame) -> str:
    """Tabulate what the spread gains the pairwise gap, where most votes are wrong first."""
    found = gains_of(at_one_spread(results), at_equal_settings(results), [PAIRWISE])
    right = dict(gaps.group_by("world").agg(pl.col("right").mean()).iter_rows())
    rows = [
        (gain.world, f"{right[gain.world]:.1%}", gain.seeds, _interval(gain), f"{gain.p_value:.4f}",
         f"{gain.p_holm:.4f}")
        for gain in sorted(found, key=lambda gain: right[gain.world])
    ]  # fmt: skip
    head = ("world", "votes right", "seeds", "spread - own", "p", "p (Holm)")
    return table(head, rows)


def trained(results: pl.DataFrame, gaps: pl.DataFrame) -> str:
    """Tabulate differences on the trained prompts, and of the same seeds on held-out ones."""
    rows = [
        (on.world, spread, f"{on.policy} - {on.other}", on.seeds, _interval(on),
         f"{on.p_value:.4f}", f"{on.p_holm:.4f}", _interval(off))
        for spread, on, off in on_trained_prompts(results)
    ]  # fmt: skip
    head = ("world", "spread", "difference", "seeds", "on trained prompts", "p", "p (Holm)")
    return table((*head, "on held-out prompts"), rows)


def spread_of(wide: pl.DataFrame) -> str:
    """Say which spread the margins of `comparisons.at_one_spread` have."""
    return " or ".join(f"{value:g}" for value in sorted({*wide["spread"]} - {0.0})) + " means"


def between(results: pl.DataFrame, gaps: pl.DataFrame) -> str:
    """Tabulate reward from a gap of the models alone to one of each image, on the tuning seeds."""
    rows = []
    for world in WORLDS:
        for kind, (means, gains) in zip(KINDS, ladders(results, world), strict=False):
            told = ["", *(f", {_interval(gain)}" for gain in gains)]
            cells = [f"{mean:.3f}{more}" for mean, more in zip(means, told, strict=True)]
            rows.append((world, kind, *cells))
    return table(("world", "gap", *(f"{share}%" for share in (0, *SHARES, 100))), rows)


def _interval(found: Difference) -> str:
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def pairwise_settings(results: pl.DataFrame, gaps: pl.DataFrame) -> str:
    """Tabulate every setting of the pairwise gap that all tuning seeds ran, the best one first.

    As a margin and as a weight; spread 0 is the gap's own.
    """
    tuning = results.filter(split="tuning", steps=STEPS, learning_rate=LEARNING_RATE)
    mine = tuning.filter(
        pl.col("objective").is_in(["arenapo", "arenapo_weighted"]), pl.col("gap") == "pairwise"
    )
    keys = ["world", "objective", "gamma", "beta_dpo", "spread"]
    means = mine.group_by(keys).agg(pl.col("reward").mean(), seeds=pl.col("seed").n_unique())
    whole = means.filter(pl.col("seeds") == pl.col("seeds").max().over("world"))
    rows = [
        (world, objective, f"{gamma:g}", f"{beta:g}", f"{spread:g}", seeds, f"{reward:.3f}")
        for world, objective, gamma, beta, spread, reward, seeds in whole.sort(
            "world", "reward", descending=[False, True]
        ).iter_rows()
    ]
    return table(("world", "objective", "gamma", "beta_dpo", "spread", "seeds", "reward"), rows)


def curve(results: pl.DataFrame, gaps: pl.DataFrame) -> str:
    """Tabulate mean reward after every number of steps, over the seeds that ran them all."""
    rows = [
        (world, policy, seeds, *(f"{reward:.3f}" for reward in means))
        for world, policy, seeds, means in curves(results)
    ]
    steps = curve_steps(results)
    return table(("world", "policy", "seeds", *(f"{n} steps" for n in steps)), rows)


def shares(results: pl.DataFrame, gaps: pl.DataFrame) -> str:
    """Tabulate the share of the oracle's head-room, by tuned and by equal settings."""
    policies = (SHUFFLED, PAIRWISE, JOINT, CAPABILITY, MODELS)
    rows = [
        (
            world,
            how,
            *(share_captured(runs, world, policy) for policy in policies),
        )
        for how, runs in (("own best", results), ("one for all", at_equal_settings(results)))
        for world in worlds_of(runs)
        if captured(runs, world, PAIRWISE)
    ]
    return table(
        ("world", "setting", "shuffled", "pairwise", "joint", "capability", "models (truth)"), rows
    )


def share_captured(results: pl.DataFrame, world: str, policy: Policy) -> str:
    """Say what share of the oracle's head-room a policy captures, with its interval, or `-`."""
    found = captured(results, world, policy)
    return "-" if found is None else f"{found[0]:.0%} ({found[1]:.0%} to {found[2]:.0%})"


TABLES: dict[str, Callable[[pl.DataFrame, pl.DataFrame], str]] = {
    "settings": settings,
    "main": main_table,
    "questions": questions,
    "over worlds": over_worlds,
    "equal": equal,
    "worlds": worlds,
    "between": between,
    "others": others,
    "spread": spread,
    "spread over worlds": spread_over_worlds,
    "spread gains": spread_gains,
    "trained": trained,
    "pairwise settings": pairwise_settings,
    "curve": curve,
    "shares": shares,
    "tuning seeds": tuning_seeds,
}
