"""Dagster's and MLflow's real pages in a real browser, pressed as a person presses them.

The walk is the one that takes the docs' pictures (docs/pictures.py).
"""

import shutil

import dagster as dg
import pytest
from PIL import Image
from served import make_home, served, wait_until
from small_study import second_study

from assets import jobs
from assets.content import files_of
from assets.tracking import Tracking
from pipelines.launch import Launcher

CHROMIUM = shutil.which("chromium")
pytest.importorskip("playwright", reason="playwright is not installed")
import pictures  # noqa: E402  (docs/ is on the tests' path)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium"),
]


def runs_of(instance, tag):
    return [run for run in instance.get_runs() if tag in run.tags]


def written(lake):
    """Return when each table that rate_votes writes was written last."""
    tables = ("votes", "ratings", "gaps")
    return {file: file.stat().st_mtime_ns for name in tables for _, file in files_of(lake / name)}


def steps(study):
    return (study.path.parent / "steps.log").read_text().splitlines()


@pytest.mark.long
def test_a_person_presses_the_buttons(write_chain, tmp_path):
    study = write_chain()
    other = second_study(study)
    home = make_home(tmp_path / "home")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        Launcher(study, instance, print).chain()
        Launcher(other, instance, print).chain()
    client = Tracking.of(study).client()
    experiment = client.get_experiment_by_name(study.name).experiment_id

    with (
        served([study.path, other.path], home) as (pages, instance),
        pictures.walking(pages.dagster, pages.mlflow, str(CHROMIUM)) as tab,
    ):
        # Materialise, watch, and go by the metadata's link to the run in MLflow.
        walk = tab()
        run = walk.materialise("small/ratings")
        walk.watch(run, "Success")
        assert instance.get_run_by_id(run).is_success
        assert walk.tracked("small/ratings") == "ratings"

        # Select the scorecards and compare them; then the docs' pictures, by the report's link.
        walk.select_scorecards(experiment)
        for policy in study.policies:
            assert walk.page.get_by_text(f"scorecard[{policy}]").first.is_visible()
        for name, show in pictures.pictures("small", "arenapo").items():
            path = pictures.take(name, show, tab(), tmp_path)
            with Image.open(path) as image:
                assert len(image.convert("RGB").getcolors(1 << 24)) > 100, name

        # All policies at once: one after the other in the pool.
        settings = study.path.parent / "fake.json"
        told = settings.read_text()
        settings.write_text(told.replace('"steps": 3, "pause": 0.0', '"steps": 12, "pause": 0.1'))
        before = len(steps(study))
        walk.backfill("small/policy")
        wait_until(
            lambda: sum(run.is_success for run in runs_of(instance, "dagster/backfill")) == 3,
            "the backfill's three runs succeed",
        )
        trained = [line.split() for line in steps(study)[before:]]
        assert [line[2] for line in trained] == ["begins", "ends"] * 2
        assert [line[:2] for line in trained[::2]] == [line[:2] for line in trained[1::2]]
        assert {line[0] for line in trained} == {"dpo", "arenapo"}

        # Cancelled from the page: the job saves and stops, MLflow's run is KILLED, the pool free.
        settings.write_text(told.replace('"steps": 3, "pause": 0.0', '"steps": 9999, "pause": 0.1'))
        before = len(steps(study))
        run = pages.launch("train_and_evaluate", "dpo")
        wait_until(lambda: len(steps(study)) > before, "the job begins")
        walk.cancel(run)
        wait_until(lambda: "stops after" in steps(study)[-1], "the job saves and stops")
        walk.watch(run, "Canceled")
        assert instance.get_run_by_id(run).status == dg.DagsterRunStatus.CANCELED
        (tracked,) = client.search_runs([experiment], f"tags.`dagster.run_id` = '{run}'")
        assert tracked.info.status == "KILLED"
        pool = instance.event_log_storage.get_concurrency_info(jobs.POOL)
        assert (pool.slot_count, pool.active_slot_count) == (1, 0)
        # The other study's button: only its own lake is written.
        settings.write_text(told)
        mine, theirs = written(study.lake), written(other.lake)
        run = pages.launch("rate_votes", study="second")
        wait_until(lambda: instance.get_run_by_id(run).is_success, "the second study's run")
        assert written(study.lake) == mine
        assert written(other.lake).items().isdisjoint(theirs.items())
    assert (study.lake / "policies" / "dpo" / "current").exists()
