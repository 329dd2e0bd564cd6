"""What the tidy table says: policies side by side, paired by seed.

A seed is one drawing of prompts and votes and one order of training, the same for every policy; so
a difference of two policies has one value a seed. Intervals and tests are `evaluation.intervals`'.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from evaluation.intervals import bootstrap_interval, holm, sign_flip_p
from studies.matrix import BETWEEN, MAIN, MORE, Policy
from studies.runs import STEPS

FIXED = Policy("fixed_margin", "one")
ORACLE = Policy("arenapo", "oracle")
PAIRWISE = Policy("arenapo", "pairwise")
JOINT = Policy("arenapo", "joint")
CAPABILITY = Policy("arenapo", "capability")
MODELS = Policy("arenapo", "models")
SIGNED = Policy("arenapo", "signed")
SHUFFLED = Policy("arenapo", "shuffled")
DPO = Policy("dpo", "none")
# All of them are corrected together. Those of the capability gap were added once tuning had shown
# that the truth about models alone trains as well as the whole truth; the main seeds were not yet
# run.
QUESTIONS = (
    (FIXED, DPO),
    (PAIRWISE, DPO),
    (JOINT, DPO),
    (CAPABILITY, DPO),
    (ORACLE, FIXED),
    (PAIRWISE, FIXED),
    (JOINT, FIXED),
    (CAPABILITY, FIXED),
    (PAIRWISE, SHUFFLED),
    (JOINT, SHUFFLED),
    (JOINT, PAIRWISE),
    (CAPABILITY, PAIRWISE),
    (MODELS, ORACLE),
)
# Asked where every margin has the same weight, in a correction of its own: what a sign is worth,
# and whether the estimate of the models' difference is as good as its truth.
EQUAL_QUESTIONS = (
    *QUESTIONS,
    (SIGNED, JOINT),
    (SIGNED, ORACLE),
    (CAPABILITY, Policy("arenapo", "clipped")),
    (CAPABILITY, ORACLE),
    (CAPABILITY, MODELS),
)
# Asked where the margins of all gaps have one mean and one spread too, so that gaps differ in what
# they know of their pair and in nothing else.
SPREAD_POLICIES = (SHUFFLED, PAIRWISE, JOINT, SIGNED, CAPABILITY, MODELS, ORACLE)
SPREAD_QUESTIONS = (
    (SHUFFLED, FIXED),
    *((policy, FIXED) for policy in SPREAD_POLICIES[1:]),
    *((policy, SHUFFLED) for policy in SPREAD_POLICIES[1:]),
    (JOINT, PAIRWISE),
    (CAPABILITY, PAIRWISE),
    (CAPABILITY, JOINT),
    (MODELS, ORACLE),
)
# Asked on the prompts that were trained on: whether what is known of single images pays there.
TRAINED_QUESTIONS = (
    *((policy, FIXED) for policy in (PAIRWISE, JOINT, MODELS, ORACLE)),
    (JOINT, PAIRWISE),
    (MODELS, ORACLE),
)
RESAMPLES = 10_000


@dataclass(frozen=True)
class Difference:
    """Mean reward of `policy` minus that of `other` over seeds, with its 95% interval."""

    world: str
    policy: str
    other: str
    seeds: int
    mean: float
    low: float
    high: float
    p_value: float
    p_holm: float


def worlds_of(results: pl.DataFrame) -> list[str]:
    """Worlds of the main runs, in the table's order."""
    return results.filter(split="main")["world"].unique(maintain_order=True).to_list()


def rewards(results: pl.DataFrame, world: str, policies: Sequence[Policy]) -> np.ndarray:
    """Reward of each policy at each main seed that all of them ran: (seeds, policies)."""
    columns = []
    for policy in policies:
        cell = results.filter(
            split="main", world=world, objective=policy.objective, gap=policy.gap
        ).select("seed", "reward")
        if cell["seed"].n_unique() < len(cell):
            raise ValueError(f"{world}, {policy.name}: a seed ran at two settings")
        columns.append(dict(cell.iter_rows()))
    seeds = sorted(set.intersection(*(set(column) for column in columns)))
    return np.array([[column[seed] for column in columns] for seed in seeds]).reshape(
        len(seeds), len(policies)
    )


def at_equal_settings(results: pl.DataFrame) -> pl.DataFrame:
    """Return, as main runs, the runs at the setting of each world's runs of the split `equal`.

    A policy that tuning put at that very setting is there with its main runs; one without a margin
    (dpo) too, at its own best, where it has no run of that split.
    """
    found = []
    for world in results.filter(split="equal")["world"].unique(maintain_order=True):
        here = results.filter(pl.col("world") == world, pl.col("split").is_in(["equal", "main"]))
        given = here.filter(pl.col("split") == "equal", pl.col("gamma") > 0).row(0, named=True)
        same = (pl.col("gamma") == given["gamma"]) & (pl.col("beta_dpo") == given["beta_dpo"])
        without_margin = pl.col("objective") == "dpo"
        kept = here.filter(same | without_margin)
        found.append(kept.unique(["objective", "gap", "seed"], keep="first", maintain_order=True))
    return pl.concat(found).with_columns(split=pl.lit("main")) if found else results.clear()


