"""Rows of the tidy table, for tests of what is read out of it."""

import polars as pl

from replication.matrix import SCHEMA
from replication.runs import LEARNING_RATE, STEPS


def table(*rows: tuple) -> pl.DataFrame:
    """Rows of (world, policy, gamma, seed, split, reward) as the tidy table."""
    return pl.DataFrame(
        [
            {
                "world": world, "objective": policy.objective, "gap": policy.gap, "gamma": gamma,
                "beta_dpo": 250.0, "spread": 0.0, "seed": seed, "split": split, "steps": STEPS,
                "learning_rate": LEARNING_RATE, "reward": reward,
                "base_reward": 2.0, "win_rate": 0.6, "train_seconds": 3.0, "seconds": 4.0,
            }
            for world, policy, gamma, seed, split, reward in rows
        ],
        schema=SCHEMA,
    )  # fmt: skip


def spread(results: pl.DataFrame, value: float) -> pl.DataFrame:
    """Put one spread into every row."""
    return results.with_columns(spread=pl.lit(value))
