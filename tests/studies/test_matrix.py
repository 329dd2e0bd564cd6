"""The matrix: toy runs through the real training, resumption, tuning; and the report of a table."""

from pathlib import Path

import polars as pl
import pytest

from studies import matrix
from studies.base import MINIATURE, base_model
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
    pooled,
)
from studies.gaps import GAPS, PAIRS, all_gaps
from studies.graph import SCOPES
from studies.matrix import (
    MAIN,
    SCHEMA,
    Policy,
    best,
    equal_runs,
    finalists,
    main_runs,
    merge,
    run_all,
    tuning_runs,
)  # fmt: skip
from studies.report import TABLES, write_report
from studies.runs import LEARNING_RATE, STEPS, Run, Scale, execute
from studies.world import WORLDS, hold_arena
from training.pairs import build_pairs, write_pairs

TOY = Scale(batch_size=2, sampling_steps=2, pretraining_steps=2, judge_steps=2)


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


@pytest.mark.slow
def test_a_matrix_runs_once_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    runs = [
        Run("few-models", "dpo", "none", 0.0, 500.0, 0, "main", steps=2),
        Run("few-models", "arenapo", "oracle", 3.0, 500.0, 0, "main", steps=2),
    ]
    first = run_all(runs, TOY, tmp_path, 1, lambda text: None)
    assert first.height == 2
    assert first.schema == pl.Schema(SCHEMA)
    assert first["base_reward"].n_unique() == 1
    assert first["reward"].n_unique() == 2  # the margin trained another policy
    assert first["win_rate"].is_between(0, 1).all()

    def refuse(*_: object) -> None:
        raise AssertionError("a run that is done was run again")

    monkeypatch.setattr(matrix, "ProcessPoolExecutor", refuse)
    assert run_all(runs, TOY, tmp_path, 1, lambda text: None).equals(first)
    # The same cell in this process gives the same policy, but for how its threads round.
    assert execute(runs[0], TOY, tmp_path).reward == pytest.approx(first["reward"][0], abs=1e-4)


def test_a_run_is_known_by_everything_that_its_result_depends_on() -> None:
    run = Run("far-3", "dpo", "none", 0.0, 500.0, 0, "main")
    assert run.key(Scale()) == run.key(Scale())
    others = [
        Run("far-6", "dpo", "none", 0.0, 500.0, 0, "main").key(Scale()),
        Run("far-3", "dpo", "none", 0.0, 500.0, 1, "main").key(Scale()),
        Run("far-3", "dpo", "none", 0.0, 500.0, 0, "main", steps=160).key(Scale()),
        Run("far-3", "dpo", "none", 0.0, 500.0, 0, "main", learning_rate=3e-4).key(Scale()),
        Run("far-3", "dpo", "none", 0.0, 500.0, 0, "main", spread=2.0).key(Scale()),
        run.key(TOY),
    ]
    assert len({run.key(Scale()), *others}) == 7


def test_every_policy_is_tuned_with_the_same_budget_on_seeds_of_its_own() -> None:
    runs = tuning_runs("far-3", MAIN, range(1000, 1003))
    for policy in MAIN:
        mine = [r for r in runs if (r.objective, r.gap) == (policy.objective, policy.gap)]
        assert len(mine) == 8 * 3
    assert {run.split for run in runs} == {"tuning"}


def test_the_main_runs_take_the_best_gamma_of_the_tuning_seeds_alone() -> None:
    results = table(
        ("w", JOINT, 1.0, 1000, "tuning", 3.0),
        ("w", JOINT, 1.0, 1001, "tuning", 3.4),
        ("w", JOINT, 3.0, 1000, "tuning", 3.6),
        ("w", JOINT, 3.0, 1001, "tuning", 3.1),
        ("w", JOINT, 6.0, 0, "main", 9.9),
    )
    assert best(results, "w", JOINT) == (3.0, 250.0)
    runs = main_runs(results, "v", [JOINT], range(2), tuned_in="w")
    assert [(r.world, r.gamma, r.seed, r.split) for r in runs] == [
        ("v", 3.0, 0, "main"), ("v", 3.0, 1, "main"),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="dpo has no tuning run in w"):
        best(results, "w", DPO)


def test_the_best_settings_so_far_go_on_to_further_tuning_seeds_and_one_of_them_is_taken() -> None:
    early = [("w", JOINT, gamma, 1000, "tuning", 3.0 + gamma) for gamma in (0.1, 0.2, 0.3, 0.4)]
    runs = finalists(table(*early), "w", [JOINT], [1001])
    assert [(run.gamma, run.seed, run.split) for run in runs] == [
        (0.4, 1001, "tuning"), (0.3, 1001, "tuning"), (0.2, 1001, "tuning"),
    ]  # fmt: skip
    late = [("w", JOINT, gamma, 1001, "tuning", 2.0) for gamma in (0.2, 0.3)]
    # 0.4 has the highest mean, but of one seed alone.
    assert best(table(*early, *late), "w", JOINT) == (0.3, 250.0)