def at_one_spread(results: pl.DataFrame) -> pl.DataFrame:
    """Return, as main runs, those of the split `spread`, and the fixed margin of the same setting.

    Raises ValueError where a world ran at several spreads: no comparison is meant there.
    """
    wide = results.filter(split="spread")
    for world in wide["world"].unique(maintain_order=True):
        found = wide.filter(world=world).select("gamma", "beta_dpo", "spread").unique()
        if len(found) > 1:
            raise ValueError(f"{world} has runs at {len(found)} settings of the split spread")
    fixed = at_equal_settings(results).filter(
        pl.col("objective") == "fixed_margin", pl.col("world").is_in(wide["world"].implode())
    )
    return pl.concat([wide.with_columns(split=pl.lit("main")), fixed])


def on_trained_prompts(results: pl.DataFrame) -> list[tuple[str, Difference, Difference]]:
    """Return (spread, difference on trained prompts, the same policies' on held-out ones).

    For the gaps with their own spread, then with each one that ran; over the seeds that ran both.
    Holm's correction covers all differences on trained prompts.
    """
    trained = results.filter(split="trained").with_columns(split=pl.lit("main"))
    spreads, found, beside = [], [], []
    for spread in sorted(trained.filter(pl.col("objective") == "arenapo")["spread"].unique()):
        mine = trained.filter((pl.col("spread") == spread) | (pl.col("objective") != "arenapo"))
        seen = at_one_spread(results) if spread else at_equal_settings(results)
        held_out = seen.join(
            mine.select("world", "seed").unique(), on=["world", "seed"], how="semi"
        )
        for question in TRAINED_QUESTIONS:
            answers = differences(mine, [question])
            spreads += [f"{spread:g} means" if spread else "its own"] * len(answers)
            found += answers
            beside += differences(held_out, [question])
    return list(zip(spreads, _corrected(found), beside, strict=True))


def spread_trials(results: pl.DataFrame) -> pl.DataFrame:
    """Return the tuning runs of worlds at several spreads, each at the setting that most have."""
    wide = results.filter(pl.col("spread") > 0, split="tuning")
    wide = wide.filter(pl.col("spread").n_unique().over("world") > 1)
    setting = ["world", "gamma", "beta_dpo"]
    most = wide.group_by(setting).len().sort("len", descending=True).unique("world", keep="first")
    return wide.join(most.select(setting), on=setting, how="semi", maintain_order="left")


def ladders(results: pl.DataFrame, world: str) -> list[tuple[np.ndarray, list[Difference]]]:
    """Return (reward of each step (steps,), differences to the first step) of `matrix.BETWEEN`.

    On the tuning seeds, at the setting and the one spread that a step between was tried at. Empty
    where none was.
    """
    wide = results.filter(split="tuning", world=world, objective="arenapo")
    steps = wide.filter(pl.col("gap") == BETWEEN[0][1].gap)
    if steps.is_empty():
        return []
    setting = ["gamma", "beta_dpo", "spread"]
    at = wide.join(steps.select(setting).unique(), on=setting, how="semi")
    at = at.with_columns(split=pl.lit("main"))
    found = []
    for ladder in BETWEEN:
        values = rewards(at, world, ladder)
        gains = [
            _difference(world, step, ladder[0], values[:, k] - values[:, 0])
            for k, step in enumerate(ladder)
            if k
        ]
        found.append((values.mean(0), gains))
    return found


def gains_of(
    results: pl.DataFrame, others: pl.DataFrame, policies: Sequence[Policy]
) -> list[Difference]:
    """Return what each policy gains in `results` over itself in `others`, paired by seed."""
    found = []
    for world in worlds_of(results):
        for policy in policies:
            mine, same = (
                dict(
                    each.filter(
                        split="main", world=world, objective=policy.objective, gap=policy.gap
                    )
                    .select("seed", "reward")
                    .iter_rows()
                )
                for each in (results, others)
            )
            values = np.array([mine[seed] - same[seed] for seed in sorted(mine.keys() & same)])
            if len(values) > 1:
                found.append(_difference(world, policy, policy, values))
    return _corrected(found)


def curve_steps(results: pl.DataFrame) -> list[int]:
    """Numbers of steps of the learning curves; the comparison's own length is one of them."""
    lengths = results.filter(split="curve")["steps"].unique().to_list()
    return sorted({*lengths, STEPS}) if lengths else []


