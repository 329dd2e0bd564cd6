"""Votes to training set, in this process: what is recorded, what is recomputed, what fails how."""

import dagster as dg
import duckdb
import polars as pl
import pytest

from assets.dagster_internals import store_id
from assets.lake import Lake
from assets.lineage import RUN_ID, RUN_LINK, latest
from assets.tracking import Tracking
from pipelines.chain import RATE, chain_of, of_job
from pipelines.launch import Launcher, StageFailed


@pytest.fixture
def launcher(write_study, instance):
    said = []
    made = Launcher(write_study(), instance, said.append)
    made.said = said
    return made


def bring_up_to_date(launcher):
    return launcher.rate()


def arena(launcher):
    return of_job(chain_of(launcher.study), RATE)


def client_of(study):
    return Tracking.of(study).client()


def runs_of(study):
    client = client_of(study)
    experiment = client.get_experiment_by_name(study.name)
    return client.search_runs([experiment.experiment_id]) if experiment else []


def test_the_chain_fills_the_lake_and_links_every_run_both_ways(launcher, instance):
    assert bring_up_to_date(launcher) == arena(launcher)
    lake = Lake(launcher.study.lake)
    accepted = lake.read("votes").height
    with duckdb.connect(str(lake.warehouse), read_only=True) as warehouse:
        counts = [
            warehouse.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0]
            for table in ("votes", "gaps", "ratings")
        ]
    assert counts == [accepted, accepted, 6]

    runs = {run.data.tags["dagster.asset"]: run for run in runs_of(launcher.study)}
    assert set(runs) == set(arena(launcher))
    for name, run in runs.items():
        materialised = latest(instance, launcher.study.key(name), None)
        assert run.info.status == "FINISHED"
        assert materialised.metadata[RUN_ID].value == run.info.run_id
        link = materialised.metadata[RUN_LINK]
        assert isinstance(link, dg.UrlMetadataValue)
        page = f"/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
        assert link.value == launcher.study.tracking.pages + page
        assert instance.get_run_by_id(run.data.tags["dagster.run_id"]).is_success
        assert run.data.tags["data_version"] == materialised.tags["dagster/data_version"]
    assert runs["gaps"].data.tags["upstream.ratings"] == runs["ratings"].info.run_id
    assert runs["ratings"].data.params["estimator"] == "trueskill"
    assert runs["ratings"].inputs.dataset_inputs[0].dataset.name == "votes"
    assert launcher.said == [line for line in launcher.said if "check" not in line]


def test_a_second_run_recomputes_nothing(launcher):
    bring_up_to_date(launcher)
    before = len(runs_of(launcher.study))
    assert bring_up_to_date(launcher) == []
    assert len(runs_of(launcher.study)) == before


def test_new_votes_make_every_stage_behind(launcher, votes_table):
    bring_up_to_date(launcher)
    votes_table(700, seed=1).write_parquet(launcher.study.votes.sources[0])
    assert bring_up_to_date(launcher) == arena(launcher)
    assert Lake(launcher.study.lake).read("gaps").height == 700


def test_touching_the_votes_without_changing_them_recomputes_nothing(launcher):
    bring_up_to_date(launcher)
    source = launcher.study.votes.sources[0]
    source.write_bytes(source.read_bytes())
    assert bring_up_to_date(launcher) == []


def test_another_spread_recomputes_the_gaps_but_not_the_ratings(launcher, write_study, instance):
    bring_up_to_date(launcher)
    other = write_study(lambda text: text.replace('"posterior"', '"predictive"'))
    assert bring_up_to_date(Launcher(other, instance, print)) == [
        "gaps",
        "training_set",
        "evaluation_prompts",
    ]


def test_a_table_deleted_from_the_lake_is_made_again(launcher):
    bring_up_to_date(launcher)
    Lake(launcher.study.lake).warehouse.unlink()
    assert bring_up_to_date(launcher) == ["gaps", "training_set", "evaluation_prompts"]
    assert Lake(launcher.study.lake).warehouse.exists()


def test_votes_that_cannot_be_read_leave_a_failed_run_with_the_reason(launcher):
    launcher.study.votes.sources[0].write_text("model_a,model_b\nx,y\n")
    with pytest.raises(StageFailed, match="outcome"):
        launcher.rate()
    (run,) = runs_of(launcher.study)
    assert run.info.status == "FAILED"
    assert "outcome" in run.data.tags["error"]


def test_a_run_whose_process_was_killed_does_not_stay_running(launcher):
    study = launcher.study
    client = client_of(study)
    experiment = client.create_experiment(study.name, artifact_location=str(study.tracking.store))
    of = {
        name: client.create_run(experiment, tags={"dagster.run_id": "gone", "dagster.home": home})
        for name, home in {"own": store_id(launcher.instance), "other": "another home"}.items()
    }
    bring_up_to_date(launcher)
    status = {name: client.get_run(run.info.run_id).info.status for name, run in of.items()}
    # A run of another home on this store may live: it is that home's to close.
    assert status == {"own": "FAILED", "other": "RUNNING"}


def test_a_blocking_check_stops_the_chain(launcher, monkeypatch):
    from assets import gaps as stage

    def one_is_missing(*arguments):
        found, joint = real(*arguments)
        bad = pl.when(pl.int_range(pl.len()) == 3).then(float("nan")).otherwise("gap")
        return found.with_columns(gap=bad), joint

    real = stage.gaps_by
    monkeypatch.setattr(stage, "gaps_by", one_is_missing)
    with pytest.raises(StageFailed):
        bring_up_to_date(launcher)
    assert not Lake(launcher.study.lake).table("training_set").exists()
    assert any("gaps_are_positive_and_finite" in line for line in launcher.said)
