"""Does the gap's lead outlive a learning rate of each objective's own?

The comparison of `matrix` trains every objective at one learning rate. Here each gets the same ten
settings, five learning rates by two betas, on tuning seeds in one world, judged by one half of the
held-out prompts; its best one runs on fresh seeds in several worlds, judged by the other half. So
neither the seeds nor the prompts of what is claimed had a part in the choice.
"""

from collections.abc import Iterable, Sequence

import polars as pl

from replication import contrasts as compare
from replication.contrasts import CAPABILITY, DPO, FIXED, JOINT, PAIRWISE, Pair
from replication.markdown import both, table
from replication.matrix import Policy
from replication.runs import STEPS, Run

RATES = (5e-5, 1e-4, 2e-4, 4e-4, 8e-4)
BETAS = (100.0, 250.0)
GAMMA = 1.0  # where tuning had put the pairwise and the fixed margin
TUNED_IN = "close-6"
WORLDS = ("close-6", "far-3", "noisy-raters")
TUNING_SEEDS = range(1000, 1002)
SEEDS = range(20, 40)  # no other run has these

POLICIES = (
    *(DPO, FIXED, PAIRWISE, JOINT, CAPABILITY),
    # Why: the pairwise margins dealt to other pairs; no margin, but the weights that these margins
    # give at the start; no margin, and only the votes that the better rated model won.
    Policy("arenapo", "dealt"),
    Policy("arenapo_weighted", "weights"),
    Policy("arenapo_weighted", "favourites"),
)

DEALT, WEIGHTS, FAVOURITES = POLICIES[-3:]
QUESTION: tuple[Pair, ...] = ((PAIRWISE, DPO), (JOINT, DPO), (FIXED, DPO), (PAIRWISE, FIXED))
QUESTION += ((JOINT, FIXED), (JOINT, PAIRWISE))
ASKED = (
    *QUESTION,
    (CAPABILITY, DPO),
    (WEIGHTS, DPO),
    (FAVOURITES, DPO),
    (PAIRWISE, DEALT),
    (PAIRWISE, WEIGHTS),
)


def tuning_runs(seeds: Sequence[int] = TUNING_SEEDS) -> list[Run]:
    """Return every policy at every setting, on the tuning seeds."""
    return [
        _run(TUNED_IN, policy, beta, rate, seed, "rate tuning")
        for seed in seeds
        for policy in POLICIES
        for beta in BETAS
        for rate in RATES
    ]


def tried(results: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    """Return a policy's settings by mean reward on the tuning seeds, the best one first.

    Raises ValueError where it has none.
    """
    found = results.filter(split="rate tuning", objective=policy.objective, gap=policy.gap)
    if found.is_empty():
        raise ValueError(f"{policy.name} has no tuning run of its learning rate: run `rates`")
    means = found.group_by("learning_rate", "beta_dpo").agg(pl.col("reward", "win_rate").mean())
    return means.sort("reward", "learning_rate", "beta_dpo", descending=True)


def main_runs(
    results: pl.DataFrame, worlds: Iterable[str] = WORLDS, seeds: Sequence[int] = SEEDS
) -> list[Run]:
    """Return every policy at its best setting, seed by seed, so that a stop leaves whole seeds."""
    best = {policy: tried(results, policy).row(0, named=True) for policy in POLICIES}
    return [
        _run(world, policy, at["beta_dpo"], at["learning_rate"], seed, "rate")
        for seed in seeds
        for world in worlds
        for policy, at in best.items()
    ]


def own_rates(results: pl.DataFrame) -> str:
    """Tabulate contrasts on fresh seeds, each policy at its own learning rate and beta_dpo."""
    own = results.filter(split="rate")
    both_betas = results.filter(pl.col("split").is_in(["rate", "rate beta"]))
    parts = {"Each at its own setting": both(compare.pooled, own, ASKED)}
    for beta in BETAS:
        same = both_betas.filter(beta_dpo=beta)
        parts[f"All at beta_dpo {beta:g}"] = both(compare.pooled, same, QUESTION)
    return "\n\n".join(f"{how}:\n\n{made}" for how, made in parts.items())


def by_world(results: pl.DataFrame) -> str:
    """Tabulate the same world by world, each policy at its own setting."""
    return both(compare.contrasts, results.filter(split="rate"), ASKED)


def rate_settings(results: pl.DataFrame) -> str:
    """Tabulate the learning rate and beta_dpo that tuning chose, and the mean reward of each."""
    tuning = results.filter(split="rate tuning")
    rows = []
    for policy in POLICIES:
        best = tried(results, policy).row(0, named=True)
        here = tuning.filter(objective=policy.objective, gap=policy.gap, beta_dpo=best["beta_dpo"])
        each = dict(here.group_by("learning_rate").agg(pl.col("reward").mean()).iter_rows())
        cells = [f"{each[rate]:.3f}" for rate in RATES]
        rows.append((policy.name, f"{best['learning_rate']:g}", f"{best['beta_dpo']:g}", *cells))
    return table(("policy", "learning rate", "beta_dpo", *(f"at {rate:g}" for rate in RATES)), rows)


def other_beta_runs(
    results: pl.DataFrame, worlds: Iterable[str] = WORLDS, seeds: Sequence[int] = SEEDS
) -> list[Run]:
    """Return the first four policies at the beta_dpo that was not theirs, at its best rate.

    So that what a choice by few tuning seeds does can be told from what an objective does.
    """
    settings = {}
    for policy in POLICIES[:4]:
        found = tried(results, policy)
        others = found.filter(pl.col("beta_dpo") != found["beta_dpo"][0])
        settings[policy] = others.row(0, named=True)
    return [
        _run(world, policy, at["beta_dpo"], at["learning_rate"], seed, "rate beta")
        for seed in seeds
        for world in worlds
        for policy, at in settings.items()
    ]


def _run(world: str, policy: Policy, beta: float, rate: float, seed: int, split: str) -> Run:
    gamma = GAMMA if policy.has_margin else 0.0
    return Run(world, policy.objective, policy.gap, gamma, beta, seed, split, STEPS, rate)
