"""Jobs behind real prefixes: ssh to loopback, and Slurm on one node.

The stand-in's steps are a chain of hashes, so equal weights mean that no step was lost or done
twice. What the programs are and how they are started is in `clusters`.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys

import clusters
import psutil
import pytest
from clusters import until
from job_log import ROOT, TRAIN, data_version, log_of, pairs
from small_study import STAND_IN

from assets.lake import Lake
from assets.tracking import Tracking
from pipelines.launch import Launcher

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    if why := clusters.missing("slurm"):
        pytest.skip(why)
    with clusters.slurm(tmp_path_factory.mktemp("clusters") / "slurm") as told:
        for name, value in told.items():
            os.environ[name] = value
        yield told
        for name in told:
            del os.environ[name]


@pytest.fixture(scope="module")
def ssh(tmp_path_factory):
    if why := clusters.missing("ssh"):
        pytest.skip(why)
    with clusters.sshd(tmp_path_factory.mktemp("clusters") / "sshd") as prefix:
        yield prefix


@pytest.fixture(params=["ssh", "slurm"])
def prefix(request):
    if request.param == "ssh":
        return request.getfixturevalue("ssh")
    request.getfixturevalue("slurm")
    return ["srun", "--quiet", "--partition=low", "--exclusive"]


class World:
    """A study whose policy `dpo` is trained behind a prefix, by another process."""

    def __init__(self, write_chain, instance, prefix, steps):
        whole = json.dumps([*prefix, sys.executable, str(STAND_IN)])
        self.study = write_chain(launch=whole, steps=steps, pause=0.05)
        self.launcher, self.instance = Launcher(self.study, instance, print), instance
        self.steps = steps
        pairs(Lake(self.study.lake), [1.0, 2.0])

    def start(self):
        begun = self.log().count("begins")
        self.process = subprocess.Popen(
            [sys.executable, "-c", TRAIN, self.instance.root_directory, str(self.study.path)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        until(lambda: self.log().count("begins") > begun, 120)
        return self.process

    def log(self):
        path = self.study.path.parent / "steps.log"
        return path.read_text() if path.exists() else ""

    def job(self):
        """Return the job's own process, wherever its prefix led."""
        return psutil.Process(int(self.log().splitlines()[-1].split()[1]))

    def undisturbed(self):
        pairs = self.launcher.lake.table("training_set").read_bytes()
        state = hashlib.sha256(pairs + b"dpo").hexdigest()
        for step in range(self.steps):
            state = hashlib.sha256(f"{state} {step}".encode()).hexdigest()
        return state

    def ends_as_undisturbed(self):
        assert self.process.wait(timeout=240) == 0
        assert data_version(self.instance) == self.undisturbed()

    def mlflow(self):
        client = Tracking.of(self.study).client()
        experiment = client.get_experiment_by_name(self.study.name)
        return [run.info.status for run in client.search_runs([experiment.experiment_id])]


@pytest.fixture
def world(write_chain, instance, prefix):
    return World(write_chain, instance, prefix, 60)


@pytest.fixture
def queued(write_chain, instance, slurm):
    prefix = ["srun", "--quiet", "--partition=low", "--exclusive", "--job-name=ours"]
    return World(write_chain, instance, prefix, 60)


def went_on(log):
    """Return whether a job stopped once, after some step, and another one went on from there."""
    begun, stopped, again, ended = log
    after = stopped.removeprefix("stops after ")
    return begun == "begins at 0" and again == f"begins at {after}" and ended == "ends after 60"


def test_trains_behind_the_prefix(world):
    world.start()
    world.ends_as_undisturbed()
    assert log_of(world.launcher) == ["begins at 0", "ends after 60"]


def test_cancelled_it_saves_where_it_runs_and_the_next_run_goes_on(world):
    world.start().send_signal(signal.SIGINT)
    world.process.wait(timeout=90)
    assert log_of(world.launcher)[-1].startswith("stops after")
    assert world.mlflow() == ["KILLED"]
    world.start()
    world.ends_as_undisturbed()
    assert went_on(log_of(world.launcher))


def test_orchestrator_killed_outright_the_next_one_follows_the_job(world):
    world.start().kill()
    world.process.wait()
    world.launcher.bury()
    job = world.job()
    assert job.is_running()
    world.process = subprocess.Popen(
        [sys.executable, "-c", TRAIN, world.instance.root_directory, str(world.study.path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    world.ends_as_undisturbed()
    assert log_of(world.launcher) == ["begins at 0", "ends after 60"]


def test_a_job_outlives_its_connection_and_goes_on_being_followed(write_chain, instance, ssh):
    world = World(write_chain, instance, ssh, 200)
    process = world.start()
    (client,) = [
        each for each in psutil.Process(process.pid).children() if each.name() == "ssh"
    ]
    client.kill()
    world.ends_as_undisturbed()
    assert log_of(world.launcher) == ["begins at 0", "ends after 200"]


def test_scancelled_it_saves_and_is_queued_again(queued, slurm):
    queued.start()
    assert clusters.slurm_says(slurm, "scancel", "--name=ours") == ""
    queued.ends_as_undisturbed()
    assert went_on(log_of(queued.launcher))


def test_preempted_it_saves_waits_its_turn_and_goes_on(queued, slurm):
    queued.start()
    job = queued.job()
    said = clusters.slurm_says(
        slurm, "srun", "--quiet", "--partition=high", "--exclusive", "echo", "first"
    )
    assert said == "first"
    assert not job.is_running()
    queued.ends_as_undisturbed()
    assert went_on(log_of(queued.launcher))


def test_tasks_that_srun_starts_together_know_their_ranks(slurm, tmp_path):
    (tmp_path / "job.json").write_text(
        json.dumps({"folder": str(tmp_path), "environment": {}, "defaults": {}})
    )
    (tmp_path / "ranks.py").write_text(
        "import os\n"
        "names = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'MASTER_ADDR')\n"
        "print(*(os.environ[name] for name in names), flush=True)\n"
    )
    said = clusters.slurm_says(
        slurm, "srun", "--ntasks=2", "env", f"PYTHONPATH={ROOT}:{tmp_path}",
        sys.executable, "-P", "-m", "assets.child", str(tmp_path), "ranks",
    )  # fmt: skip
    host = os.uname().nodename
    assert sorted(said.splitlines()) == [f"0 0 2 2 {host}", f"1 1 2 2 {host}"]
