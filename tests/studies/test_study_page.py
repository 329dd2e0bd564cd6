"""What is read out of the tidy table, and the page that is written from it."""

from pathlib import Path

import polars as pl
import pytest
from tidy import spread, table

from studies.comparisons import (
    DPO,
    FIXED,
    JOINT,
    ORACLE,
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
)
from studies.gaps import GAPS
from studies.graph import SCOPES
from studies.matrix import BETWEEN, MAIN, Policy, main_runs
from studies.report import write_report
from studies.runs import STEPS
from studies.tables import TABLES


def known_table() -> pl.DataFrame:
    """A world where the joint gap has exactly half of the oracle's lead of 0.4 at every seed."""
    worth = {
        "dpo none": 2.9, "fixed_margin one": 3.0, "arenapo shuffled": 3.0,
        "arenapo pairwise": 3.1, "arenapo joint": 3.2, "arenapo capability": 3.3,
        "arenapo models": 3.4, "arenapo oracle": 3.4,
    }  # fmt: skip
    rows = []
    for policy in MAIN:
        reward = worth[f"{policy.objective} {policy.gap}"]
        rows += [("far-3", policy, 1.0, s, "main", reward + 0.1 * (s % 3)) for s in range(8)]
        rows += [("far-3", policy, 1.0, 1000, "tuning", reward)]
    return table(*rows)


def test_the_share_captured_is_that_of_the_paired_means() -> None:
    share, low, high = captured(known_table(), "far-3", JOINT)
    assert (share, low, high) == pytest.approx((0.5, 0.5, 0.5))
    assert captured(known_table(), "far-3", Policy("arenapo", "predictive")) is None


def test_differences_are_paired_by_seed_and_corrected_together() -> None:
    found = {(d.policy, d.other): d for d in differences(known_table())}
    lead = found[ORACLE.name, FIXED.name]
    assert lead.seeds == 8
    assert lead.mean == pytest.approx(0.4)
    assert lead.high - lead.low < 1e-9  # the seeds' own differences cancel
    assert lead.p_holm >= lead.p_value


def test_over_worlds_a_seed_counts_once_with_its_mean() -> None:
    rows = []
    for seed in range(6):
        for world, lead in (("close-1", 0.1), ("close-6", 0.3), ("far-3", 9.0)):
            noise = 0.5 * (seed % 3)  # a seed's own, in every world and policy
            rows += [
                (world, FIXED, 1.0, seed, "main", 3.0 + noise),
                (world, JOINT, 1.0, seed, "main", 3.0 + noise + lead),
            ]
    (found,) = pooled(table(*rows), questions=[(JOINT, FIXED)])
    assert (found.world, found.seeds) == ("2 worlds", 6)
    assert found.mean == pytest.approx(0.2)
    assert found.high - found.low < 1e-9


def test_equal_settings_are_those_given_and_what_tuning_put_there_too() -> None:
    results = table(
        ("w", DPO, 0.0, 0, "main", 2.0),
        ("w", FIXED, 1.0, 0, "main", 3.0),  # tuned to the very setting
        ("w", JOINT, 8.0, 0, "main", 9.0),  # and this one elsewhere
        ("w", JOINT, 1.0, 0, "equal", 4.0),
        ("w", JOINT, 1.0, 1000, "tuning", 5.0),
        ("v", JOINT, 8.0, 0, "main", 6.0),  # a world without such runs
    )
    found = at_equal_settings(results)
    assert found.select("objective", "gap", "reward").sort("reward").rows() == [
        ("dpo", "none", 2.0), ("fixed_margin", "one", 3.0), ("arenapo", "joint", 4.0),
    ]  # fmt: skip
    assert found["split"].unique().to_list() == ["main"]
    assert at_equal_settings(results.filter(split="main")).is_empty()
    again = pl.concat([results, table(("w", FIXED, 1.0, 0, "equal", 3.0))])
    assert at_equal_settings(again).height == 3  # the same run under two names counts once


