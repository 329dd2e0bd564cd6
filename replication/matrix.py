"""The matrix: which runs there are, two at a time, and the tidy table of what came of them.

A run that is done is a JSON file named by its key under the cache, so a matrix that was stopped, or
grown, runs what is missing and no more. `tune` gives every policy the same budget: eight settings,
of gamma and beta_dpo where it has a margin, else of beta_dpo, on the first tuning seeds, and the
best three of them on the others too. The main runs take the best of the three.
"""

import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from replication.base import base_model, judge
from replication.runs import LEARNING_RATE, STEPS, Gap, Run, Scale, execute, length_of
from training.config import ObjectiveName

# The gammas tried with each beta_dpo: a larger one saturates sooner, so it takes a larger margin.
GAMMAS = {250.0: (0.5, 1.0, 2.0, 4.0), 1000.0: (2.0, 4.0, 8.0, 16.0)}
FINALISTS = 3
BETAS = (25.0, 50.0, 75.0, 100.0, 140.0, 175.0, 250.0, 500.0)
SCHEMA = {
    "world": pl.String,
    "objective": pl.String,
    "gap": pl.String,
    "gamma": pl.Float64,
    "beta_dpo": pl.Float64,
    "spread": pl.Float64,
    "seed": pl.Int64,
    "split": pl.String,
    "steps": pl.Int64,
    "learning_rate": pl.Float64,
    "reward": pl.Float64,
    "base_reward": pl.Float64,
    "win_rate": pl.Float64,
    "train_seconds": pl.Float64,
    "seconds": pl.Float64,
}
KEYS = tuple(SCHEMA)[: tuple(SCHEMA).index("reward")]  # what tells one run from another
Say = Callable[[str], None]


@dataclass(frozen=True)
class Policy:
    """A row of the comparison."""

    objective: ObjectiveName
    gap: Gap

    @property
    def name(self) -> str:
        """Its name in tables: the objective, and whose gap where it has one."""
        return self.objective if self.gap in ("none", "one") else f"{self.objective} {self.gap}"

    @property
    def has_margin(self) -> bool:
        """Whether gamma means something to it."""
        return self.objective in ("fixed_margin", "arenapo", "arenapo_regression")

    @property
    def grid(self) -> list[tuple[float, float]]:
        """The values of (gamma, beta_dpo) that tuning tries."""
        if self.has_margin:
            return [(gamma, beta) for beta, gammas in GAMMAS.items() for gamma in gammas]
        return [(0.0, beta) for beta in BETAS]


# The question, then what else was asked: whose gap, and how it enters the loss.
MAIN = (
    Policy("dpo", "none"),
    Policy("fixed_margin", "one"),
    Policy("arenapo", "shuffled"),
    Policy("arenapo", "pairwise"),
    Policy("arenapo", "joint"),
    Policy("arenapo", "capability"),
    Policy("arenapo", "models"),
    Policy("arenapo", "oracle"),
)
MORE = (
    Policy("arenapo", "signed"),
    Policy("sft", "none"),
    Policy("sdpo", "none"),
    Policy("ipo", "none"),
    Policy("cdpo", "pairwise"),
    Policy("cdpo", "joint"),
    Policy("arenapo", "predictive"),
    Policy("arenapo", "clipped"),
    Policy("arenapo_weighted", "pairwise"),
    Policy("arenapo_weighted", "joint"),
    Policy("arenapo_weighted", "oracle"),
    Policy("arenapo_regression", "joint"),
)

# From what is known of models alone to what is known of each image: an estimate's, the truth's.
BETWEEN: tuple[tuple[Policy, ...], ...] = (
    tuple(
        Policy("arenapo", gap)
        for gap in ("capability", "estimate-25", "estimate-50", "estimate-75", "signed")
    ),
    tuple(
        Policy("arenapo", gap) for gap in ("models", "truth-25", "truth-50", "truth-75", "oracle")
    ),
)


def tuning_runs(world: str, policies: Iterable[Policy], seeds: Sequence[int]) -> list[Run]:
    """Return every policy at every value of its grid, on the first tuning seeds."""
    return [
        Run(world, policy.objective, policy.gap, gamma, beta, seed, "tuning")
        for seed in seeds
        for policy in policies
        for gamma, beta in policy.grid
    ]


def finalists(
    results: pl.DataFrame, world: str, policies: Iterable[Policy], seeds: Sequence[int]
) -> list[Run]:
    """Return every policy at its best `FINALISTS` settings so far, on further tuning seeds."""
    settings = {p: tried(results, world, p)[:FINALISTS] for p in policies}
    return [
        Run(world, policy.objective, policy.gap, gamma, beta, seed, "tuning")
        for seed in seeds
        for policy, found in settings.items()
        for gamma, beta in found
    ]


