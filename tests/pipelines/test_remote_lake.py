"""The whole chain with its lake in an object store: equal data versions, and nothing half done."""

import json
import os
import subprocess
import sys
import threading
import time

import dagster as dg
import polars as pl
import pytest
from object_store import machine
from served import ROOT, make_home
from small_study import WITHOUT_TELEMETRY, quick_study, versions

from assets import turns
from assets.lake import Lake
from assets.movement import TRAINED_ON
from assets.store import Store
from assets.store_url import StoreError
from assets.study import read_study
from assets.tracking import Tracking
from assets.turns import TakenLake, turn
from pipelines.chain import chain_of
from pipelines.launch import Launcher, StageFailed
from pipelines.needs import quick
from pipelines.planning import UP_TO_DATE, steps_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def in_the_store(study, s3, prefix):
    """Put the study's votes into the store, and name the store as its lake."""
    landing = Lake(s3.url(f"{prefix}/landing"))
    with landing.writing("votes.parquet") as aside:
        aside.write_bytes(study.votes.sources[0].read_bytes())
    text = study.path.read_text()
    text = text.replace('root = "lake"', f'root = "{s3.url(f"{prefix}/lake")}"')
    study.path.write_text(
        text.replace('"votes.parquet"', f'"{s3.url(f"{prefix}/landing/*.parquet")}"')
    )
    return read_study(study.path)


@pytest.fixture
def remote(s3, write_chain, tmp_path):
    """The quick study with its lake and its votes in the store."""
    return in_the_store(write_chain(), s3, tmp_path.name)


@pytest.fixture
def embedded(ran_before):
    """What the same study comes to with everything in folders and embedded databases."""
    study = read_study(ran_before / "small.toml")
    with dg.DagsterInstance.local_temp(
        str(ran_before / "dagster"), overrides=WITHOUT_TELEMETRY
    ) as instance:
        return versions(study, instance)


def test_the_chain_is_the_same_as_over_folders_even_where_the_store_stops_in_between(
    s3,
    remote,
    instance,
    embedded,
    tmp_path,
    monkeypatch,
):
    said = []

    def stop_once(line):
        said.append(line)
        if line.startswith("train_and_evaluate[dpo]: policy") and "stopped" not in said:
            said.append("stopped")
            s3.stop()

    try:
        with pytest.raises(StoreError, match=r"^s3://lakes/\S+: it cannot be reached; check its"):
            Launcher(remote, instance, stop_once).chain()
    finally:
        s3.start()
    Launcher(remote, instance, said.append).chain()
    assert versions(remote, instance) == embedded
    assert {step.verdict for step in steps_of(remote, chain_of(remote), instance)} == {UP_TO_DATE}
    assert not list(tmp_path.rglob("s3:*"))
    tables = {name for name in s3.names(f"{tmp_path.name}/lake") if name.endswith(".parquet")}
    assert {"votes/votes.parquet", "judgments/dpo/scores.parquet"} <= tables

    # Another machine of the same history has nothing here, and nothing to do.
    machine(monkeypatch, tmp_path / "there")
    assert Launcher(remote, instance, said.append).chain() == []
    named = Lake(remote.lake).read("intake")["file"].to_list()
    assert named == [f"s3://lakes/{tmp_path.name}/landing/votes.parquet"]

    # What is gone from the store is made again, and what follows it in its job.
    Lake(remote.lake).remove("warehouse.duckdb")
    assert Launcher(remote, instance, said.append).rate()[0] == "gaps"
    assert Lake(remote.lake).exists("warehouse.duckdb")


def test_of_two_machines_one_works_and_the_other_waits_or_says_why(
    s3, instance, tmp_path, monkeypatch
):
    lake, said = Lake(s3.url(f"{tmp_path.name}/lake")), []
    order: list[str] = []

    def second() -> None:
        machine(monkeypatch, tmp_path / "there")
        with turn(lake, instance, "chain", said.append):
            order.append("second")

    with turn(lake, instance, "chain", said.append):
        other = threading.Thread(target=second)
        other.start()
        until = time.monotonic() + 60
        while not said:
            assert time.monotonic() < until
            time.sleep(0.05)
        order.append("first")
    other.join(timeout=60)
    assert order == ["first", "second"]
    assert said == [f"another machine holds chain of {lake.name}; waiting for it to end"]

    with (
        dg.DagsterInstance.local_temp(str(tmp_path), overrides=WITHOUT_TELEMETRY) as apart,
        pytest.raises(TakenLake, match=r"belongs to another Dagster history .*storage: postgres"),
        turn(lake, apart, "chain", said.append),
    ):
        pass


