"""Dagster's and MLflow's web pages side by side on loopback, until somebody stops them."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from assets.lake import Lake
from assets.study import Study
from assets.tracking import Tracking

LOOPBACK = "127.0.0.1"
PATIENCE_SECONDS = 180


def serve(study: Study, dagster_port: int, mlflow_port: int) -> int:
    """Serve both pages and return 0 when they are interrupted.

    They end with this process, however it ends. Raises RuntimeError when one of them ends first, or
    when a port is taken: what answers there would be somebody else's pages.
    """
    lake = Lake(study.lake)
    locks = {name: lake.lock(f"{name}.pages") for name in ("dagster", "mlflow")}
    for lock in locks.values():  # a server of before may still be going down
        with lake.held(lock.name, lambda said: print(said, flush=True)):
            pass
    for port in (dagster_port, mlflow_port):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                raise RuntimeError(
                    f"port {port} on {LOOPBACK} is taken; stop what listens there, or choose "
                    "others with --dagster-port and --mlflow-port"
                ) from None
    tracking = Tracking.of(study)
    tracking.client()
    environment = {
        **os.environ,
        "ARENAPO_STUDY": str(study.path),
        "DAGSTER_HOME": os.environ.get("DAGSTER_HOME", str(Path.cwd())),
        # Nothing here gives MLflow's server jobs of its own; the seven runners cost a gigabyte.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    servers = {
        f"http://{LOOPBACK}:{dagster_port}": [
            *("dagster", "dev", "--module-name", "pipelines.definitions"),
            *("--host", LOOPBACK, "--port", str(dagster_port)),
        ],
        f"http://{LOOPBACK}:{mlflow_port}": [
            *("mlflow", "server", "--backend-store-uri", tracking.uri),
            *("--host", LOOPBACK, "--port", str(mlflow_port), "--workers", "1"),
        ],
    }
    tie = [sys.executable, "-m", "assets.child", str(os.getpid())]
    running = [
        subprocess.Popen(
            [*tie, str(locks[command[0]]), *command],
            env=environment,
            start_new_session=True,
        )
        for command in servers.values()
    ]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        for name, url in zip(("Dagster", "MLflow"), servers, strict=True):
            wait_for(url, running)
            print(f"{name} is at {url}", flush=True)
        while all(process.poll() is None for process in running):
            time.sleep(0.5)
        raise RuntimeError("a server ended, so the other was stopped; its own words are above")
    except KeyboardInterrupt:
        return 0
    finally:
        stop(running)


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
