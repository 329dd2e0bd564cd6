"""What a plan says: what runs and why, at what cost; and that it writes nothing."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from assets.lake import Lake
from assets.study import read_study
from pipelines.chain import RATE, chain_of, of_job
from pipelines.launch import Launcher
from pipelines.planning import MAY_RUN, RUNS, UP_TO_DATE, plan, recipe_change, steps_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # whole chains, on a busy machine too
ROOT = Path(__file__).parents[2]


def files(folder):
    """Return every file's content below a folder; SQLite's own notes for readers aside."""
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in (".db-shm", ".db-wal")
    }


def two_policies(text):
    return text.replace('[[policy]]\nname = "arenapo"\nobjective = "arenapo"\n\n', "")


def verdicts(study, instance):
    return {(step.stage, step.policy): step for step in steps_of(study, chain_of(study), instance)}


def test_a_study_never_run_is_planned_from_the_shell_and_nothing_is_written(write_study, tmp_path):
    write_study(two_policies)
    before = files(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "plan", str(tmp_path / "small.toml")],
        cwd=tmp_path.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DAGSTER_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "small: 17 stages run, 0 may run, 0 are up to date" in done.stdout
    (line,) = [each for each in done.stdout.splitlines() if each.split()[:2] == ["policy", "dpo"]]
    # The base is an empty folder, of which nothing can be counted.
    assert "no estimate" in line
    assert "24 prompts are drawn: a win rate of 79% or more is told from 50%" in done.stdout
    assert "was never made" in line
    assert files(tmp_path) == before
    assert not (tmp_path / "lake").exists()


def test_a_plan_says_what_changed_and_run_does_what_it_says(write_chain, instance, votes_table):
    study = write_chain(two_policies)
    launcher = Launcher(study, instance, lambda line: None)
    launcher.chain()
    kept = files(study.path.parent)
    fresh = verdicts(study, instance)
    assert {step.verdict for step in fresh.values()} == {UP_TO_DATE}
    said = plan(study, chain_of(study), instance)
    assert said.startswith("small: 0 stages run, 0 may run, 17 are up to date")
    assert files(study.path.parent) == kept

    # A setting, then a recipe, then votes: each named, with what follows from it.
    text = study.path.read_text()
    study.path.write_text(text.replace('"posterior"', '"predictive"'))
    found = verdicts(read_study(study.path), instance)
    assert [key[0] for key, step in found.items() if step.verdict == RUNS] == [
        "gaps",
        "training_set",
        "evaluation_prompts",
    ]
    assert found["gaps", None].why == "the TOML changed: gap.spread posterior -> predictive"
    assert found["training_set", None].why == "follows gaps"
    assert found["policy", "dpo"].verdict == MAY_RUN
    assert found["policy", "dpo"].why == "if training_set changes"
    assert found["scorecard", "dpo"].why == "if generations, generations[base] changes"
    assert found["report", None].verdict == MAY_RUN
    assert found["policy", "dpo"].cost.seconds > 0
    assert found["policy", "dpo"].cost.disk > 0
    assert found["policy", "dpo"].cost.memory == 2**29

    study.path.write_text(text.replace("batch_size = 4", "batch_size = 8"))
    recipe = verdicts(read_study(study.path), instance)
    assert recipe["votes", None].verdict == UP_TO_DATE
    assert recipe["policy", "dpo"].why.startswith("recipe changed (its settings,")
    assert recipe["ksort_rating", "dpo"].why == "follows generations"
    assert recipe["policy", "base"].verdict == UP_TO_DATE

    study.path.write_text(text)
    votes_table(700).write_parquet(study.votes.sources[0])
    job = launcher.definitions.resolve_job_def("small__write_report")
    going = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    found = verdicts(study, instance)
    assert found["votes", None].why == "vote_files changed (100 new rows)"
    said = plan(study, chain_of(study), instance)
    assert f"run {going.run_id[:8]} of small__write_report is going on" in said
    instance.delete_run(going.run_id)
    ran = set(launcher.chain())
    sure = {name for (name, _), step in found.items() if step.verdict == RUNS}
    may = {
        f"{name}[{part}]" if part else name
        for (name, part), step in found.items()
        if step.verdict == MAY_RUN
    }
    assert sure == set(of_job(chain_of(study), RATE)) < ran <= sure | may


def test_a_recipe_that_changed_names_its_keys(write_chain):
    study = write_chain()
    folder = Lake(study.lake).folder("policies", "dpo", "1")
    Lake(study.lake).publish("policies", "dpo", "1")
    old = dataclasses.replace(study.policies["dpo"], steps=2, learning_rate=1e-4, log_every=1)
    (folder / "run.json").write_text(json.dumps({"policy": dataclasses.asdict(old)}))
    assert recipe_change(study, "dpo") == "steps 2 -> 3, learning_rate 0.0001 -> 1e-05"
    same = dataclasses.asdict(study.policies["dpo"]) | {"base": "elsewhere"}
    (folder / "run.json").write_text(json.dumps({"policy": same}))
    assert recipe_change(study, "dpo") == "its pairs or the base model"


@pytest.mark.slow
def test_a_bad_study_is_one_sentence_for_a_plan_too(write_study, tmp_path):
    write_study()
    text = (tmp_path / "small.toml").read_text()
    (tmp_path / "small.toml").write_text(text.replace('"posterior"', '"wide"'))
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "plan", str(tmp_path / "small.toml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "gap.spread" in done.stderr
    assert "'posterior' or 'predictive'" in done.stderr
    assert "Traceback" not in done.stderr