def test_a_machine_that_fell_silent_loses_its_turn(s3, instance, tmp_path, monkeypatch):
    lake = Lake(s3.url(f"{tmp_path.name}/lake"))
    monkeypatch.setattr(turns, "SILENCE_SECONDS", 0.2)
    dead = turns.Pool(instance, f"chain of {lake.name}", "dead")
    waited = turns.Pool(instance, f"chain of {lake.name}", "dead too, while it waited")
    dead.sign()
    assert dead.claimed()
    assert not waited.claimed()
    with turn(lake, instance, "chain", print):
        assert not dead.others() - {f"{turns.copy_id(lake)} chain of {lake.name}"}
    # One that died on this machine is followed at once: its place is found its own.
    mine = turns.Pool(instance, f"study of {lake.name}", turns.copy_id(lake))
    assert mine.claimed()
    with turn(lake, instance, "study", pytest.fail):
        pass


def test_a_database_that_is_away_for_a_moment_costs_a_turn_no_more_than_a_sign(
    s3, instance, tmp_path, monkeypatch, capfd
):
    lake, signed = Lake(s3.url(f"{tmp_path.name}/lake")), []
    sign = turns.Pool.sign

    def away(pool: turns.Pool) -> None:
        signed.append(pool)
        if len(signed) in (2, 3):
            raise ConnectionError("connection refused")
        sign(pool)

    monkeypatch.setattr(turns, "SIGN_SECONDS", 0.01)
    monkeypatch.setattr(turns.Pool, "sign", away)
    with turn(lake, instance, "chain", print):
        until = time.monotonic() + 60
        while len(signed) < 6:  # it went on after the two that failed
            assert time.monotonic() < until
            time.sleep(0.01)
    assert "Traceback" not in capfd.readouterr().err


def test_check_and_every_command_say_in_one_sentence_what_is_wrong_with_the_store(
    remote,
    s3,
    tmp_path,
):
    found = {each.what: each for each in quick(remote)}
    assert found["lake.root"].met, found["lake.root"]
    assert found["votes.sources"].met
    text = remote.path.read_text()
    remote.path.write_text(text.replace("s3://lakes/", "s3://nobody/"))
    lost = read_study(remote.path)
    missing = {each.what: each.said for each in quick(lost) if not each.met}
    assert set(missing) == {"lake.root", "votes.sources"}
    assert "there is no such bucket; make it, or correct the URL" in missing["lake.root"]
    make_home(tmp_path / "home")
    for command in ("plan", "run"):
        done = subprocess.run(
            [sys.executable, "-m", "pipelines", command, str(remote.path)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "DAGSTER_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1, done.stderr
        assert "there is no such bucket" in done.stderr


def test_a_job_that_fails_leaves_its_work_to_another_machine(
    remote, instance, tmp_path, monkeypatch
):
    lake, text = Lake(remote.lake), ("vote_id", "prompt", "image_winner", "image_loser")
    pairs = pl.DataFrame({name: ["x"] for name in text} | {"split": ["train"], "gap": [1.0]})
    lake.write("training_set", pairs)
    fake = json.loads((tmp_path / "fake.json").read_text())
    (tmp_path / "fake.json").write_text(json.dumps(fake | {"bad": "dpo"}))
    with pytest.raises(StageFailed, match="needs a whole number"):
        Launcher(remote, instance, lambda line: None).run("train_and_evaluate", ["policy"], "dpo")
    (version,) = lake.folders("policies/dpo")
    assert lake.current_version("policies", "dpo") is None
    machine(monkeypatch, tmp_path / "there")
    kept = lake.folder("policies", "dpo", version) / TRAINED_ON
    assert pl.read_parquet(kept).equals(pairs)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_store_stopped_at_ten_moments_costs_a_sentence_and_nothing_else(
    s3, embedded, migrated_store, tmp_path, monkeypatch
):
    asked, stop_at, head = [0], [-1], Store.head

    def counted(self, name):
        asked[0] += 1
        if asked[0] == stop_at[0]:
            s3.stop()
        return head(self, name)

    monkeypatch.setattr(Store, "head", counted)
    total, files = 0, set()
    for moment in range(11):  # the first one is undisturbed
        folder = tmp_path / f"{moment:02}"
        (folder / "dagster").mkdir(parents=True)
        prefix = f"{tmp_path.name}/{moment:02}"
        study = in_the_store(quick_study(folder, migrated_store), s3, prefix)
        with dg.DagsterInstance.local_temp(
            str(folder / "dagster"), overrides=WITHOUT_TELEMETRY
        ) as instance:
            launcher = Launcher(study, instance, lambda line: None)
            asked[0], stop_at[0] = 0, total * moment // 11 if moment else -1
            if moment:
                with pytest.raises((StageFailed, StoreError), match="it cannot be reached"):
                    launcher.chain()
                stop_at[0] = -1
                s3.start()
            launcher.chain()
            total = total or asked[0]
            assert versions(study, instance) == embedded, moment
            client = Tracking.of(study).client()
            experiment = client.get_experiment_by_name(study.name).experiment_id
            assert not client.search_runs([experiment], "attributes.status = 'RUNNING'")
        files = files or s3.names(f"{prefix}/lake")
        assert s3.names(f"{prefix}/lake") == files, moment
