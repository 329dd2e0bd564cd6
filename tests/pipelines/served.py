"""The pages as a person serves them, `python -m pipelines ui STUDY.toml ...`, in their own home."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import psutil

ROOT = Path(__file__).parents[2]
LOOPBACK = "127.0.0.1"
PATIENCE = 300
LOCATION = {
    "repositoryName": "__repository__",
    "repositoryLocationName": "pipelines.definitions",
}
LAUNCH = """
mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }
"""


def wait_until(true: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Return what `true` returns once it is something; the limit is for a slow machine."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.2)
    return found


def make_home(folder: Path) -> Path:
    """Make a DAGSTER_HOME with the project's dagster.yaml, which looks after runs more often."""
    folder.mkdir()
    text = (ROOT / "dagster.yaml").read_text().replace(".dagster/", f"{folder}/.dagster/")
    for slow, quick in {
        "poll_interval_seconds: 30": "poll_interval_seconds: 2",
        "free_slots_after_run_end_seconds: 60": "free_slots_after_run_end_seconds: 2",
    }.items():
        assert slow in text
        text = text.replace(slow, quick)
    (folder / "dagster.yaml").write_text(text)
    return folder


def free_port(together: int = 1) -> int:
    """Return a port that nobody listens on now, the first of so many in a row."""
    while True:
        with ExitStack() as held:
            probes = [held.enter_context(socket.socket()) for _ in range(together)]
            probes[0].bind((LOOPBACK, 0))
            first = int(probes[0].getsockname()[1])
            try:
                for k, probe in enumerate(probes[1:], start=1):
                    probe.bind((LOOPBACK, first + k))
            except OSError:
                continue
            return first


class Pages:
    """The two web pages of a home's studies, and the daemon behind them."""

    def __init__(self, studies: Sequence[Path], home: Path) -> None:
        self.studies, self.home = studies, home
        self.ports = free_port(), free_port()
        self.dagster, self.mlflow = (f"http://{LOOPBACK}:{port}" for port in self.ports)
        self.voting_port = free_port(together=len(studies))
        self.log = home / "pages.log"

    def start(self) -> None:
        """Serve, and return when both pages answer and the daemon beats."""
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "pipelines", "ui", *map(str, self.studies)),
                    *("--dagster-port", str(self.ports[0]), "--mlflow-port", str(self.ports[1])),
                    *("--voting-port", str(self.voting_port)),
                ],
                cwd=self.home,
                env={**os.environ, "PYTHONPATH": str(ROOT), "DAGSTER_HOME": str(self.home)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_until(self._serves, "the pages answer")

    def _serves(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        return "MLflow is at" in self.log.read_text() and all(
            answers(url) for url in (self.dagster, self.mlflow)
        )

    def processes(self) -> list[psutil.Process]:
        """Return every process that serves, works for the daemon or trains."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def daemon(self) -> psutil.Process:
        """Return the daemon's process."""
        (found,) = (each for each in self.processes() if "dagster._daemon" in each.cmdline())
        return found

    def kill(self) -> None:
        """End everything at once, as a machine without power does."""
        everything = [psutil.Process(self.process.pid), *self.processes()]
        for process in everything:
            process.suspend()  # so that none has the time to see the others end
        for process in everything:
            process.kill()
        self.process.wait()
        psutil.wait_procs(everything, timeout=60)

    def stop(self) -> None:
        """End as Ctrl-C does."""
        left = self.processes()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(timeout=PATIENCE)
        psutil.wait_procs(left, timeout=60)

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """Ask Dagster's GraphQL what its page asks."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"{self.dagster}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            said = json.loads(answer.read())
        assert "errors" not in said, said
        return dict(said["data"])

    def launch(self, job: str, partition: str | None = None, study: str = "small") -> str:
        """Start a study's job as the page's button does; return the run's id."""
        tags = [{"key": "dagster/partition", "value": partition}] if partition else []
        params = {
            "selector": {**LOCATION, "jobName": f"{study}__{job}"},
            "executionMetadata": {"tags": tags},
            "mode": "default",
        }
        launched = self.ask(LAUNCH, params=params)["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])


def answers(url: str) -> bool:
    """Tell whether a page answers."""
    try:
        urllib.request.urlopen(url, timeout=10).close()
    except OSError:
        return False
    return True


@contextmanager
def served(studies: Sequence[Path], home: Path) -> Iterator[tuple[Pages, dg.DagsterInstance]]:
    """Serve studies, and give their pages and their Dagster instance."""
    pages = Pages(studies, home)
    pages.start()
    try:
        with dg.DagsterInstance.from_config(str(home)) as instance:
            yield pages, instance
    finally:
        pages.stop()