def curves(results: pl.DataFrame) -> list[tuple[str, str, int, list[float]]]:
    """Return (world, policy, seeds, mean reward after each of `curve_steps`) of every curve.

    A mean is over the seeds that every curve of the world ran at every number of steps: at the
    policy's own best setting, which was tuned at the comparison's length, or at one setting and
    with the spread that is named.
    """
    steps = curve_steps(results)
    points = results.filter(pl.col("split").is_in(["curve", "main", "spread"]))
    found = []
    for world in results.filter(split="curve")["world"].unique(maintain_order=True):
        drawn = results.filter(split="curve", world=world)
        cell = ["objective", "gap", "spread"]
        here = points.filter(world=world).join(drawn.select(cell).unique(), on=cell, how="semi")
        whole = here.group_by("seed").agg(pl.struct(*cell, "steps").n_unique())
        most = drawn.select(cell).n_unique() * len(steps)
        seeds = whole.filter(pl.col("objective") == most)["seed"].implode()
        means = here.filter(pl.col("seed").is_in(seeds)).group_by(*cell, "steps")
        reward = {row[:4]: row[4] for row in means.agg(pl.col("reward").mean()).iter_rows()}
        for spread in sorted(drawn["spread"].unique()):
            for policy in (*MAIN, *MORE):
                mine = (policy.objective, policy.gap, spread)
                if (*mine, STEPS) in reward:
                    name = policy.name + (f", spread {spread:g}" if spread else "")
                    values = [reward[*mine, length] for length in steps]
                    found.append((world, name, len(seeds.item()), values))
    return found


def differences(
    results: pl.DataFrame, questions: Sequence[tuple[Policy, Policy]] = QUESTIONS
) -> list[Difference]:
    """Answer every question in every world that can, Holm's correction over all of them."""
    return _corrected(
        _difference(world, policy, other, pair[:, 0] - pair[:, 1])
        for world in worlds_of(results)
        for policy, other in questions
        if len(pair := rewards(results, world, [policy, other])) > 1
    )


def pooled(
    results: pl.DataFrame,
    series: str = "close-",
    questions: Sequence[tuple[Policy, Policy]] = QUESTIONS,
) -> list[Difference]:
    """Answer every question over all worlds of a series at once, Holm's correction over these.

    A seed's value is its mean difference over the worlds that ran both policies at every seed of
    the fewest: worlds share prompts by seed, so seeds and not runs are what is resampled.
    """
    worlds = [world for world in worlds_of(results) if world.startswith(series)]
    found = []
    for policy, other in questions:
        each = {world: rewards(results, world, [policy, other]) for world in worlds}
        each = {world: pair for world, pair in each.items() if len(pair) > 1}
        if each:
            seeds = min(map(len, each.values()))
            pairs = [pair[:seeds, 0] - pair[:seeds, 1] for pair in each.values()]
            name = f"{len(each)} worlds" if len(each) > 1 else next(iter(each))
            found.append(_difference(name, policy, other, np.mean(pairs, axis=0)))
    return _corrected(found)


def _difference(world: str, policy: Policy, other: Policy, values: np.ndarray) -> Difference:
    low, high = bootstrap_interval(values[:, None])
    p, mean = sign_flip_p(values), float(values.mean())
    return Difference(
        world, policy.name, other.name, len(values), mean, float(low[0]), float(high[0]), p, p
    )


def _corrected(found: Iterable[Difference]) -> list[Difference]:
    found = list(found)
    corrected = holm([one.p_value for one in found])
    return [replace(one, p_holm=p) for one, p in zip(found, corrected, strict=True)]


def captured(
    results: pl.DataFrame, world: str, policy: Policy, seed: int = 0
) -> tuple[float, float, float] | None:
    """Return (share, low, high): how much of the oracle's head-room over a fixed margin it has.

    (policy - fixed) / (oracle - fixed) of the means over seeds; 0: no better than a fixed margin,
    1: as good as knowing the truth. The interval resamples seeds. None without the runs, or where
    the head-room's own interval reaches 0: there is nothing to have a share of.
    """
    values = rewards(results, world, [policy, FIXED, ORACLE])
    if len(values) < 2:
        return None
    drawn = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    means = np.concatenate([values.mean(0)[None], values[drawn].mean(1)])
    room = means[:, 2] - means[:, 1]
    if np.quantile(room[1:], 0.025) <= 0:
        return None
    # Where a resample has no head-room its share is unbounded; quantiles carry that.
    shares = np.divide(
        means[:, 0] - means[:, 1], room, out=np.full(len(room), np.nan), where=room != 0
    )
    low, high = np.nanquantile(shares[1:], [0.025, 0.975])
    return float(shares[0]), float(low), float(high)
