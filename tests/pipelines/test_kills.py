"""kill -9 at random moments over the whole chain: the next run ends as an undisturbed one does.

The chain runs as a person starts it, `python -m pipelines run`, and so do its jobs; what a job
computes is not real (fake_jobs), so that the chain is short and the moments fall everywhere: while
it reads votes, writes gaps, logs to MLflow, trains, draws. By default one chain is killed twice,
first its orchestrator and then one of its jobs; with `pytest --long` thirty chains once each.
"""

import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import psutil
import pytest
from served import ROOT, make_home, wait_until

from assets.lineage import DATA_VERSION, latest
from assets.study import read_study
from assets.tracking import Tracking
from pipelines.chain import chain_of

JOBS = 7  # of a chain with two policies
DPO = '[[policy]]\nname = "dpo"\nobjective = "dpo"\n\n'


class Chain:
    """One study in a folder of its own, and `python -m pipelines run` over it."""

    def __init__(self, folder: Path) -> None:
        self.home, self.file = folder / "home", folder / "study" / "small.toml"
        self.log = folder / "chain.log"

    @classmethod
    def made_from(cls, template: Path, folder: Path) -> "Chain":
        folder.mkdir()
        shutil.copytree(template, folder / "study")
        make_home(folder / "home")
        return cls(folder)

    def start(self) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "pipelines", "run", str(self.file)],
                cwd=self.home,
                env={**os.environ, "PYTHONPATH": str(ROOT), "DAGSTER_HOME": str(self.home)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def processes(self) -> list[psutil.Process]:
        """Return every process of any kind that works on this study."""
        return [each for each in psutil.process_iter() if str(self.home.parent) in words(each)]

    def last_word(self) -> str:
        """Return what the chain last said that it was at."""
        said = [line for line in self.log.read_text().splitlines() if line.startswith("[")]
        return said[-1].partition("] ")[2] if said else "nothing"

    def finish(self) -> None:
        """Run to the end."""
        assert self.start().wait(timeout=600) == 0, self.log.read_text()[-3000:]

    def hashes(self) -> dict[tuple[str, str | None], str]:
        """Return what every asset and partition is by content."""
        study = read_study(self.file)
        names = [
            (stage.name, part)
            for stage in chain_of(study).values()
            for part in stage.partitions(study)
        ]
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            found = {name: latest(instance, study.key(name[0]), name[1]) for name in names}
        return {name: made.tags[DATA_VERSION] for name, made in found.items()}

    def files(self) -> set[str]:
        """Return what lies in the lake, by name."""
        lake = self.file.parent / "lake"
        names = {path.relative_to(lake).as_posix() for path in lake.rglob("*") if path.is_file()}
        return {name for name in names if not name.startswith((".locks/", "cache/"))}

    def left_open(self) -> dict[str, object]:
        """Return what a run that is over must not leave behind."""
        study = read_study(self.file)
        tracking = Tracking.of(study)
        client = tracking.client()
        running = client.search_runs(
            [tracking.experiment(client, study.name)], "attributes.status = 'RUNNING'"
        )
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            pool = instance.event_log_storage.get_concurrency_info("gpu")
            unfinished = [run.run_id for run in instance.get_runs() if not run.is_finished]
        return {
            "processes": [words(each) for each in self.processes()],
            "MLflow's runs": [run.info.run_id for run in running],
            "Dagster's runs": unfinished,
            "slots": pool.active_slot_count + pool.pending_step_count + pool.assigned_step_count,
        }


def words(process: psutil.Process) -> str:
    """Return a process's command line, nothing where it is gone."""
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""


def job_of(process: "subprocess.Popen[bytes]") -> psutil.Process | None:
    """Return the job that the chain runs now, None where it runs none."""
    try:
        children = psutil.Process(process.pid).children()
    except psutil.NoSuchProcess:
        return None
    jobs = ("-m training", "-m evaluation", "-m assets.child")
    return next((each for each in children if any(job in words(each) for job in jobs)), None)


def kill_chain(process: "subprocess.Popen[bytes]", moment: float) -> str:
    """Kill the orchestrator so many seconds after its start; say what it did then."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(moment)
        return f"it had ended before {moment:.1f} s"
    job = job_of(process)
    process.kill()
    return f"the orchestrator killed after {moment:.1f} s" + (
        f" over {name_of(job)}" if job else ""
    )


def kill_job(process: "subprocess.Popen[bytes]", number: int, delay: float) -> str:
    """Kill the chain's job of this number so many seconds after its start; say which it was."""
    seen: list[int] = []
    while process.poll() is None:
        job = job_of(process)
        if job is not None and job.pid not in seen:
            seen.append(job.pid)
            if len(seen) > number:
                time.sleep(delay)
                name = name_of(job)
                with contextlib.suppress(psutil.NoSuchProcess):
                    job.kill()
                    return f"{name} killed after {delay:.1f} s"
                delay = 0.0  # it was shorter than that; the next one is killed at once
        time.sleep(0.01)
    return "the last job had ended"


def name_of(job: psutil.Process) -> str:
    """Return a job's module and its command."""
    said = words(job).split()
    names = [word for word in said if word in ("training", "evaluation")] or ["a job"]
    return " ".join([*names, *(word for word in said if word in ("generate", "score", "ksort"))])


@pytest.fixture
def template(write_chain, tmp_path) -> Path:
    """The study's folder before anything ran."""
    study = write_chain(lambda text: text.replace(DPO, ""), steps=10, pause=0.05)
    folder = tmp_path / "template"
    kept = [path for path in tmp_path.iterdir() if path != folder]
    folder.mkdir()
    for path in kept:
        path.rename(folder / path.name)
    assert (folder / study.path.name).exists()
    return folder


def check_kills(template: Path, folder: Path, moments: int, seed: int, together: int) -> None:
    """Kill the orchestrator or a job at so many moments, spread over the chain's length.

    together: how many deaths one chain dies before it runs to its end.
    """
    undisturbed = Chain.made_from(template, folder / "undisturbed")
    begun = time.monotonic()
    undisturbed.finish()
    length = time.monotonic() - begun
    expected, files = undisturbed.hashes(), undisturbed.files()
    nothing = undisturbed.left_open()
    assert not any(nothing.values()), nothing

    draw = random.Random(seed)
    for first in range(0, moments, together):
        chain, said = Chain.made_from(template, folder / f"{first:02}"), ""
        for number in range(first, first + together):
            process = chain.start()
            if number % 2:
                died = kill_job(process, number // 2 % JOBS, draw.uniform(0, 0.8))
            else:
                died = kill_chain(process, (number + draw.random()) / moments * length)
            said += f"{number}: {died}; it had said: {chain.last_word()}. "
            process.wait(timeout=600)
        print(said, flush=True)
        chain.finish()
        wait_until(lambda chain=chain: not chain.processes(), f"{said}: no process is left")
        assert chain.hashes() == expected, said
        left = chain.left_open()
        assert not any(left.values()), (said, left)
        assert chain.files() == files, said
        shutil.rmtree(folder / f"{first:02}")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_any_moment_the_next_run_ends_as_an_undisturbed_one(template, tmp_path):
    check_kills(template, tmp_path, 2, seed=7, together=2)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_killed_at_thirty_moments(template, tmp_path):
    check_kills(template, tmp_path, 30, seed=11, together=1)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_two_chains_started_at_the_same_moment_do_the_work_once(template, tmp_path):
    alone, shared = (Chain.made_from(template, tmp_path / name) for name in ("alone", "shared"))
    alone.finish()
    both = [shared.start(), shared.start()]
    assert [process.wait(timeout=600) for process in both] == [0, 0]
    said = shared.log.read_text()
    assert said.count("nothing had changed; nothing was recomputed") == 1
    assert said.count("waiting for it to end") == 1
    assert shared.hashes() == alone.hashes()
    assert shared.files() == alone.files()
    left = shared.left_open()
    assert not any(left.values()), left
