"""A small study on disk and the Dagster and MLflow stores it writes to, new for every test."""

import json
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest
from made_once import made_once

from assets.lineage import DATA_VERSION, latest
from assets.study import Study, read_study
from pipelines.chain import chain_of

STUDY = """
[study]
name = "small"
baseline = "base"

[lake]
root = "lake"

[tracking]
store = "mlflow"

[votes]
sources = ["votes.parquet"]

[arena]
draw_probability = "auto"

[gap]
spread = "posterior"

[training_set]
held_out = 0.2
check_images = false

[model]
base = "./base"
resolution = 32

[train]
steps = 3
batch_size = 4

[[policy]]
name = "base"

[[policy]]
name = "dpo"
objective = "dpo"

[[policy]]
name = "arenapo"
objective = "arenapo"

[generation]
prompts = "prompts.csv"
steps = 2

[scorecard]
scorers = ["miniature=./scorer"]
headline = "miniature"

[ksort]
dataset = "ksort"
judge = "scorer:miniature"
"""

PROMPTS = "prompt_id,prompt\n" + "".join(f"{i},drawing {i}\n" for i in range(24))
STAND_IN = Path(__file__).parent / "pipelines" / "fake_jobs" / "stand_in.py"
WITHOUT_TELEMETRY = {"telemetry": {"enabled": False}}
# Where MLflow keeps the places of artifacts.
ARTIFACTS = [
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
]

# A home of the tests' own: nothing that Dagster writes lands in the checkout.
HOME = Path(tempfile.mkdtemp(prefix="arenapo-home-"))
shutil.copy(Path(__file__).parents[1] / "dagster.yaml", HOME)
os.environ["DAGSTER_HOME"] = str(HOME)


def make_votes(n: int, seed: int = 0) -> pl.DataFrame:
    """Return n votes among six models, the later the better, ties where they are close."""
    random = np.random.default_rng(seed)
    a, b = random.integers(0, 6, (2, n))
    difference = (a - b) / 2 + random.normal(size=n)
    outcome = np.where(np.abs(difference) < 0.2, "tie", np.where(difference > 0, "a", "b"))
    prompt = random.integers(0, 40, n)
    return pl.DataFrame(
        {
            "vote_id": [f"v{seed}-{i}" for i in range(n)],
            "model_a": [f"model {i}" for i in a],
            "model_b": [f"model {i}" for i in b],
            "outcome": outcome,
            "prompt": [f"prompt {i}" for i in prompt],
            "image_a": [f"{p}-{m}-a" for p, m in zip(prompt, a, strict=True)],
            "image_b": [f"{p}-{m}-b" for p, m in zip(prompt, b, strict=True)],
            "rater": [f"rater {i % 7}" for i in range(n)],
        }
    )


@pytest.fixture
def votes_table() -> Callable[..., pl.DataFrame]:
    """Return the function that makes votes: (n, seed) -> table."""
    return make_votes


