"""Two policies side by side, paired by seed, by both outcomes that are kept of every run.

A seed is one drawing of prompts and votes and one order of training, the same for every policy. So
a contrast has one value per seed: the first policy's outcome minus the second's. Intervals and
tests are those of `evaluation.comparison.intervals`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import polars as pl
from scipy.special import stdtrit

from evaluation.comparison.intervals import bootstrap_interval, holm, sign_flip_p
from replication.matrix import Policy

# What is compared: the mean quality of a policy's images, and how often one is better than the
# base's of the same prompt and noise.
OUTCOMES = ("reward", "win_rate")
DPO = Policy("dpo", "none")
FIXED = Policy("fixed_margin", "one")
SHUFFLED, PAIRWISE, JOINT, SIGNED, CAPABILITY, MODELS, ORACLE = (
    Policy("arenapo", gap)
    for gap in ("shuffled", "pairwise", "joint", "signed", "capability", "models", "oracle")
)
Pair = tuple[Policy, Policy]
QUESTIONS: tuple[Pair, ...] = (
    (PAIRWISE, FIXED),
    (JOINT, FIXED),
    (CAPABILITY, FIXED),
    (ORACLE, FIXED),
    (SHUFFLED, FIXED),
    (PAIRWISE, DPO),
    (PAIRWISE, SHUFFLED),
    (JOINT, PAIRWISE),
    (CAPABILITY, PAIRWISE),
    (MODELS, ORACLE),
)


@dataclass(frozen=True)
class Contrast:
    """Mean of `policy` minus `other` over seeds, with its 95% interval.

    over : the world's name, or how many worlds.
    p, p_holm : of the sign flip test over seeds, and corrected over the contrasts asked together.
    """

    over: str
    policy: Policy
    other: Policy
    seeds: int
    mean: float
    low: float
    high: float
    p: float
    p_holm: float


@dataclass(frozen=True)
class NewWorld:
    """Random-effects mean over worlds, its 95% interval, and that of one more world's mean."""

    worlds: int
    mean: float
    low: float
    high: float
    next_low: float
    next_high: float


def tuned(results: pl.DataFrame) -> pl.DataFrame:
    """Return the main runs: every policy at its own best setting."""
    return results.filter(split="main")


def equal(results: pl.DataFrame) -> pl.DataFrame:
    """Return the runs at the one setting of each world's runs of the split `equal`.

    A policy that tuning put at that setting counts with its main runs; dpo, which has no gamma,
    counts at its own best beta_dpo where it has no run of that split.
    """
    here = results.filter(pl.col("split").is_in(["equal", "main"]))
    setting = ["gamma", "beta_dpo"]
    given = here.filter(pl.col("split") == "equal", pl.col("gamma") > 0)
    given = given.unique("world", keep="first", maintain_order=True).select("world", *setting)
    same = here.join(given, on=["world", *setting], how="semi", maintain_order="left")
    dpo = here.filter(objective="dpo").join(given, on="world", how="semi", maintain_order="left")
    found = pl.concat([same, dpo.sort("split")])  # "equal" comes before "main"
    return found.unique(["world", "objective", "gap", "seed"], keep="first", maintain_order=True)


def spread(results: pl.DataFrame) -> pl.DataFrame:
    """Return the runs with one wide spread of margins, and the fixed margin of the same setting.

    Raises ValueError where a world ran at several such settings: no comparison is meant there.
    """
    wide = results.filter(split="spread")
    settings = wide.select("world", "gamma", "beta_dpo", "spread").unique()
    if twice := settings["world"].value_counts().filter(pl.col("count") > 1)["world"].to_list():
        raise ValueError(f"{twice[0]} has runs at several settings of the split spread")
    fixed = equal(results).filter(objective="fixed_margin")
    return pl.concat([wide, fixed.join(wide, on="world", how="semi", maintain_order="left")])


def trained(results: pl.DataFrame, spread: float) -> pl.DataFrame:
    """Return the runs judged by the prompts voted about: margins of this spread, and no gap."""
    runs = results.filter(split="trained")
    return runs.filter((pl.col("spread") == spread) | (pl.col("objective") != "arenapo"))


def worlds_of(runs: pl.DataFrame) -> list[str]:
    """Return the worlds' names in the table's order."""
    return runs["world"].unique(maintain_order=True).to_list()


def paired(runs: pl.DataFrame, world: str, pair: Pair, outcome: str) -> dict[int, float]:
    """Return the difference of the pair's outcomes for every seed that both ran.

    Raises ValueError where a policy ran twice with one seed: these are two settings.
    """
    values = []
    for policy in pair:
        cell = runs.filter(world=world, objective=policy.objective, gap=policy.gap)
        if cell["seed"].n_unique() < len(cell):
            raise ValueError(f"{world}, {policy.name}: a seed ran at two settings")
        values.append(dict(cell.select("seed", outcome).iter_rows()))
    return {
        seed: values[0][seed] - values[1][seed] for seed in sorted(values[0].keys() & values[1])
    }