def test_new_results_replace_the_old_ones_of_the_same_cell() -> None:
    old = table(("w", DPO, 0.0, 0, "main", 1.0), ("w", DPO, 0.0, 1, "main", 2.0))
    new = table(("w", DPO, 0.0, 1, "main", 5.0))
    assert merge(old, new)["reward"].to_list() == [1.0, 5.0]


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


def test_a_run_at_a_given_setting_has_its_worlds_length_and_dpo_no_gamma() -> None:
    small, dpo = equal_runs("far-3", [JOINT, DPO], [0], 2.0, 300.0)
    assert (small.gamma, small.beta_dpo, small.steps) == (2.0, 300.0, STEPS)
    assert (dpo.gamma, dpo.split) == (0.0, "equal")
    (whole,) = equal_runs("miniature", [JOINT], [0], 1.0, 500.0)
    assert (whole.steps, whole.learning_rate) == (300, 1e-3)


def spread(results: pl.DataFrame, value: float) -> pl.DataFrame:
    return results.with_columns(spread=pl.lit(value))


def test_runs_at_several_spreads_differ_in_it_alone_and_count_for_no_tuning() -> None:
    runs = equal_runs("far-3", [JOINT], [0, 1], 1.0, 250.0, (1.0, 3.0), "tuning")
    assert [(run.seed, run.spread, run.split) for run in runs] == [
        (0, 1.0, "tuning"), (0, 3.0, "tuning"), (1, 1.0, "tuning"), (1, 3.0, "tuning"),
    ]  # fmt: skip
    own = table(("w", JOINT, 1.0, 1000, "tuning", 3.0), ("w", JOINT, 2.0, 1000, "tuning", 4.0))
    wide = spread(table(("w", JOINT, 1.0, 1000, "tuning", 9.0)), 3.0)
    assert best(pl.concat([own, wide]), "w", JOINT) == (2.0, 250.0)


def test_a_run_spreads_its_gaps(tmp_path: Path) -> None:
    from studies.runs import prepared

    (run,) = equal_runs("far-3", [JOINT], [0], 1.0, 250.0, (3.0,), "spread")
    arena = hold_arena(WORLDS["far-3"], 0, prompts=4)
    path = tmp_path / "worlds" / "far-3-0" / PAIRS
    gaps = all_gaps(arena).to_arrow()
    write_pairs(build_pairs(arena.votes.to_arrow(), gaps, held_out=0.0, seed=0), path)
    _, config, _ = prepared(run, Scale(), tmp_path, tmp_path / "base")
    assert (config.margin_spread, config.gamma, config.beta_dpo) == (3.0, 1.0, 250.0)


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


def test_the_miniatures_runs_are_those_of_its_own_study(tmp_path: Path) -> None:
    from studies.runs import prepared, scale_of
    from training.study_file import policy_config

    (run,) = equal_runs("miniature", [DPO], [0], 1.0, 500.0)
    arena = hold_arena(WORLDS["miniature"], 0, prompts=4)
    path = tmp_path / "worlds" / "miniature-0" / PAIRS
    gaps = all_gaps(arena).to_arrow()
    write_pairs(build_pairs(arena.votes.to_arrow(), gaps, held_out=0.0, seed=0), path)
    base = base_model(tmp_path, print, scale_of("miniature").pretraining_steps)
    _, config, _ = prepared(run, scale_of("miniature"), tmp_path, base)
    theirs = policy_config(MINIATURE.parents[2] / "experiments" / "miniature.toml", "dpo")
    for name in ("base", "adaptation", "rank", "targets", "steps", "batch_size", "learning_rate",
                 "warmup_steps", "beta_dpo", "precision"):  # fmt: skip
        assert getattr(config, name) == getattr(theirs, name), name


def test_the_report_writes_every_table_between_its_markers(tmp_path: Path) -> None:
    docs = tmp_path / "study"
    docs.mkdir()
    for name in ("results", "first_round"):
        known_table().write_parquet(docs / f"{name}.parquet")
    more = [
        spread(table(("far-3", JOINT, 1.0, 1000, "tuning", 3.0)), 2.0),
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
    places = [*TABLES, "first round", "graph", "cost"]
    page.write_text("\n".join(f"<!-- {name} -->\nold\n<!-- /{name} -->" for name in places))
    written = write_report(docs)
    text = page.read_text()
    assert "old" not in text
    assert "the joint gap 50% (50% to 50%)" in text
    assert "| far-3 | arenapo oracle - fixed_margin | 8 | +0.400 |" in text
    assert "| arenapo joint | 2 | 30 | 1.50 | 1.50 to 1.50 | 1.000 |" in text
    assert "| far-3 | arenapo joint | 8 | 3.288 | 3.700 |" in text
    assert {path.name for path in written} == {
        "study.md", "head_room.png", "gaps.png", "response.png", "spread.png", "curve.png",
    }  # fmt: skip
    assert "| close-1 | 2 | 0.300 | 0.300 (0%) | 0.400 (50%) | 0.500 (100%) | 0.450 (75%) |" in text
    assert all(path.stat().st_size > 0 for path in written)
    write_report(docs)
    assert page.read_text() == text

    page.write_text("no markers")
    with pytest.raises(ValueError, match="no place for a table: <!-- answer -->"):
        write_report(docs)