def test_at_one_spread_the_fixed_margin_of_the_same_setting_stands_beside_the_gaps() -> None:
    own = table(
        *(("close-1", FIXED, 1.0, seed, "main", 3.0 + seed) for seed in range(4)),
        *(("close-1", JOINT, 1.0, seed, "equal", 3.1 + seed) for seed in range(4)),
        ("far-3", FIXED, 1.0, 0, "main", 9.0),
    )
    runs = [("close-1", JOINT, 1.0, seed, "spread", 3.4 + seed) for seed in range(4)]
    results = pl.concat([own, spread(table(*runs), 3.0)])
    wide = at_one_spread(results)
    (lead,) = differences(wide, [(JOINT, FIXED)])
    assert (lead.world, lead.seeds, lead.mean) == ("close-1", 4, pytest.approx(0.4))
    (gain,) = gains_of(wide, at_equal_settings(results), [JOINT, ORACLE])
    assert (gain.policy, gain.mean) == (JOINT.name, pytest.approx(0.3))
    twice = pl.concat([results, spread(table(*runs), 5.0)])
    with pytest.raises(ValueError, match="close-1 has runs at 2 settings"):
        at_one_spread(twice)


def test_on_trained_prompts_the_same_seeds_stand_beside_on_held_out_ones() -> None:
    worth = {"main": (3.0, 3.1), "trained": (4.0, 4.3)}  # of a fixed margin and the joint gap
    rows = [
        (world, policy, 1.0, seed, split, reward + 0.1 * seed + (seed > 3))
        for split, rewards in worth.items()
        for policy, reward in zip((FIXED, JOINT), rewards, strict=True)
        for seed in range(8 if split == "main" else 4)
        for world in ("close-6", "far-3")
    ]
    equal = table(("close-6", JOINT, 1.0, 99, "equal", 3.0))  # says which setting is compared
    own = pl.concat([table(*rows).filter(world="close-6"), equal])
    ((spread_of, on, off),) = on_trained_prompts(own)
    assert (spread_of, on.seeds, off.seeds) == ("its own", 4, 4)
    assert (on.mean, off.mean) == pytest.approx((0.3, 0.1))

    wide = [
        spread(table(*(("close-6", JOINT, 1.0, seed, split, reward) for seed in range(4))), 3.0)
        for split, reward in (("trained", 4.9), ("spread", 3.9))
    ]
    (_, one, _), (name, two, _) = on_trained_prompts(pl.concat([own, *wide]))
    assert (name, two.policy, two.other) == ("3 means", JOINT.name, FIXED.name)
    assert one.p_holm >= one.p_value  # corrected together
    assert one.mean == pytest.approx(0.3)
    assert two.mean == pytest.approx(4.9 - 4.15)


def test_a_ladder_goes_from_the_models_gap_to_the_images_at_one_spread() -> None:
    rows = [
        ("close-3", step, 1.0, seed, "tuning", reward + 0.1 * k + 0.01 * seed)
        for ladder, reward in zip(BETWEEN, (3.0, 4.0), strict=True)
        for k, step in enumerate(ladder)
        for seed in range(1000, 1003)
    ]
    results = pl.concat([spread(table(*rows), 3.0), table(*rows)])  # with their own spread as well
    results = results.filter((pl.col("spread") > 0) | ~pl.col("gap").str.contains("-"))
    assert ladders(results, "close-6") == []
    (means, gains), (truth, _) = ladders(results, "close-3")
    assert means - 10.01 == pytest.approx([3.0, 3.1, 3.2, 3.3, 3.4])
    assert truth - means == pytest.approx([1.0] * 5)
    assert [gain.mean for gain in gains] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert all(gain.high - gain.low < 1e-9 for gain in gains)  # paired by seed


def test_a_curve_is_over_the_seeds_that_ran_every_length() -> None:
    tuned = table(("w", JOINT, 2.0, 1000, "tuning", 3.0))
    runs = main_runs(tuned, "w", [JOINT], [0, 1], "w", steps=(20, 320))
    assert [(run.seed, run.steps, run.gamma, run.split) for run in runs] == [
        (0, 20, 2.0, "curve"), (0, 320, 2.0, "curve"),
        (1, 20, 2.0, "curve"), (1, 320, 2.0, "curve"),
    ]  # fmt: skip
    main = table(*(("w", JOINT, 2.0, seed, "main", 4.0 + seed) for seed in range(3)))
    short, long = (
        table(*(("w", JOINT, 2.0, seed, "curve", reward + seed) for seed in range(2))).with_columns(
            steps=pl.lit(steps, pl.Int64)
        )
        for steps, reward in ((20, 1.0), (320, 7.0))
    )
    results = pl.concat([main, short, long])
    assert curve_steps(results) == [20, STEPS, 320]
    assert curves(results) == [("w", JOINT.name, 2, [1.5, 4.5, 7.5])]
    wide = [
        main.with_columns(split=pl.lit("spread"), spread=pl.lit(3.0)),
        *(spread(one.with_columns(pl.col("reward") + 0.5), 3.0) for one in (short, long)),
    ]
    assert curves(pl.concat([results, *wide]))[1] == (
        "w", "arenapo joint, spread 3", 2, [2.0, 4.5, 8.0],
    )  # fmt: skip
    assert curve_steps(main) == []
    # A policy that ran one seed alone leaves that seed alone to all curves of its world.
    fewer = table(*(("w", DPO, 0.0, 0, split, 5.0) for split in ("main", "curve", "curve")))
    lengths = fewer.with_columns(steps=pl.Series([STEPS, 20, 320]))
    assert curves(pl.concat([results, lengths])) == [
        ("w", DPO.name, 1, [5.0, 5.0, 5.0]), ("w", JOINT.name, 1, [1.0, 4.0, 7.0]),
    ]  # fmt: skip


