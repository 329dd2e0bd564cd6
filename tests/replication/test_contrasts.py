"""What is compared: seeds are paired, settings are told apart, worlds are pooled by seed."""

import numpy as np
import polars as pl
import pytest
from tidy import spread, table

from replication import contrasts as compare
from replication.contrasts import DPO, FIXED, JOINT, ORACLE, contrasts, new_world, pooled


def test_contrasts_are_paired_by_seed_and_corrected_together() -> None:
    rows = [
        ("far-3", policy, 1.0, seed, "main", reward + 0.5 * (seed % 3))
        for policy, reward in ((FIXED, 3.0), (JOINT, 3.1), (ORACLE, 3.4))
        for seed in range(8)
    ]
    joint, oracle = contrasts(table(*rows), "reward", [(JOINT, FIXED), (ORACLE, FIXED)])
    assert (joint.mean, oracle.mean) == pytest.approx((0.1, 0.4))
    assert oracle.high - oracle.low < 1e-9  # the seeds' own differences cancel
    assert oracle.p == pytest.approx(2 / 2**8)  # all eight signs alike, by hand
    assert oracle.p_holm == pytest.approx(2 * oracle.p)
    (level,) = contrasts(table(*rows), "win_rate", [(JOINT, FIXED)])
    assert (level.mean, level.p) == (0.0, 1.0)  # the second outcome is equal in every row


def test_a_policy_at_two_settings_is_not_compared() -> None:
    rows = [("w", FIXED, gamma, 0, "main", 3.0) for gamma in (1.0, 2.0)]
    with pytest.raises(ValueError, match="w, fixed_margin: a seed ran at two settings"):
        contrasts(table(*rows), "reward", [(FIXED, FIXED)])


def test_over_worlds_a_seed_counts_once_with_its_mean() -> None:
    rows = []
    for seed in range(6):
        for world, lead in (("close-1", 0.1), ("close-6", 0.3)):
            noise = 0.5 * (seed % 3)  # a seed's own, in every world and policy
            rows += [
                (world, FIXED, 1.0, seed, "main", 3.0 + noise),
                (world, JOINT, 1.0, seed, "main", 3.0 + noise + lead),
            ]
    rows.append(("close-1", JOINT, 1.0, 6, "main", 9.0))  # a seed that one world alone ran
    (found,) = pooled(table(*rows), "reward", [(JOINT, FIXED)])
    assert (found.over, found.seeds) == ("2 worlds", 6)
    assert found.mean == pytest.approx(0.2)
    assert found.high - found.low < 1e-9


def test_a_new_world_is_foretold_as_in_the_textbook() -> None:
    """Means 1, 2, 3 with variance 1/2 each: tau^2 = 1/2 by DerSimonian and Laird, by hand.

    Weights are 1, so the mean is 2; Hartung and Knapp's variance is (1 + 0 + 1) / 2 / 3 = 1/3, and
    the next world's 1/2 + 1/3. t is 4.302653 with 2 and 12.706205 with 1 degree of freedom.
    """
    rows = []
    for world, mean in (("far-1", 1.0), ("far-3", 2.0), ("far-6", 3.0)):
        for seed, off in enumerate((-np.sqrt(0.5), np.sqrt(0.5))):  # variance of the mean: 1/2
            rows += [
                (world, FIXED, 1.0, seed, "main", 0.0),
                (world, JOINT, 1.0, seed, "main", mean + off),
            ]
    found = new_world(table(*rows), (JOINT, FIXED))
    assert found.mean == pytest.approx(2)
    assert found.high - found.mean == pytest.approx(4.302653 * np.sqrt(1 / 3), rel=1e-6)
    assert found.next_high - found.mean == pytest.approx(12.706205 * np.sqrt(5 / 6), rel=1e-6)
    assert new_world(table(*rows[:8]), (JOINT, FIXED)) is None  # two worlds say nothing of a third


def test_equal_settings_are_those_given_and_what_tuning_put_there_too() -> None:
    results = table(
        ("w", DPO, 0.0, 0, "main", 2.0),
        ("w", FIXED, 1.0, 0, "main", 3.0),  # tuned to the very setting
        ("w", JOINT, 8.0, 0, "main", 9.0),  # and this one elsewhere
        ("w", JOINT, 1.0, 0, "equal", 4.0),
        ("w", JOINT, 1.0, 1000, "tuning", 5.0),
        ("v", JOINT, 8.0, 0, "main", 6.0),  # a world without such runs
    )
    found = compare.equal(results)
    assert found.select("objective", "gap", "reward").sort("reward").rows() == [
        ("dpo", "none", 2.0), ("fixed_margin", "one", 3.0), ("arenapo", "joint", 4.0),
    ]  # fmt: skip
    assert compare.equal(results.filter(split="main")).is_empty()
    again = pl.concat([results, table(("w", FIXED, 1.0, 0, "equal", 3.0))])
    assert compare.equal(again).height == 3  # the same run under two names counts once


def test_at_one_spread_the_fixed_margin_of_the_same_setting_stands_beside_the_gaps() -> None:
    own = table(
        *(("close-1", FIXED, 1.0, seed, "main", 3.0 + seed) for seed in range(4)),
        *(("close-1", JOINT, 1.0, seed, "equal", 3.1 + seed) for seed in range(4)),
        ("far-3", FIXED, 1.0, 0, "main", 9.0),
    )
    runs = [("close-1", JOINT, 1.0, seed, "spread", 3.4 + seed) for seed in range(4)]
    results = pl.concat([own, spread(table(*runs), 3.0)])
    wide = compare.spread(results)
    (lead,) = contrasts(wide, "reward", [(JOINT, FIXED)])
    assert (lead.over, lead.seeds, lead.mean) == ("close-1", 4, pytest.approx(0.4))
    (gain,) = compare.gains(wide, compare.equal(results), JOINT)
    assert (gain.policy, gain.other, gain.mean) == (JOINT, JOINT, pytest.approx(0.3))
    twice = pl.concat([results, spread(table(*runs), 5.0)])
    with pytest.raises(ValueError, match="close-1 has runs at several settings"):
        compare.spread(twice)


def test_a_curve_is_over_the_seeds_that_ran_every_length() -> None:
    main = table(*(("w", JOINT, 2.0, seed, "main", 4.0 + seed) for seed in range(3)))
    short, long = (
        table(*(("w", JOINT, 2.0, seed, "curve", reward + seed) for seed in range(2))).with_columns(
            steps=pl.lit(steps, pl.Int64)
        )
        for steps, reward in ((20, 1.0), (320, 7.0))
    )
    points = compare.curve(pl.concat([main, short, long]))
    assert points.select("seeds", "steps", "mean").rows() == [(2, 20, 1.5), (2, 80, 4.5),
                                                             (2, 320, 7.5)]  # fmt: skip
    # A policy that ran one seed only leaves that seed only to all curves of its world.
    fewer = table(*(("w", DPO, 0.0, 0, split, 5.0) for split in ("main", "curve", "curve")))
    fewer = fewer.with_columns(steps=pl.Series([80, 20, 320]))
    both = compare.curve(pl.concat([main, short, long, fewer]))
    assert both["seeds"].unique().to_list() == [1]
    assert both.filter(gap="joint")["mean"].to_list() == [1.0, 4.0, 7.0]
