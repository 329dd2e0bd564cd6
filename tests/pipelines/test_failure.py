"""What is killed, cancelled or cut off: it goes on, ends cleanly and leaves nothing half-written.

The jobs and the processes that start them are real; what a job computes is not (fake_jobs).
"""

import os
import signal
import subprocess
import sys
import time

import dagster as dg
import polars as pl
import pytest
from job_log import ROOT, TRAIN, data_version, log_of, pairs

from assets import jobs
from assets.content import content_hash
from assets.lake import Lake
from assets.tracking import Tracking
from pipelines.launch import Launcher, StageFailed


@pytest.fixture
def trainer(write_chain, instance):
    """Return a function that gives a launcher with a training set, its jobs as it is told."""

    def make(**fake):
        study = write_chain(**fake)
        pairs(Lake(study.lake), [1.0, 2.0])
        return Launcher(study, instance, lambda line: None)

    return make


def train(launcher):
    launcher.run("train_and_evaluate", ["policy"], "dpo")
    return content_hash(launcher.lake.current("policies", "dpo") / "policy")


def training_process(launcher, instance):
    """Train in another process, and return it once its job has begun."""
    log = launcher.study.path.parent / "steps.log"
    before = log.read_text().count("begins") if log.exists() else 0
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN, instance.root_directory, str(launcher.study.path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: log.exists() and log.read_text().count("begins") > before)
    return process


def wait_until(true, seconds=120):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def statuses(launcher):
    client = Tracking.of(launcher.study).client()
    experiment = client.get_experiment_by_name(launcher.study.name)
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    return [(run.info.status, run.data.tags.get("error", "")) for run in runs]


@pytest.fixture
def undisturbed():
    """Return the weights that the fake job ends in when nothing happens to it."""

    def hashed(launcher, steps):
        import hashlib

        pairs = launcher.lake.table("training_set").read_bytes()
        state = hashlib.sha256(pairs + b"dpo").hexdigest()
        for step in range(steps):
            state = hashlib.sha256(f"{state} {step}".encode()).hexdigest()
        return state

    return hashed


def test_a_job_that_was_killed_goes_on_from_its_checkpoint(trainer, instance, undisturbed):
    launcher = trainer(steps=5, dies=["dpo", 2])
    train(launcher)
    assert log_of(launcher) == ["begins at 0", "begins at 2", "ends after 5"]
    assert data_version(instance) == undisturbed(launcher, 5)
    (killed, why), (ended, _) = statuses(launcher)
    assert (killed, ended) == ("FAILED", "FINISHED")
    assert "SIGKILL" in why


def test_a_job_that_says_what_is_wrong_is_not_tried_again(trainer):
    launcher = trainer(bad="dpo")
    with pytest.raises(StageFailed, match=r"policy: python -m training: error: train\.steps = -1"):
        train(launcher)
    assert log_of(launcher) == ["begins at 0"]
    assert statuses(launcher)[0][0] == "FAILED"


def test_a_job_that_keeps_dying_says_so_in_the_end(trainer):
    with pytest.raises(StageFailed, match="SIGKILL"):
        train(trainer(jobs="retries = 0", steps=5, dies=["dpo", 2]))


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_cancelled_it_saves_stops_and_is_killed_in_mlflow(trainer, instance, kind):
    launcher = trainer(steps=2000, pause=0.05)
    process = training_process(launcher, instance)
    process.send_signal(kind)
    process.wait(timeout=60)
    begun, stopped = log_of(launcher)
    assert (begun, stopped[:11]) == ("begins at 0", "stops after")
    assert [status for status, _ in statuses(launcher)] == ["KILLED"]
    (run,) = instance.get_runs()
    assert run.is_finished


def test_killed_outright_its_job_goes_on_and_the_next_run_follows_it(
    trainer, instance, undisturbed
):
    instance.event_log_storage.set_concurrency_slots(jobs.POOL, 1)
    launcher = trainer(steps=60, pause=0.05)
    process = training_process(launcher, instance)
    process.kill()
    process.wait()
    (run,) = instance.get_runs()
    assert not run.is_finished
    assert instance.event_log_storage.get_concurrency_info(jobs.POOL).active_slot_count == 1

    launcher.bury()
    assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE
    assert [status for status, _ in statuses(launcher)] == ["FAILED"]
    train(launcher)
    assert log_of(launcher) == ["begins at 0", "ends after 60"]
    assert data_version(instance) == undisturbed(launcher, 60)
    pool = instance.event_log_storage.get_concurrency_info(jobs.POOL)
    assert (pool.slot_count, pool.active_slot_count) == (1, 0)
    assert not list((launcher.lake.root / "jobs").glob("*/*/*"))


def test_what_ended_well_while_nobody_followed_it_is_not_done_again(
    trainer, instance, undisturbed
):
    launcher = trainer(steps=20, pause=0.05)
    process = training_process(launcher, instance)
    process.kill()
    process.wait()
    wait_until(lambda: log_of(launcher)[-1] == "ends after 20")
    launcher.bury()
    train(launcher)
    assert log_of(launcher) == ["begins at 0", "ends after 20"]
    assert data_version(instance) == undisturbed(launcher, 20)


