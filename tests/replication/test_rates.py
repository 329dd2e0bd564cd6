"""Each objective at a learning rate of its own: same budget, nothing of the claim in the choice."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from tidy import table

from replication import rates
from replication.contrasts import DPO, PAIRWISE
from replication.images import SCHEMA, parts
from replication.runs import HELD_OUT, prompts_of


def test_every_policy_gets_the_same_settings_and_no_seed_or_prompt_serves_twice() -> None:
    tuning = rates.tuning_runs()
    counts = Counter((run.objective, run.gap) for run in tuning)
    assert set(counts.values()) == {5 * 2 * len(rates.TUNING_SEEDS)}
    assert len(counts) == len(rates.POLICIES)
    assert {run.gamma for run in tuning if run.objective == "arenapo"} == {1.0}
    assert not set(rates.SEEDS) & {*range(20), *rates.TUNING_SEEDS}  # 0 to 19: all other claims
    chosen = prompts_of(tuning[0], Path())
    judged = prompts_of(replace(tuning[0], split="rate"), Path())
    assert not set(chosen) & set(judged)
    assert {*chosen, *judged} == set(HELD_OUT)
    assert abs(len(chosen) - len(judged)) <= 1


def test_the_fresh_seeds_take_the_rate_with_the_best_mean_reward() -> None:
    rows = [
        table(("close-6", policy, 0.0, seed, "rate tuning", reward + shift)).with_columns(
            learning_rate=pl.lit(rate)
        )
        for policy in rates.POLICIES
        for shift in [0.5 if policy == PAIRWISE else 0.0]
        for rate, rewards in ((1e-4, (3.0, 3.4)), (4e-4, (3.5, 3.1)), (8e-4, (3.9, 1.0)))
        for seed, reward in zip(rates.TUNING_SEEDS, rewards, strict=True)
    ]
    results = pl.concat(rows)
    assert rates.tried(results, DPO)["learning_rate"].to_list() == [4e-4, 1e-4, 8e-4]
    runs = rates.main_runs(results, ["far-3"], [20, 21])
    assert {(run.learning_rate, run.beta_dpo, run.split) for run in runs} == {(4e-4, 250.0, "rate")}
    assert [run.seed for run in runs] == [20] * 8 + [21] * 8
    with pytest.raises(ValueError, match="dpo has no tuning run of its learning rate"):
        rates.tried(table(), DPO)


def test_a_mean_rise_is_its_winners_gain_less_its_losers_loss() -> None:
    rows = [
        ("dpo", "none", seed, f"p{k}", was, now)
        for seed, pairs in enumerate([
            [(2.0, 4.0), (3.0, 2.0), (1.0, 1.0), (2.0, 3.0)],
            [(2.0, 2.5), (3.0, 1.0), (1.0, 1.5), (2.0, 3.0)],
        ])
        for k, (was, now) in enumerate(pairs)
    ]  # fmt: skip
    (row,) = parts(pl.DataFrame(rows, schema=SCHEMA, orient="row")).rows(named=True)
    # By hand: seed 0 rises 2, -1, 0, 1; seed 1 rises 0.5, -2, 0.5, 1.
    assert row["seeds"] == 2
    assert row["mean"] == pytest.approx((0.5 + 0.0) / 2)
    assert row["share_better"] == pytest.approx((0.5 + 0.75) / 2)
    assert row["gain"] == pytest.approx((1.5 + 2 / 3) / 2)
    assert row["share_worse"] == pytest.approx(0.25)
    assert row["loss"] == pytest.approx((1.0 + 2.0) / 2)
    assert row["base_of_worse"] == pytest.approx(3.0)
