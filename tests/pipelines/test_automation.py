"""New votes and moved arenas: what starts by itself, what does not, and what the page says."""

import json
import os
import time

import dagster as dg
import polars as pl
import pytest
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.remote_origin import (
    InProcessCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from assets.lake import Lake
from assets.movement import TRAINED_ON, movement
from assets.study import read_study
from assets.votes import BY_SENSOR
from pipelines.automation import look_at_evidence, look_at_policies, look_at_votes
from pipelines.chain import chain_of
from pipelines.launch import Launcher

SECTION = (
    '[automation]\nvotes = 50\nhours = 2.0\nretrain_above = 0.1\n\n[arena]\nestimator = "trueskill"'
)


def with_automation(text):
    return text.replace("[arena]", SECTION).replace('["votes.parquet"]', '["landing"]')


@pytest.fixture
def landing(tmp_path, votes_table):
    folder = tmp_path / "landing"
    folder.mkdir()
    votes_table(600).write_parquet(folder / "0.parquet")
    return folder


@pytest.fixture
def launcher(write_study, instance, landing):
    return Launcher(write_study(with_automation), instance, lambda line: None)


def rate(launcher):
    return launcher.rate()


START = time.time()


def look(launcher, cursor, now):
    context = dg.build_sensor_context(instance=launcher.instance, cursor=cursor)
    for path in (launcher.study.path.parent / "landing").iterdir():
        os.utime(path, (START - 1000, START - 1000))  # not being written any more
    return look_at_votes(launcher.study, chain_of(launcher.study), context, START + now)


def run_asked_for(launcher, result):
    """Do what the daemon does with a look: keep its observations and run what it asks for."""
    for event in result.asset_events:
        launcher.instance.report_runless_asset_event(event)
    for request in result.run_requests:
        job = launcher.definitions.resolve_job_def("small__rate_votes")
        tags = {key: value for key, value in request.tags.items() if key != BY_SENSOR}
        assert job.execute_in_process(instance=launcher.instance, tags=tags).success


def test_votes_are_rated_when_enough_wait_or_long_enough(launcher, landing, votes_table):
    first = look(launcher, None, now=0)
    assert len(first.run_requests) == 1
    run_asked_for(launcher, first)
    assert "hold nothing new" in look(launcher, first.cursor, now=30).skip_reason.skip_message

    votes_table(20, seed=1).write_parquet(landing / "1.parquet")
    few = look(launcher, first.cursor, now=100)
    assert few.skip_reason.skip_message.startswith("20 new rows wait for 0.00 h")
    # The same batch again under another name is no new content, and few stay few.
    votes_table(20, seed=1).write_parquet(landing / "again.parquet")
    assert not look(launcher, few.cursor, now=200).run_requests

    votes_table(40, seed=2).write_parquet(landing / "2.parquet")
    assert look(launcher, few.cursor, now=300).run_requests
    late = look(launcher, few.cursor, now=100 + 2 * 3600)
    run_asked_for(launcher, late)
    assert launcher.lake.read("votes").height == 660
    assert "nothing new" in look(launcher, late.cursor, now=10**4).skip_reason.skip_message


def test_a_run_that_failed_is_asked_for_again_with_growing_pauses(launcher):
    asked = look(launcher, None, now=0)  # and the run is never seen again
    soon = look(launcher, asked.cursor, now=60)
    assert "failed 1 times; tried again in 240 s" in soon.skip_reason.skip_message
    again = look(launcher, soon.cursor, now=301)
    assert again.run_requests
    assert not look(launcher, again.cursor, now=700).run_requests
    assert look(launcher, again.cursor, now=1000).run_requests


@pytest.mark.parametrize("status", ["QUEUED", "STARTED"])
def test_nothing_is_asked_for_while_votes_are_being_rated(status, launcher):
    job = launcher.definitions.resolve_job_def("small__rate_votes")
    # Where a queued run will be loaded from: the store asks for it.
    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="pipelines"))
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(location, "__repository__"), job.name)
    pointer = ModuleCodePointer("pipelines.definitions", "defs", None)
    code = JobPythonOrigin(job.name, RepositoryPythonOrigin("python", pointer))
    launcher.instance.create_run_for_job(
        job,
        status=dg.DagsterRunStatus[status],
        remote_job_origin=origin,
        job_code_origin=code,
    )
    assert "is rating votes" in look(launcher, None, now=0).skip_reason.skip_message


def test_a_file_younger_than_a_minute_waits_for_the_next_look(launcher, landing, votes_table):
    context = dg.build_sensor_context(instance=launcher.instance)
    study, chain = launcher.study, chain_of(launcher.study)
    young = look_at_votes(study, chain, context, time.time())
    assert "no votes yet (1 are younger than a minute)" in young.skip_reason.skip_message
    old = time.time() - 100
    os.utime(landing / "0.parquet", (old, old))
    votes_table(100, seed=5).write_parquet(landing / "1.parquet")
    asked = look_at_votes(study, chain, context, time.time())
    job = launcher.definitions.resolve_job_def("small__rate_votes")
    tags = asked.run_requests[0].tags
    assert job.execute_in_process(instance=launcher.instance, tags=tags).success
    assert launcher.lake.read("votes").height == 600  # the young one is still being written
    (landing / "2.csv").write_text("")
    os.utime(landing / "1.parquet", (old, old))
    again = look_at_votes(study, chain, context, time.time())
    assert again.run_requests