def test_what_lost_its_orchestrator_has_the_gpu_until_it_ends(trainer, instance):
    launcher = trainer(steps=60, pause=0.05)
    process = training_process(launcher, instance)
    process.kill()
    process.wait()
    launcher.bury()
    launcher.run("train_and_evaluate", ["policy"], "arenapo")
    assert log_of(launcher) == ["begins at 0", "ends after 60"] * 2
    said = (launcher.study.path.parent / "steps.log").read_text().splitlines()
    assert [line.split()[0] for line in said] == ["dpo", "dpo", "arenapo", "arenapo"]


def test_a_job_left_behind_with_other_inputs_is_stopped_first(trainer, instance):
    launcher = trainer(steps=2000, pause=0.05)
    process = training_process(launcher, instance)
    process.kill()
    process.wait()
    settings = launcher.study.path.parent / "fake.json"
    settings.write_text(settings.read_text().replace("2000", "3"))
    pairs(launcher.lake, [3.0])
    launcher.bury()
    train(launcher)
    begun, stopped, *rest = log_of(launcher)
    assert (begun, stopped[:11]) == ("begins at 0", "stops after")
    assert rest == ["begins at 0", "ends after 3"]


def test_a_run_that_was_killed_before_it_started_is_closed_and_no_other_is(trainer, instance):
    launcher = trainer()
    job = launcher.definitions.resolve_job_def("small__observe_inputs")
    own = instance.create_run_for_job(job, tags=launcher._tags)
    from_the_page = instance.create_run_for_job(job)
    assert own.status == dg.DagsterRunStatus.NOT_STARTED
    launcher.bury()
    assert instance.get_run_by_id(own.run_id).status == dg.DagsterRunStatus.FAILURE
    assert not instance.get_run_by_id(from_the_page.run_id).is_finished


def test_a_job_can_be_interrupted_where_a_script_runs_the_chain_in_the_background(tmp_path):
    (tmp_path / "told.py").write_text("import signal; print(signal.getsignal(signal.SIGINT))")
    deaf = f"""
import os, signal, subprocess, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
command = [sys.executable, "-m", "pipelines.tied", str(os.getpid()), {str(tmp_path / "lock")!r}]
subprocess.run([*command, sys.executable, "-m", "told"], check=True)
"""
    said = subprocess.run(
        [sys.executable, "-c", deaf],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "default_int_handler" in said


def test_two_runs_of_one_policy_take_their_turns(trainer, instance, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.3")
    launcher = trainer(steps=20, pause=0.05)
    first = training_process(launcher, instance)
    train(launcher)
    assert first.wait(timeout=60) == 0
    assert log_of(launcher) == ["begins at 0", "ends after 20", "begins at 20", "ends after 20"]
    client = Tracking.of(launcher.study).client()
    experiment = client.get_experiment_by_name(launcher.study.name).experiment_id
    measured = {key for run in client.search_runs([experiment]) for key in run.data.metrics}
    assert "system/cpu_utilization_percentage" in measured


def test_mlflow_gone_in_the_middle_is_one_sentence_and_costs_no_training(trainer, instance):
    launcher = trainer(steps=4)
    database = Tracking.of(launcher.study).folder / "mlflow.db"
    train(launcher)  # so that there are runs to lose
    sound = database.read_bytes()
    lake = launcher.lake
    pairs(lake, [3.0])
    before = lake.current_version("policies", "dpo")
    settings = launcher.study.path.parent / "fake.json"
    told = settings.read_text()
    settings.write_text(told.replace("{", f'{{"spoils": "{database}", ', 1))
    with pytest.raises(StageFailed, match=r"MLflow's store .* failed: .*; mend it and run again"):
        train(launcher)
    assert lake.current_version("policies", "dpo") == before

    database.write_bytes(sound)
    settings.write_text(told)
    train(launcher)
    assert log_of(launcher)[-1] == "ends after 4"
    assert log_of(launcher)[-2] == "begins at 4"
    assert "RUNNING" not in [status for status, _ in statuses(launcher)]


def test_a_full_disk_leaves_the_old_table_and_says_so(tmp_path):
    lake = Lake(tmp_path)
    lake.write("gaps", pl.DataFrame({"gap": [1.0]}))
    # A process that may write no more than 64 kB stands for a disk with as much left.
    code = f"""
import resource, polars as pl
from pathlib import Path
from assets.lake import Lake
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
many = pl.DataFrame({{"gap": pl.int_range(10**5, eager=True)}})
Lake(Path({str(tmp_path)!r})).write("gaps", many)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert lake.read("gaps")["gap"].to_list() == [1.0]
    assert [path.name for path in lake.table("gaps").parent.iterdir()] == ["gaps.parquet"]