def best(results: pl.DataFrame, world: str, policy: Policy) -> tuple[float, float]:
    """Return the best of `tried`: the (gamma, beta_dpo) that the main runs take."""
    return tried(results, world, policy)[0]


def tried(results: pl.DataFrame, world: str, policy: Policy) -> list[tuple[float, float]]:
    """Return every (gamma, beta_dpo) that ran on a world's tuning seeds, the best one first.

    Those on more seeds come before those on fewer, then the higher mean reward.
    Raises ValueError where the policy was not tuned there.
    """
    found = results.filter(
        pl.col("split") == "tuning",
        pl.col("world") == world,
        pl.col("objective") == policy.objective,
        pl.col("gap") == policy.gap,
        pl.col("steps") == STEPS,
        pl.col("learning_rate") == LEARNING_RATE,
        pl.col("spread") == 0,
    )
    if found.is_empty():
        raise ValueError(f"{policy.name} has no tuning run in {world}: run `tune` there first")
    means = found.group_by("gamma", "beta_dpo").agg(pl.len().alias("n"), pl.col("reward").mean())
    ordered = means.sort("n", "reward", "gamma", "beta_dpo", descending=True)
    return ordered.select("gamma", "beta_dpo").rows()


def main_runs(
    results: pl.DataFrame,
    world: str,
    policies: Iterable[Policy],
    seeds: Sequence[int],
    tuned_in: str,
    steps: Sequence[int] = (),
) -> list[Run]:
    """Return every policy at its best setting, seed by seed, so that a stop leaves whole seeds.

    With `steps` these are points of learning curves, one run for each number of steps.
    """
    settings = {policy: best(results, tuned_in, policy) for policy in policies}
    split = "curve" if steps else "main"
    return [
        Run(world, policy.objective, policy.gap, gamma, beta, seed, split, length)
        for seed in seeds
        for length in steps or (STEPS,)
        for policy, (gamma, beta) in settings.items()
    ]


def equal_runs(
    world: str,
    policies: Iterable[Policy],
    seeds: Sequence[int],
    gamma: float,
    beta_dpo: float,
    spreads: Sequence[float] = (),
    split: str = "equal",
    steps: Sequence[int] = (),
) -> list[Run]:
    """Return every policy at one and the same setting, with each of the spreads if there are any.

    Without spreads a policy's margins have its gap's own one; without steps a run is as long as its
    world's are.
    """
    own, learning_rate = length_of(world)
    return [
        Run(
            world, policy.objective, policy.gap, gamma if policy.has_margin else 0.0, beta_dpo,
            seed, split, length, learning_rate, spread,
        )
        for seed in seeds
        for length in steps or (own,)
        for spread in spreads or (0.0,)
        for policy in policies
    ]  # fmt: skip


def run_all(runs: Sequence[Run], scale: Scale, cache: Path, workers: int, say: Say) -> pl.DataFrame:
    """Run what is not done yet, and return the tidy table of these runs.

    A run's failure is raised once those under way have ended; what is done stays done.
    """
    cache.mkdir(parents=True, exist_ok=True)
    missing = [run for run in runs if not _path(run, scale, cache).exists()]
    say(f"{len(runs)} runs, {len(runs) - len(missing)} of them done")
    if missing:
        base_model(cache, say, scale.pretraining_steps)
        judge(cache, say, scale.judge_steps)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, _quiet) as pool:
            waiting = {pool.submit(_run, run, scale, cache): run for run in missing}
            for n, future in enumerate(as_completed(waiting), start=1):
                future.result()
                if n % 20 == 0 or n == len(missing):
                    say(f"{n} of {len(missing)}")
    return table_of(runs, scale, cache)


def table_of(runs: Sequence[Run], scale: Scale, cache: Path) -> pl.DataFrame:
    """Return the columns of `SCHEMA` for those of the runs that are done."""
    done = [run for run in runs if _path(run, scale, cache).exists()]
    rows = [asdict(run) | json.loads(_path(run, scale, cache).read_text()) for run in done]
    return pl.DataFrame(rows, schema=SCHEMA)


def merge(old: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    """Add new results to old ones; a cell that both hold is the new one's."""
    return pl.concat([new, old]).unique(KEYS, keep="first", maintain_order=True).sort(KEYS)


def _path(run: Run, scale: Scale, cache: Path) -> Path:
    return cache / "results" / f"{run.key(scale)}.json"


def _quiet() -> None:
    """One thread a process: with networks this small, more of them wait for each other."""
    import torch

    torch.set_num_threads(1)
    os.environ["TQDM_DISABLE"] = "1"


def _run(run: Run, scale: Scale, cache: Path) -> None:
    result = execute(run, scale, cache)
    path = _path(run, scale, cache)
    path.parent.mkdir(exist_ok=True)
    aside = path.with_suffix(f".{os.getpid()}")
    aside.write_text(json.dumps(asdict(result)))
    aside.replace(path)