def contrasts(
    runs: pl.DataFrame, outcome: str = "reward", questions: Sequence[Pair] = QUESTIONS
) -> list[Contrast]:
    """Answer every question in every world that ran it; Holm's correction covers all of them."""
    return _corrected(
        _contrast(world, pair, list(values.values()))
        for world in worlds_of(runs)
        for pair in questions
        if len(values := paired(runs, world, pair, outcome)) > 1
    )


def pooled(
    runs: pl.DataFrame, outcome: str = "reward", questions: Sequence[Pair] = QUESTIONS
) -> list[Contrast]:
    """Answer every question over all worlds of `runs` at once.

    A seed's value is its mean over the worlds, and only seeds that ran in all of them count: worlds
    share prompts by seed, so seeds and not runs are what is resampled.
    """
    found = []
    for pair in questions:
        each = {world: paired(runs, world, pair, outcome) for world in worlds_of(runs)}
        each = {world: values for world, values in each.items() if len(values) > 1}
        if each:
            seeds = sorted(set.intersection(*map(set, each.values())))
            values = [float(np.mean([here[seed] for here in each.values()])) for seed in seeds]
            over = f"{len(each)} worlds" if len(each) > 1 else next(iter(each))
            found.append(_contrast(over, pair, values))
    return _corrected(found)


def gains(
    runs: pl.DataFrame, before: pl.DataFrame, policy: Policy, outcome: str = "reward"
) -> list[Contrast]:
    """Return what a policy gains in `runs` over itself in `before`, paired by seed."""
    old = before.filter(objective=policy.objective, gap=policy.gap).with_columns(gap=pl.lit("old"))
    both = pl.concat([runs.filter(objective=policy.objective, gap=policy.gap), old])
    other = replace(policy, gap="old")  # type: ignore[arg-type]
    return [replace(found, other=policy) for found in contrasts(both, outcome, [(policy, other)])]


def new_world(runs: pl.DataFrame, pair: Pair, outcome: str = "reward") -> NewWorld | None:
    """Return the random-effects mean of a contrast and its prediction interval.

    Between-world variance by DerSimonian and Laird (1986), the mean's interval by Hartung and
    Knapp (2001), the next world's by Higgins, Thompson and Spiegelhalter (2009). None with fewer
    than three worlds.
    """
    each = [list(paired(runs, world, pair, outcome).values()) for world in worlds_of(runs)]
    each = [values for values in each if len(values) > 1]
    if (count := len(each)) < 3:
        return None
    means = np.array([np.mean(values) for values in each])
    variances = np.array([np.var(values, ddof=1) / len(values) for values in each])
    weights = 1 / variances
    common = weights @ means / weights.sum()
    excess = weights @ (means - common) ** 2 - (count - 1)
    between = max(0.0, excess / (weights.sum() - (weights**2).sum() / weights.sum()))
    weights = 1 / (variances + between)
    mean = weights @ means / weights.sum()
    error2 = weights @ (means - mean) ** 2 / (count - 1) / weights.sum()
    half = stdtrit(count - 1, 0.975) * np.sqrt(error2)
    reach = stdtrit(count - 2, 0.975) * np.sqrt(between + 1 / weights.sum())
    bounds = (mean, mean - half, mean + half, mean - reach, mean + reach)
    return NewWorld(count, *map(float, bounds))


def curve(results: pl.DataFrame, outcome: str = "reward") -> pl.DataFrame:
    """Return the mean outcome after every number of steps: world, policy, seeds, steps, mean.

    A mean is over the seeds that every policy of that world ran at every number of steps.
    """
    cell = ["world", "objective", "gap", "spread"]
    drawn = results.filter(split="curve")
    points = results.filter(pl.col("split").is_in(["curve", "main", "spread"]))
    points = points.join(drawn.select(cell).unique(), on=cell, how="semi", maintain_order="left")
    each = pl.struct(*cell[1:], "steps").n_unique()
    seeds = points.group_by("world", "seed").agg(ran=each)
    whole = seeds.filter(pl.col("ran") == pl.col("ran").max().over("world"))
    kept = points.join(whole, on=["world", "seed"], how="semi", maintain_order="left")
    means = kept.group_by(*cell, "steps", maintain_order=True)
    return means.agg(pl.col("seed").n_unique().alias("seeds"), mean=pl.col(outcome).mean()).sort(
        *cell, "steps"
    )


def _contrast(over: str, pair: Pair, values: Sequence[float]) -> Contrast:
    low, high, p = _interval(tuple(values))
    return Contrast(over, *pair, len(values), float(np.mean(values)), low, high, p, p)


@cache  # several tables and a figure ask for the same contrast
def _interval(values: tuple[float, ...]) -> tuple[float, float, float]:
    column = np.array(values)
    low, high = bootstrap_interval(column[:, None])
    return float(low[0]), float(high[0]), sign_flip_p(column)


def _corrected(found: Iterable[Contrast]) -> list[Contrast]:
    found = list(found)
    corrected = holm([one.p for one in found])
    return [replace(one, p_holm=p) for one, p in zip(found, corrected, strict=True)]
