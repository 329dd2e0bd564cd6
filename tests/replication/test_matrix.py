"""The matrix: toy runs through the real training, resumption, and tuning."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from tidy import spread, table

from replication import matrix
from replication.base import MINIATURE, base_model
from replication.contrasts import DPO, JOINT
from replication.gaps import PAIRS, all_gaps
from replication.matrix import (
    MAIN,
    SCHEMA,
    best,
    equal_runs,
    finalists,
    main_runs,
    merge,
    run_all,
    tuning_runs,
)  # fmt: skip
from replication.runs import STEPS, Run, Scale, execute, prompts_of
from replication.world import WORLDS, hold_arena
from training.building import build_pairs
from training.pairs import write_pairs

TOY = Scale(batch_size=2, sampling_steps=2, pretraining_steps=2, judge_steps=2)


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
    # On the prompts that were voted about, others than the held-out ones, the base is worth another
    # mean too.
    trained = replace(runs[0], split="trained")
    voted = prompts_of(trained, tmp_path)
    assert len(voted) == len(set(voted)) == WORLDS["few-models"].prompts
    assert not set(voted) & set(prompts_of(runs[0], tmp_path))
    assert execute(trained, TOY, tmp_path).base_reward != first["base_reward"][0]
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


def test_a_run_at_a_given_setting_has_its_worlds_length_and_dpo_no_gamma() -> None:
    small, dpo = equal_runs("far-3", [JOINT, DPO], [0], 2.0, 300.0)
    assert (small.gamma, small.beta_dpo, small.steps) == (2.0, 300.0, STEPS)
    assert (dpo.gamma, dpo.split) == (0.0, "equal")
    (whole,) = equal_runs("miniature", [JOINT], [0], 1.0, 500.0)
    assert (whole.steps, whole.learning_rate) == (300, 1e-3)


def test_runs_at_several_spreads_differ_in_it_alone_and_count_for_no_tuning() -> None:
    runs = equal_runs("far-3", [JOINT], [0, 1], 1.0, 250.0, (1.0, 3.0), "tuning")
    assert [(run.seed, run.spread, run.split) for run in runs] == [
        (0, 1.0, "tuning"), (0, 3.0, "tuning"), (1, 1.0, "tuning"), (1, 3.0, "tuning"),
    ]  # fmt: skip
    own = table(("w", JOINT, 1.0, 1000, "tuning", 3.0), ("w", JOINT, 2.0, 1000, "tuning", 4.0))
    wide = spread(table(("w", JOINT, 1.0, 1000, "tuning", 9.0)), 3.0)
    assert best(pl.concat([own, wide]), "w", JOINT) == (2.0, 250.0)


def test_a_run_spreads_its_gaps(tmp_path: Path) -> None:
    from replication.runs import prepared

    (run,) = equal_runs("far-3", [JOINT], [0], 1.0, 250.0, (3.0,), "spread")
    arena = hold_arena(WORLDS["far-3"], 0, prompts=4)
    path = tmp_path / "worlds" / "far-3-0" / PAIRS
    gaps = all_gaps(arena).to_arrow()
    write_pairs(build_pairs(arena.votes.to_arrow(), gaps, held_out=0.0, seed=0), path)
    _, config, _ = prepared(run, Scale(), tmp_path, tmp_path / "base")
    assert (config.margin_spread, config.gamma, config.beta_dpo) == (3.0, 1.0, 250.0)


def test_the_miniatures_runs_are_those_of_its_own_study(tmp_path: Path) -> None:
    from replication.runs import prepared, scale_of
    from training.study_file import policy_config

    (run,) = equal_runs("miniature", [DPO], [0], 1.0, 500.0)
    arena = hold_arena(WORLDS["miniature"], 0, prompts=4)
    path = tmp_path / "worlds" / "miniature-0" / PAIRS
    gaps = all_gaps(arena).to_arrow()
    write_pairs(build_pairs(arena.votes.to_arrow(), gaps, held_out=0.0, seed=0), path)
    base = base_model(tmp_path, print, scale_of("miniature").pretraining_steps)
    _, config, _ = prepared(run, scale_of("miniature"), tmp_path, base)
    theirs = policy_config(MINIATURE.parents[2] / "experiments" / "miniature.toml", "dpo")
    for name in ("base", "adaptation", "rank", "targets", "batch_size", "learning_rate",
                 "warmup_steps", "beta_dpo", "precision"):  # fmt: skip
        assert getattr(config, name) == getattr(theirs, name), name
    assert config.steps == 300  # of the stored runs; the demo's are fewer, to be done sooner
