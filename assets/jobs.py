"""Jobs that need the GPU, as processes of their own: nothing here loads torch.

A job reports through Dagster Pipes and logs to the MLflow run that it is given. What it prints
appears in the run's own output. It is a process behind the study's launch prefix
(`assets.job_process`) or a Kubernetes pod (`assets.pods`). A job that died (out of memory,
preempted, killed, its machine or connection lost) is started again and goes on from its checkpoint;
one that says what is wrong with its input is not. A job that is still at work when its orchestrator
was killed is followed by the next one, not started twice.
"""

import hashlib
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg

from assets.environment import ANYWHERE, HERE, JUDGE, called, short
from assets.job_process import JobProcess, behind, clear
from assets.lake import Lake
from assets.lineage import plain
from assets.run import Run
from assets.study import Study

HOUSE = Path(__file__).resolve().parents[1]
POOL = "gpu"
# How a shell or a job that caught the signal says SIGINT, SIGKILL and SIGTERM.
BY_A_SIGNAL = {128 + each: each for each in (signal.SIGINT, signal.SIGKILL, signal.SIGTERM)}


class JobFailed(RuntimeError):
    """The job ended with a reason of its own: trying again would end the same way."""


class JobDied(RuntimeError):
    """The job was ended before it was done."""


class Messages(dg.PipesMessageReader):
    """Reads what a job reported to a file, once it has ended, whoever started it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def read_messages(self, handler: Any) -> Iterator[dict[str, str]]:
        """Tell the job the file; then hand over every whole line."""
        try:
            yield {"path": str(self.path)}
        finally:
            text = self.path.read_text() if self.path.exists() else ""
            for line in text.splitlines(keepends=True):
                if line.endswith("\n"):
                    handler.handle_message(json.loads(line))

    def no_messages_debug_text(self) -> str:
        """Where the messages should be."""
        return f"Read messages from {self.path}."


def run_job(
    context: dg.AssetExecutionContext,
    study: Study,
    run: Run,
    command: Sequence[str],
) -> tuple[str, dict[str, Any]]:
    """Run `python -m COMMAND` and return what it reported: its data version and its metadata.

    Raises JobFailed with the job's last words, or RetryRequested where it was ended from outside.
    """
    jobs, stage = study.jobs, context.asset_key.path[-1]
    folder = Lake(study.lake).folder("jobs", context.partition_key, stage)
    made_from = json.dumps([list(command), jobs.launch, jobs.image, run.inputs], sort_keys=True)
    job = JobProcess(folder, hashlib.sha256(made_from.encode()).hexdigest(), jobs.grace)
    if jobs.image:
        from assets import pods  # an extra

        clear(folder)
        job.prepare(study.path.parent, run.environment, travels(study, command))
        results, why = pods.run(context, jobs, job, command)
    else:
        results, why = run_process(context, study, run, job, command)
    ended = job.ended()
    clear(folder)
    if failed := [each for each in ended if each["status"] not in (0, *BY_A_SIGNAL)]:
        said = failed[0]["said"] or "it said nothing"
        raise JobFailed(f"python -m {command[0]}: {said}")
    if why:
        died = JobDied(f"python -m {command[0]} was ended {why}")
        raise dg.RetryRequested(jobs.retries, jobs.pause) from died
    for result in results:
        if isinstance(result, dg.MaterializeResult) and result.data_version is not None:
            return result.data_version.value, plain(result.metadata or {})
    raise JobFailed(f"python -m {command[0]} ended well but reported no data version")


def run_process(
    context: dg.AssetExecutionContext,
    study: Study,
    run: Run,
    job: JobProcess,
    command: Sequence[str],
) -> tuple[Sequence[Any], str]:
    """Run a job behind the launch prefix; return its results and by what it was ended, if it was.

    Raises JobFailed where the prefix's program is not there.
    """
    found = job.found()
    injector = dg.PipesFileContextInjector(str(job.folder / "context"))
    with (
        system_metrics(run),
        dg.open_pipes_session(context, injector, Messages(job.folder / "messages")) as session,
    ):
        if found:
            context.log.info(f"{job.folder} is at work since before; it is followed")
        else:
            job.let_others_end(context.log.info)
            told = {**run.environment, **session.get_bootstrap_env_vars()}
            job.prepare(study.path.parent, told, travels(study, command))
            # `-P`: the working directory is the study's folder, whose files are no modules of ours.
            python = ["env", f"PYTHONPATH={import_path()}", sys.executable, "-P", "-m"]
            whole = behind(
                study.jobs.launch, [*python, "assets.child", str(job.folder), *command]
            )
            try:
                job.start(whole, {**short(os.environ, told_to(study, command)), **told})
            except OSError as error:
                raise JobFailed(f"jobs.launch: {whole[0]}: {error.strerror}") from None
        status = job.follow()
    results = session.get_results()
    # A prefix that was cut off says nothing about a job that came to its end.
    if status == 0 or (results and any(each["status"] == 0 for each in job.ended())):
        return results, ""
    said = job.words[-1].strip() if job.words else "it said nothing"
    number = BY_A_SIGNAL.get(status or 0, -(status or 0))
    by = f"by {signal.Signals(number).name}" if number > 0 else f"with exit status {status}"
    return results, f"{by}: {said}" if status is not None else f"while nobody followed it: {said}"


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


def told_to(study: Study, command: Sequence[str]) -> list[str]:
    """Return the names of the variables that a job is told; only who asks a judge gets its key."""
    judge = JUDGE if list(command[:2]) == ["evaluation", "ksort"] else ()
    return [*HERE, *ANYWHERE, *judge, *study.jobs.environment]


def travels(study: Study, command: Sequence[str]) -> dict[str, str]:
    """Return the variables that a job is told on whatever machine it runs."""
    names = [name for name in told_to(study, command) if name not in HERE]
    return called(os.environ, names)


def import_path() -> str:
    """Return the PYTHONPATH of a job: this house's rooms, wherever the job starts."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    absolute = [str(Path(each).absolute()) for each in given if each]
    return os.pathsep.join(dict.fromkeys([str(HOUSE), *absolute]))


def numbers(metadata: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers among the metadata, for MLflow's metrics."""
    return {
        key: float(value)
        for key, value in metadata.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