def test_the_report_writes_every_table_between_its_markers(tmp_path: Path) -> None:
    docs = tmp_path / "study"
    docs.mkdir()
    for name in ("results", "first_round"):
        known_table().write_parquet(docs / f"{name}.parquet")
    more = [
        *(spread(table(("far-3", JOINT, 1.0, 1000, "tuning", 3.0)), wide) for wide in (1.0, 2.0)),
        spread(table(*(("far-3", JOINT, 1.0, s, "spread", 3.3) for s in range(8))), 2.0),
        table(*(("far-3", JOINT, 1.0, s, "curve", 3.7) for s in range(8))).with_columns(
            steps=pl.lit(320, pl.Int64)
        ),
        table(*(("far-3", policy, 1.0, s, "equal", 3.0) for policy in MAIN[1:] for s in range(8))),
    ]
    pl.concat([known_table(), *more]).write_parquet(docs / "results.parquet")
    gaps = [
        {"world": world, "seed": seed, "gap": gap, "votes": 9, "right": 0.8, "correlation": 0.5,
         "spread": 0.7}
        for world in [f"{s}-{v}" for s in ("far", "close") for v in ("1", "1.5", "3", "6")]
        for seed in range(2)
        for gap in GAPS
    ]  # fmt: skip
    pl.DataFrame(gaps).write_parquet(docs / "gaps.parquet")
    costs = [
        {"turn": turn, "objective": objective, "gap": gap, "seconds_a_step": seconds,
         "peak_memory_gib": 1.0}
        for turn in range(2)
        for objective, gap, seconds in (("dpo", "none", 0.02), ("arenapo", "joint", 0.03))
    ]  # fmt: skip
    pl.DataFrame(costs).write_parquet(docs / "cost.parquet")
    parts = [
        {"world": "close-1", "seed": seed, "scope": scope, "votes": 9, "correlation": value}
        for seed in range(2)
        for scope, value in zip(SCOPES, (0.3, 0.3, 0.4, 0.5, 0.45), strict=True)
    ]
    pl.DataFrame(parts).write_parquet(docs / "graph.parquet")
    page = tmp_path / "study.md"
    places = ["answer", *TABLES, "truth", "spreads", "first round", "graph", "cost"]
    long = docs / "tables.md"
    for path, names in ((page, places[::2]), (long, places[1::2])):
        path.write_text("\n".join(f"<!-- {name} -->\nold\n<!-- /{name} -->" for name in names))
    written = write_report(docs)
    text = page.read_text() + long.read_text()
    assert "old" not in text
    assert "the joint gap 50% (50% to 50%)" in text
    above = "above it in 1 of 1 (1 by Holm's p) and below it in 0 of 1"
    assert f"a spread of 2 means: joint against fixed_margin: {above}." in text
    assert "| far-3 | arenapo oracle - fixed_margin | 8 | +0.400 |" in text
    assert "| arenapo joint | 2 | 30 | 1.50 | 1.50 to 1.50 | 1.000 |" in text
    assert "| far-3 | arenapo joint | 8 | 3.288 | 3.700 |" in text
    assert {path.name for path in written} == {
        "study.md", "tables.md", "head_room.png", "worlds.png", "gaps.png", "response.png",
        "spread.png", "curve.png",
    }  # fmt: skip
    assert "| close-1 | 2 | 0.300 | 0.300 (0%) | 0.400 (50%) | 0.500 (100%) | 0.450 (75%) |" in text
    assert all(path.stat().st_size > 0 for path in written)
    write_report(docs)
    assert page.read_text() + long.read_text() == text

    for other, wrong in (("no markers", "no place"), (text, "two places")):
        page.write_text(other)
        long.write_text(text if wrong == "two places" else other)
        with pytest.raises(ValueError, match=f"{wrong} for a table in .*: <!-- answer -->"):
            write_report(docs)
