"""Jobs that need the GPU, as child processes: this process orchestrates and never loads torch.

A child reports through Dagster Pipes and logs to the MLflow run it is given. What it prints appears
in the run's own output. A child that died by a signal (out of memory, preempted, killed) is started
again and goes on from its checkpoint; one that says what is wrong with its input is not.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg

from assets.environment import JOBS, JUDGE, short
from assets.lake import Lake
from assets.lineage import plain
from assets.run import Run
from assets.study import Study

HOUSE = Path(__file__).resolve().parents[1]
POOL = "gpu"
MOST_RETRIES = 2
# What filled the memory, if another process did, needs a moment to go away.
PAUSE_SECONDS = 5
# From "stop" to "stop at once": a step of the optimiser and a checkpoint fit in between.
PATIENCE_SECONDS = 60
KEPT_LINES = 20
# How a shell or a job that caught the signal says SIGINT, SIGKILL and SIGTERM.
BY_A_SIGNAL = {128 + each: each for each in (signal.SIGINT, signal.SIGKILL, signal.SIGTERM)}


class JobFailed(RuntimeError):
    """The child ended with a reason of its own: trying again would end the same way."""


class JobDied(RuntimeError):
    """A signal ended the child before it was done."""


def run_job(
    context: dg.AssetExecutionContext,
    study: Study,
    run: Run,
    command: Sequence[str],
) -> tuple[str, dict[str, Any]]:
    """Run `python -m COMMAND` and return what it reported: its data version and its metadata.

    Raises JobFailed with the child's last words, or RetryRequested when a signal ended it.
    """
    lock = Lake(study.lake).lock(f"{command[0]}-{context.partition_key}.job")
    with (
        system_metrics(run),
        dg.open_pipes_session(
            context, dg.PipesTempFileContextInjector(), dg.PipesTempFileMessageReader()
        ) as session,
    ):
        status, words = supervise(
            [
                *(sys.executable, "-P", "-m", "assets.child", str(os.getpid()), str(lock)),
                *launched(study.jobs.launch, command),
            ],
            study.path.parent,
            {
                **short(os.environ, told_to(study, command)),
                **run.environment,
                **session.get_bootstrap_env_vars(),
                "PYTHONPATH": import_path(),
            },
        )
    said = words[-1].strip() if words else "it said nothing"
    if status < 0 or status in BY_A_SIGNAL:
        name = signal.Signals(BY_A_SIGNAL.get(status, -status)).name
        died = JobDied(f"python -m {command[0]} was ended by {name}: {said}")
        raise dg.RetryRequested(MOST_RETRIES, PAUSE_SECONDS) from died
    if status:
        raise JobFailed(f"python -m {command[0]}: {said}")
    results = session.get_results()
    for result in results:
        if isinstance(result, dg.MaterializeResult) and result.data_version is not None:
            return result.data_version.value, plain(result.metadata or {})
    raise JobFailed(f"python -m {command[0]} ended well but reported no data version")


@contextmanager
def system_metrics(run: Run) -> Iterator[None]:
    """Log how busy this machine's processors, memory and GPUs are while a job works."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
    monitor = SystemMetricsMonitor(run.id, tracking_uri=run.environment["MLFLOW_TRACKING_URI"])
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


def launched(launch: Sequence[str], command: Sequence[str]) -> list[str]:
    """Return a job's whole command line behind a study's prefix.

    `-P`: the working directory is the study's folder, whose own files are no modules of the job.
    """
    python = [sys.executable, "-P", "-m", *command]
    if launch and Path(launch[0]).name in ("accelerate", "torchrun"):
        # They start Python themselves, unless they are told that they get a whole command.
        flag = "--no_python" if Path(launch[0]).name == "accelerate" else "--no-python"
        return [*launch, flag, *python]
    return [*launch, *python]


def told_to(study: Study, command: Sequence[str]) -> list[str]:
    """Return the names of the variables that a job is told; only who asks a judge gets its key."""
    judge = JUDGE if list(command[:2]) == ["evaluation", "ksort"] else ()
    return [*JOBS, *judge, *study.jobs.environment]


def import_path() -> str:
    """Return the PYTHONPATH of a job: this house's rooms, wherever the job starts."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    absolute = [str(Path(each).absolute()) for each in given if each]
    return os.pathsep.join(dict.fromkeys([str(HOUSE), *absolute]))


def supervise(
    command: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> tuple[int, list[str]]:
    """Run a child to its end; return its exit status and its last words on stderr.

    environment: all that the child is told; nothing of this process's own is added.
    When this process is interrupted, the child is too, and is waited for; then it is killed.
    """
    child = subprocess.Popen(
        command,
        cwd=folder,
        env=dict(environment),
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # a terminal's Ctrl-C reaches it once, from here
    )
    words: deque[str] = deque(maxlen=KEPT_LINES)

    def listen() -> None:
        assert child.stderr is not None
        for line in child.stderr:
            sys.stderr.write(line)
            if line.strip():
                words.append(line)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        status = child.wait()
    except BaseException:
        child.send_signal(signal.SIGINT)
        try:
            child.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        raise
    finally:
        listener.join(timeout=5)
    return status, list(words)


def numbers(metadata: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers among the metadata, for MLflow's metrics."""
    return {
        key: float(value)
        for key, value in metadata.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
