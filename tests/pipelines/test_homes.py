"""Where a command runs from changes nothing, and what it writes stays in its own places."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_study import one_trained

from pipelines import homes
from pipelines.__main__ import main
from pipelines.pages import Ports, served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # whole chains, on a busy machine too
ROOT = Path(__file__).parents[2]


def command(*words, cwd, **environment):
    kept = {key: value for key, value in os.environ.items() if key != "DAGSTER_HOME"}
    return subprocess.run(
        [sys.executable, "-P", "-m", "pipelines", *map(str, words)],
        cwd=cwd,
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def typed(monkeypatch, capsys):
    """Return a function that runs a command in this process: its exit status and what it said."""

    def run(*words, cwd, home):
        monkeypatch.chdir(cwd)
        monkeypatch.setenv("PWD", str(cwd))
        monkeypatch.setenv("DAGSTER_HOME", str(home))
        monkeypatch.setattr(sys, "argv", ["pipelines", *map(str, words)])
        status = main()
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def dirt():
    found = subprocess.run(
        ["git", "status", "--porcelain", "--ignored"], cwd=ROOT, capture_output=True, text=True
    ).stdout.splitlines()
    # Caches that other tests or tools make meanwhile are no matter of this one.
    others = ("__pycache__", ".py", ".hypothesis", "_cache/")
    return {line for line in found if not any(name in line for name in others)}


@pytest.mark.parametrize("home", ["relative/home", "/nowhere/at/all"])
def test_a_home_that_is_relative_or_absent_is_one_sentence(home, write_study, tmp_path, typed):
    status, _, said = typed("plan", write_study().path, cwd=tmp_path, home=home)
    assert status == 1
    assert said.startswith(f"pipelines: DAGSTER_HOME={home} is ")


@pytest.mark.slow
def test_a_study_in_a_folder_with_blanks_runs_from_anywhere_and_leaves_the_checkout_clean(
    write_chain, tmp_path, typed
):
    write_chain(lambda text: one_trained(text).replace('store = "mlflow"', 'store = "m l flöw"'))
    folder = tmp_path / "ein Ordner für Bilder 50%"
    folder.mkdir()
    for name in ("votes.parquet", "prompts.csv", "fake.json", "small.toml", "base", "scorer"):
        shutil.move(tmp_path / name, folder / name)
    shutil.move(tmp_path / "ksort", folder / "ksort")
    shutil.move(tmp_path / "mlflow", folder / "m l flöw")
    # A study's folder may hold anything: none of it is a module of a job.
    (folder / "training").mkdir()
    (folder / "training" / "__init__.py").write_text("raise SystemExit('shadowed')")
    (folder / "polars.py").write_text("raise SystemExit('shadowed')")
    home = tmp_path / "a home"
    home.mkdir()
    before = dirt()
    done = command("run", folder / "small.toml", cwd=tmp_path, DAGSTER_HOME=str(home))
    assert done.returncode == 0, done.stderr
    for said in (
        "is champion",
        "comparison.html",
        "pipelines ui",
        "lake/policies/dpo/",
    ):
        assert said in done.stdout
    assert (home / ".dagster").exists()
    assert not list(tmp_path.rglob(".telemetry"))
    assert not (home / "logs").exists()
    plans = [
        typed("plan", os.path.relpath(folder / "small.toml", where), cwd=where, home=home)[1]
        for where in (tmp_path, folder, Path("/"))
    ]
    assert plans[0].startswith("small: 0 stages run, 0 may run, 15 are up to date")
    assert plans[0].splitlines()[:-2] == plans[1].splitlines()[:-2] == plans[2].splitlines()[:-2]
    assert dirt() == before

    store = next((folder / "m l flöw").glob("mlflow.db"))
    store.write_bytes(b"no database" * 1000)
    for name in ("plan", "run", "clean", "promote", "check"):
        extra = ["dpo"] if name == "promote" else []
        status, out, err = typed(name, folder / "small.toml", *extra, cwd=tmp_path, home=home)
        assert status == 1, name
        assert "MLflow's store sqlite:///" in out + err, name


def test_the_pages_of_a_home_are_served_once(write_study, tmp_path):
    study = write_study()
    with served(tmp_path / "mlflow", [study], Ports(3001, 5001, 8001)) as folder:
        note = json.loads((folder / "pages.json").read_text())
        assert note["mlflow"] == "http://127.0.0.1:5001"
        again = served(tmp_path / "mlflow", [study], Ports(3002, 5002, 8002))
        with pytest.raises(
            RuntimeError, match=r"already served at http://127\.0\.0\.1:3001 for small"
        ):
            again.__enter__()
    assert not (folder / "pages.json").exists()


def test_the_homes_config_is_the_projects_where_it_has_none(tmp_path):
    assert homes.config(tmp_path) == ROOT
    homes.complete(tmp_path)
    assert homes.config(tmp_path) == tmp_path
    assert "telemetry:\n  enabled: false" in (tmp_path / "dagster.yaml").read_text()
    assert time.time() - (tmp_path / "dagster.yaml").stat().st_mtime < 60