def test_an_empty_landing_folder_is_nothing_yet(launcher, landing):
    (landing / "0.parquet").unlink()
    assert "no votes yet" in look(launcher, None, now=0).skip_reason.skip_message


def look_at(launcher, cursor=None):
    context = dg.build_sensor_context(instance=launcher.instance, cursor=cursor)
    return look_at_policies(launcher.study, chain_of(launcher.study), context)


def test_a_policy_is_trained_again_once_and_only_when_its_set_moved_enough(launcher):
    rate(launcher)
    assert "dpo: never trained" in look_at(launcher).skip_reason.skip_message
    pairs = launcher.lake.read("training_set")
    for name, old in {"dpo": pairs, "arenapo": pairs}.items():
        folder = launcher.lake.folder("policies", name, "1")
        old.write_parquet(folder / TRAINED_ON)
        launcher.lake.publish("policies", name, "1")
    still = look_at(launcher).skip_reason.skip_message
    assert "change 0.000, not above 0.1" in still

    # Only the gaps move: that concerns the policy that is trained by them.
    half = pl.when(pl.int_range(pl.len()) % 2 == 0).then(2.0).otherwise(0.5) * pl.col("gap")
    for name, old in {"dpo": pairs, "arenapo": pairs}.items():
        old.with_columns(gap=half).write_parquet(
            launcher.lake.current("policies", name) / TRAINED_ON
        )
    asked = look_at(launcher)
    assert [request.partition_key for request in asked.run_requests] == ["arenapo"]
    assert "above 0.1" in asked.run_requests[0].tags["arenapo/why"]
    again = look_at(launcher, asked.cursor)
    assert not again.run_requests
    assert "asked for already" in again.skip_reason.skip_message
    assert set(json.loads(asked.cursor)) == {"arenapo"}


def test_the_measure_of_movement():
    old = pl.DataFrame(
        {
            "vote_id": ["1", "2", "3"],
            "image_winner": ["a", "b", "c"],
            "image_loser": ["x", "y", "z"],
            "gap": [1.0, 1.0, 1.0],
            "split": "train",
        }
    )
    assert movement(old, old, "gap").change == 0.0
    assert movement(old, old.with_columns(gap=3.0), "gap").change == 0.0
    new = pl.concat([old[:2], old[2:].with_columns(vote_id=pl.lit("4"))])
    found = movement(old, new, "gap")
    assert (found.common, found.came, found.went, found.change) == (2, 1, 1, 0.5)
    turned = old.with_columns(gap=pl.Series([0.5, 1.0, 1.5]))
    assert movement(old, turned, "gap").change == pytest.approx(1 / 3)
    assert movement(old, turned, None).change == 0.0
    # Where margins are spread to 3 means, so is what an unlike gap moves them by.
    swapped = turned.with_columns(gap=turned["gap"].reverse())
    deviation = turned["gap"].std(ddof=0)
    expected = 3 * movement(turned, swapped, "gap").change / deviation
    assert movement(turned, swapped, "gap", spread=3.0).change == pytest.approx(expected)


def look_at_scores(launcher, cursor=None):
    study = read_study(launcher.study.path)
    context = dg.build_sensor_context(instance=launcher.instance, cursor=cursor)
    return look_at_evidence(study, chain_of(study), context)


def asked_for(result):
    return [
        (each.partition_key, [key.path[-1] for key in each.asset_selection])
        for each in result.run_requests
    ]


def test_scores_champion_and_report_follow_their_inputs_by_content(finished, instance):
    launcher = Launcher(finished, instance, lambda line: None)
    folder = launcher.study.path.parent
    settled = look_at_scores(launcher)
    assert settled.skip_reason.skip_message == "everything is up to date"
    launcher.run("train_and_evaluate", ["scorecard"], "dpo")  # the same content again
    assert not look_at_scores(launcher).run_requests

    # Another scorer's weights renew every scorecard and rating, and the prompts stay as they are.
    (folder / "scorer" / "result.json").write_text('{"other": "weights"}')
    moved = look_at_scores(launcher)
    assert asked_for(moved) == [(None, ["evaluation_prompts"])]
    for event in moved.asset_events:
        instance.report_runless_asset_event(event)
    launcher.run("rate_votes", ["evaluation_prompts"])
    scores = [(name, ["scorecard", "ksort_rating"]) for name in ("base", "dpo", "arenapo")]
    assert asked_for(look_at_scores(launcher)) == scores
    for name, stages in scores:
        launcher.run("train_and_evaluate", stages, name)

    fake = folder / "fake.json"
    fake.write_text(fake.read_text().replace('"dpo": 0.7', '"dpo": 0.6'))
    launcher.run("train_and_evaluate", ["scorecard"], "dpo")
    assert asked_for(look_at_scores(launcher)) == [(None, ["champion", "report", "summary"])]


def test_a_lake_without_a_training_set_asks_for_nothing(launcher):
    assert "no training set" in look_at(launcher).skip_reason.skip_message
    assert not Lake(launcher.study.lake).table("training_set").exists()
