"""What orchestration costs: in a chain, at an import, with nothing to do, with years of history.

    python -m benchmarks.pipeline import [STUDY ...]    seconds to import the definitions
    python -m benchmarks.pipeline chain [STUDY]         share outside the stages' work
    python -m benchmarks.pipeline pages [--events N]    load times in chromium

`chain` runs the study from nothing in a lake of its own, then once more with nothing changed, each
as `python -m pipelines run` does. Orchestration is what is outside of Dagster's steps, and inside
of them what MLflow's client takes; the rest is the stages' own work, the start of their jobs with
it. `pages` fills a Dagster store with runs of four times the chain each and opens the pages over
it and over a fresh store; it wants the tests' dependencies and Debian's chromium.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TIMES = 5
ROUNDS = 4  # of the chain's assets in one run of the store that is filled
FRESH = 48  # materialisations: one run


def imports(studies: Sequence[Path]) -> dict[str, float]:
    """Return how long a fresh interpreter takes to import the studies' definitions, and nothing."""
    environment = {**os.environ, "ARENAPO_STUDIES": os.pathsep.join(map(str, studies))}
    found = {}
    for what in ("pipelines.definitions", "dagster", "sys"):
        seconds = []
        for _ in range(TIMES):
            begun = time.perf_counter()
            subprocess.run(
                [sys.executable, "-c", f"import {what}"], check=True, cwd=ROOT, env=environment
            )
            seconds.append(time.perf_counter() - begun)
        found[f"import {what}: median of {TIMES}, s"] = statistics.median(seconds)
        found[f"import {what}: least, s"] = min(seconds)
    return found


