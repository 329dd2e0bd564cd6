"""Dagster's, MLflow's and the voting pages on loopback, until somebody stops them.

One home has one daemon, which starts every run of the home's studies; so its pages are served once.
"""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from assets.dagster_internals import DAEMON
from assets.environment import short
from assets.jobs import import_path
from assets.store import private_folder
from assets.study import Study
from assets.tracking import PAGES, Tracking
from assets.votes import VOTING
from pipelines.homes import STUDIES, apart, complete
from voting.gate import LOOPBACK, LOOPBACK_NAMES
from voting.study import open_study

PATIENCE_SECONDS = 180


@dataclass(frozen=True)
class Ports:
    """Where the pages are; voting: of the first study's page, the next study has the next port."""

    dagster: int
    mlflow: int
    voting: int


def serve(studies: Sequence[Study], home: Path, ports: Ports) -> int:
    """Serve the pages over the studies and return 0 when they are interrupted.

    They end with this process, however it ends. Raises RuntimeError when one of them ends first,
    when this home's pages are served already, or when a port is taken: what answers there would be
    somebody else's pages.
    """
    apart(list(studies))
    stores = {tracking.uri: tracking for tracking in map(Tracking.of, studies)}
    if len(stores) > 1:
        shown = ", ".join(each.shown for each in stores.values())
        raise RuntimeError(
            f"the studies keep their runs in {len(stores)} stores ({shown}), and one page of "
            "MLflow shows one; give them one [tracking] uri, or serve them apart"
        )
    (tracking,) = stores.values()
    tracking.client()
    complete(home)
    voting = voting_pages(studies, ports.voting)
    with served(home, studies, ports) as folder, ExitStack() as held:
        for name in ("dagster", "daemon", "mlflow"):  # one of before may still be going down
            handle = held.enter_context((folder / f"{name}.lock").open("w"))
            fcntl.flock(handle, fcntl.LOCK_EX)
            fcntl.flock(handle, fcntl.LOCK_UN)
        for port in [ports.dagster, *([ports.mlflow] if tracking.folder else []), *voting]:
            require_free(port)
        own = f"http://{LOOPBACK}:{ports.mlflow}" if tracking.folder else tracking.uri
        told = environment(studies, tracking, own, home)
        told[VOTING] = json.dumps({s.name: f"http://{LOOPBACK}:{n}" for n, s in voting.items()})
        servers = [
            Server("dagster", ["pipelines.webserver", str(ports.dagster)], told, ports.dagster),
            Server("daemon", [DAEMON, "run", "--module-name", "pipelines.definitions"], told),
        ]
        if tracking.folder is not None:
            # It runs no code of a study, so it is told no secret of one.
            few = short(told, ("MLFLOW_*", "PYTHONPATH"))
            command = mlflow_command(tracking, ports.mlflow)
            servers.append(Server("mlflow", command, few, ports.mlflow))
        for port, study in voting.items():
            few = short(told, ("PYTHONPATH",))
            command = ["voting", str(study.path), "--port", str(port)]
            servers.append(Server(f"voting-{study.name}", command, few, port))
        return watch(servers, folder, own)


def voting_pages(studies: Sequence[Study], port: int) -> dict[int, Study]:
    """Return the studies that people can vote about, by port; say of the others why not."""
    found = {}
    for k, study in enumerate(studies):
        try:
            open_study(study.path)
        except (ValueError, OSError) as error:
            print(f"{study.name} has no voting page: {error}", file=sys.stderr)
        else:
            found[port + k] = study
    return found