@pytest.fixture(scope="session")
def migrated_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow store: making its tables takes seconds, so it is done once and copied."""
    from assets.tracking import Tracking

    def make(store: Path) -> None:
        uri = f"sqlite:///{store / 'mlflow.db'}"
        Tracking(uri, user=None, password=None, folder=store, pages="").client()

    return made_once(tmp_path_factory, "migrated", make) / "mlflow.db"


def small_study(
    folder: Path,
    store: Path,
    change: Callable[[str], str] = str,
    votes: pl.DataFrame | None = None,
) -> Study:
    """Write the small study, with its text changed, and read it; store: an empty one of MLflow."""
    (folder / "mlflow").mkdir(exist_ok=True)
    if not (folder / "mlflow" / "mlflow.db").exists():
        shutil.copy(store, folder / "mlflow" / "mlflow.db")
    for inside in ("base", "scorer", "ksort/Image/0"):
        (folder / inside).mkdir(parents=True, exist_ok=True)
        name = "model_index.json" if inside == "base" else "result.json"
        (folder / inside / name).write_text("{}")
    (folder / "prompts.csv").write_text(PROMPTS)
    (make_votes(600) if votes is None else votes).write_parquet(folder / "votes.parquet")
    (folder / "small.toml").write_text(change(STUDY))
    return read_study(folder / "small.toml")


def one_trained(text: str) -> str:
    """Leave out of the small study what many tests do not ask about: arenapo, and K-Sort."""
    arenapo = '[[policy]]\nname = "arenapo"\nobjective = "arenapo"\n\n'
    assert arenapo in text
    return text[: text.index("[ksort]")].replace(arenapo, "")


def quick_study(
    folder: Path,
    store: Path,
    change: Callable[[str], str] = str,
    launch: str = json.dumps([sys.executable, str(STAND_IN)]),
    jobs: str = "pause = 0",
    **fake: object,
) -> Study:
    """Write the small study with jobs that take milliseconds.

    launch, jobs: the section [jobs]; fake: what the stand-ins do.
    """
    section = f"\n[jobs]\nlaunch = {launch}\n{jobs}\n"
    study = small_study(folder, store, lambda text: change(text) + section)
    quality = {name: 0.5 + 0.2 * place for place, name in enumerate(study.policies)}
    settings = {"steps": 3, "pause": 0.0, "quality": quality, **fake}
    (folder / "fake.json").write_text(json.dumps(settings))
    return study


@pytest.fixture
def write_study(tmp_path: Path, migrated_store: Path) -> Callable[..., Study]:
    """Return a function that writes the small study, with its text changed, and reads it."""
    return partial(small_study, tmp_path, migrated_store)


@pytest.fixture
def write_chain(tmp_path: Path, migrated_store: Path) -> Callable[..., Study]:
    """Return a function that writes the small study with jobs that take milliseconds."""
    return partial(quick_study, tmp_path, migrated_store)


@pytest.fixture(scope="session")
def ran_before(tmp_path_factory: pytest.TempPathFactory, migrated_store: Path) -> Path:
    """The quick study's folder after its whole chain ran: made once, and copied for each test."""
    from pipelines.launch import Launcher

    def make(folder: Path) -> None:
        (folder / "dagster").mkdir()
        home = str(folder / "dagster")
        with dg.DagsterInstance.local_temp(home, overrides=WITHOUT_TELEMETRY) as made:
            Launcher(quick_study(folder, migrated_store), made, lambda line: None).chain()

    return made_once(tmp_path_factory, "ran", make)


@pytest.fixture
def finished(ran_before: Path, tmp_path: Path) -> Study:
    """The quick study as its chain left it, with its stores; `instance` is its own Dagster's."""
    shutil.copytree(ran_before, tmp_path, dirs_exist_ok=True, symlinks=True)
    # MLflow writes down where its artifacts lie.
    with closing(sqlite3.connect(tmp_path / "mlflow" / "mlflow.db")) as database, database:
        for table, column in ARTIFACTS:
            database.execute(
                f"UPDATE {table} SET {column} = REPLACE({column}, ?, ?)",
                (str(ran_before), str(tmp_path)),
            )
    return read_study(tmp_path / "small.toml")


def second_study(study: Study) -> Study:
    """Write a study of equal content in another folder, on the same store; it is called second."""
    here = study.path.parent
    other = here / "second"
    other.mkdir()
    kept = ("votes.parquet", "landing", "prompts.csv", "fake.json", "base", "scorer", "ksort")
    for name in kept:
        if (here / name).exists():
            copy = shutil.copytree if (here / name).is_dir() else shutil.copy
            copy(here / name, other / name)
    text = study.path.read_text().replace('name = "small"', 'name = "second"')
    text = text.replace('store = "mlflow"', 'store = "../mlflow"')
    (other / "second.toml").write_text(text)
    return read_study(other / "second.toml")


@pytest.fixture(scope="session")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Dagster home in which nothing ran: making its tables takes seconds, as MLflow's do."""

    def make(home: Path) -> None:
        with dg.DagsterInstance.local_temp(str(home), overrides=WITHOUT_TELEMETRY) as made:
            made.get_runs()
            made.get_latest_materialization_event(dg.AssetKey("nothing"))
            made.all_instigator_state()

    return made_once(tmp_path_factory, "empty_home", make)


@pytest.fixture
def instance(
    tmp_path: Path, empty_home: Path, request: pytest.FixtureRequest
) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance with its own storage: new, or that of the `finished` study."""
    home = tmp_path / "dagster"
    if "finished" in request.fixturenames:
        request.getfixturevalue("finished")
    else:
        shutil.copytree(empty_home, home, dirs_exist_ok=True)
    with dg.DagsterInstance.local_temp(str(home), overrides=WITHOUT_TELEMETRY) as made:
        yield made


def versions(study: Study, instance: dg.DagsterInstance) -> dict[tuple[str, str | None], str]:
    """Return what every asset and partition is by content."""
    made = {
        (stage.name, part): latest(instance, study.key(stage.name), part)
        for stage in chain_of(study).values()
        for part in stage.partitions(study)
    }
    return {place: one.tags[DATA_VERSION] for place, one in made.items() if one}