class Clock:
    """Adds up the time inside of some calls; one inside of another counts once."""

    def __init__(self) -> None:
        self.seconds, self.depth = 0.0, 0

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return `call` with its time counted."""

        def timed(*arguments: Any, **named: Any) -> Any:
            begun, self.depth = time.perf_counter(), self.depth + 1
            try:
                return call(*arguments, **named)
            finally:
                self.depth -= 1
                if not self.depth:
                    self.seconds += time.perf_counter() - begun

        return timed


def chain(study_file: Path) -> dict[str, float]:
    """Run a study from nothing and once more; return where the time went."""
    begun = time.perf_counter()
    import dagster as dg

    from assets import jobs, tracking
    from assets.study import read_study
    from pipelines.launch import Launcher

    mlflow, children = Clock(), Clock()
    tracking.Tracking.client = mlflow.around(tracking.Tracking.client)  # type: ignore[method-assign]
    jobs.supervise = children.around(jobs.supervise)
    import mlflow as library

    imported = time.perf_counter()
    for name, call in vars(library.MlflowClient).items():
        if callable(call) and not name.startswith("_"):
            setattr(library.MlflowClient, name, mlflow.around(call))
    with tempfile.TemporaryDirectory() as folder:
        study = read_study(study_file)
        store = study.tracking.model_copy(update={"store": Path(folder) / "mlflow"})
        study = study.model_copy(update={"lake": Path(folder) / "lake", "tracking": store})
        (Path(folder) / "home").mkdir()
        with dg.DagsterInstance.local_temp(str(Path(folder) / "home")) as instance:
            Launcher(study, instance, say).chain()
            total = time.perf_counter() - begun
            steps = sum(
                stats.end_time - stats.start_time
                for run in instance.get_runs()
                for stats in instance.get_run_step_stats(run.run_id)
                if stats.end_time and stats.start_time
            )
            again = time.perf_counter()
            Launcher(study, instance, say).chain()
            again = time.perf_counter() - again
    outside = total - steps
    return {
        "whole chain, s": total,
        "outside of the steps, s": outside,
        "of that imports, s": imported - begun,
        "inside of them MLflow's client, s": mlflow.seconds,
        "inside of them the jobs' processes, s": children.seconds,
        "share of orchestration": (outside + mlflow.seconds) / total,
        "with nothing changed, without its imports, s": again,
    }


def say(line: str) -> None:
    """Tell how far it is, on stderr."""
    print(line, file=sys.stderr, flush=True)


def fill(home: Path, study_file: Path, events: int) -> None:
    """Put so many materialisations into a store, in runs of four times the chain's assets."""
    import dagster as dg
    from dagster._core.events import DagsterEvent, StepMaterializationData
    from dagster._core.events.log import EventLogEntry

    from assets.study import read_study
    from pipelines.chain import RATE, chain_of
    from pipelines.definitions import build_definitions

    study = read_study(study_file)
    job = build_definitions(study).resolve_job_def(study.called(RATE))
    stages = list(chain_of(study).values())
    policies = list(study.policies)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        for number in range(-(-events // (len(stages) * ROUNDS))):
            run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
            for stage in stages * ROUNDS:
                partition = policies[number % len(policies)] if stage.by_policy else None
                made = dg.AssetMaterialization(
                    study.key(stage.name),
                    partition=partition,
                    metadata={"rows": number, "share": number / events},
                    tags={"dagster/data_version": f"{number:064x}"},
                )
                event = DagsterEvent(
                    dg.DagsterEventType.ASSET_MATERIALIZATION.value,
                    job_name=job.name,
                    event_specific_data=StepMaterializationData(made),
                )
                instance.handle_new_event(
                    EventLogEntry(
                        error_info=None,
                        level=20,
                        user_message="",
                        run_id=run.run_id,
                        timestamp=time.time(),
                        job_name=job.name,
                        dagster_event=event,
                    )
                )
            instance.report_dagster_event(
                DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, job_name=job.name), run.run_id
            )


def load_times(home: Path, study_file: Path) -> dict[str, float]:
    """Return the median seconds until a page shows what it is for, by name."""
    from pictures import Walk, walking
    from served import answers, free_port, wait_until

    from assets.study import read_study

    study = read_study(study_file).name
    shown = {
        "asset": (f"assets/{study}/ratings", "Latest materialization"),
        "asset's events": (f"assets/{study}/ratings?view=events", "RUN"),
        "asset graph": ("asset-groups", "evaluation"),
        "runs": ("runs", "rate_votes"),
    }

    def open_page(walk: Walk, name: str) -> float:
        address, sign = shown[name]
        begun = time.perf_counter()
        walk.page.goto(f"{walk.dagster}/{address}")
        walk.page.get_by_text(sign).first.wait_for()
        taken = time.perf_counter() - begun
        walk.page.close()
        return taken

    port = free_port()
    address = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "dagster_webserver", "--module-name", "pipelines.definitions"),
            *("--host", "127.0.0.1", "--port", str(port), "--log-level", "error"),
        ],
        env={**os.environ, "DAGSTER_HOME": str(home), "ARENAPO_STUDIES": str(study_file.resolve())},
        cwd=ROOT,
    )
    try:
        wait_until(lambda: answers(address), "the page answers")
        with walking(address, "") as tab:
            for name in shown:  # the first visit fills the server's caches
                open_page(tab(), name)
            return {
                name: statistics.median(open_page(tab(), name) for _ in range(TIMES))
                for name in shown
            }
    finally:
        server.terminate()
        server.wait()


def pages(study_file: Path, events: int) -> dict[str, float]:
    """Return the pages' load times over a store of forty events and over one of many."""
    sys.path[:0] = [str(ROOT / each) for each in ("docs", "tests", "tests/pipelines")]
    from served import make_home

    result: dict[str, float] = {}
    times: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in (FRESH, events):
            home = make_home(Path(folder) / f"home-{count}")
            begun = time.perf_counter()
            fill(home, study_file, count)
            say(f"{count} events written in {time.perf_counter() - begun:.0f} s")
            times[count] = load_times(home, study_file)
    for name, few in times[FRESH].items():
        many = times[events][name]
        result |= {
            f"{name}, {FRESH} events, s": few,
            f"{name}, {events} events, s": many,
            f"{name}, ratio": many / few,
        }
    return result


def main() -> None:
    """Measure one thing and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["import", "chain", "pages"])
    miniature = ROOT / "experiments/miniature.toml"
    parser.add_argument("studies", nargs="*", type=Path, default=[miniature])
    parser.add_argument("--events", type=int, default=10_000)
    options = parser.parse_args()
    found = {
        "import": lambda: imports([each.resolve() for each in options.studies]),
        "chain": lambda: chain(options.studies[0]),
        "pages": lambda: pages(options.studies[0], options.events),
    }[options.what]()
    print(json.dumps({key: round(value, 3) for key, value in found.items()}, indent=2))


if __name__ == "__main__":
    main()