@dataclass(frozen=True)
class Server:
    """A process behind the pages; command: what `python -m` runs; port: None where it has none."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    port: int | None = None

    @property
    def url(self) -> str:
        """Where its page is."""
        return f"http://{LOOPBACK}:{self.port}"

    def start(self, folder: Path) -> "subprocess.Popen[bytes]":
        """Start it, tied to this process and after an earlier one of its name; folder: of locks."""
        python = [sys.executable, "-P", "-m"]
        tie = [*python, "pipelines.tied", str(os.getpid()), str(folder / f"{self.name}.lock")]
        return subprocess.Popen(
            [*tie, *python, *self.command], env=dict(self.environment), start_new_session=True
        )


def mlflow_command(tracking: Tracking, port: int) -> list[str]:
    """Return MLflow's server, which answers this machine's names and its own page alone."""
    names = [name for name in LOOPBACK_NAMES if ":" not in name]  # it listens on IPv4 only
    hosts = [f"{name}{end}" for name in names for end in ("", ":*")]
    origins = [f"http://{name}:{port}" for name in names]
    return [
        *("mlflow", "server", "--backend-store-uri", tracking.uri),
        *("--host", LOOPBACK, "--port", str(port), "--workers", "1"),
        *("--allowed-hosts", ",".join(hosts), "--cors-allowed-origins", ",".join(origins)),
    ]


def environment(
    studies: Sequence[Study], tracking: Tracking, pages: str, home: Path
) -> dict[str, str]:
    """Return what the servers are told: the studies, the home, and where MLflow's page is."""
    return {
        **os.environ,
        **tracking.environment,
        STUDIES: os.pathsep.join(str(study.path) for study in studies),
        PAGES: pages,
        "PYTHONPATH": import_path(),
        "DAGSTER_HOME": str(home),
        "PYTHONSAFEPATH": "1",  # `-P` for what the servers start in their turn
        # Nothing here gives MLflow's server jobs of its own; the seven runners cost a gigabyte.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def watch(servers: Sequence[Server], folder: Path, mlflow: str) -> int:
    """Start the servers, say where they are, and stay with them until an interrupt."""
    running = [server.start(folder) for server in servers]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        for server in servers:
            if server.port is not None:
                wait_for(server.url, running)
        print(f"Dagster is at {servers[0].url}", flush=True)
        print(f"MLflow is at {mlflow}", flush=True)
        for server in servers:
            if server.name.startswith("voting-"):
                print(f"people vote for {server.name[7:]} at {server.url}", flush=True)
        while all(process.poll() is None for process in running):
            time.sleep(0.5)
        raise RuntimeError("a server ended, so the others were stopped; its own words are above")
    except KeyboardInterrupt:
        return 0
    finally:
        stop(running)


@contextmanager
def served(home: Path, studies: Sequence[Study], ports: Ports) -> Iterator[Path]:
    """Hold the home's pages while they are served, and say to others where they are."""
    folder = home / ".dagster"
    private_folder(folder)
    note = folder / "pages.json"
    with (folder / "pages.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            told = json.loads(note.read_text()) if note.exists() else {}
            raise RuntimeError(
                f"the pages of {home} are already served at {told.get('dagster', 'another port')} "
                f"for {', '.join(told.get('studies', ['another study']))}; stop them first, and "
                "name every study in one command"
            ) from None
        note.write_text(
            json.dumps(
                {
                    "dagster": f"http://{LOOPBACK}:{ports.dagster}",
                    "mlflow": f"http://{LOOPBACK}:{ports.mlflow}",
                    "studies": [study.name for study in studies],
                }
            )
        )
        try:
            yield folder
        finally:
            note.unlink(missing_ok=True)


def point_to_served_pages(home: Path) -> None:
    """Let the links that are recorded now lead to where MLflow's page is served now, if it is."""
    note = home / ".dagster" / "pages.json"
    if PAGES not in os.environ and note.exists():
        url = str(json.loads(note.read_text()).get("mlflow", ""))
        with socket.socket() as probe:
            if url and probe.connect_ex((LOOPBACK, urlsplit(url).port or 0)) == 0:
                os.environ[PAGES] = url


def require_free(port: int) -> None:
    """Raise RuntimeError where something listens on a port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            raise RuntimeError(
                f"port {port} on {LOOPBACK} is taken; stop what listens there, or choose "
                "others with --dagster-port, --mlflow-port and --voting-port"
            ) from None


def wait_for(url: str, running: "list[subprocess.Popen[bytes]]") -> None:
    """Return when `url` answers; raise RuntimeError when a server ended or time ran out."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if any(process.poll() is not None for process in running):
            raise RuntimeError(f"a server ended before {url} answered; its own words are above")
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise RuntimeError(f"{url} did not answer within {PATIENCE_SECONDS} s")


def stop(running: "list[subprocess.Popen[bytes]]") -> None:
    """End every server with all that it started."""
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
    for process in running:
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
