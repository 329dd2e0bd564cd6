"""What `clean` removes and what it leaves: afterwards nothing is recomputed and all is served."""

import hashlib
import os
import time

import dagster as dg
import numpy as np
import polars as pl
import pytest

from assets import inputs
from assets.lake import Lake
from assets.model_registry import champion_of, kept_scores, roll_back, weight_files
from assets.tracking import Tracking
from evaluation.kept import Kept
from pipelines.automation import CLEAN, schedules
from pipelines.chain import chain_of
from pipelines.launch import Launcher
from pipelines.planning import UP_TO_DATE, steps_of
from pipelines.promotion import promote
from pipelines.retention import clean

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # whole chains, on a busy machine too


def strict(text):
    """Two policies; nothing is kept for its age, and one version of a policy."""
    two = text.replace('[[policy]]\nname = "arenapo"\nobjective = "arenapo"\n\n', "")
    return two.replace(
        "[arena]", "[retention]\ndays = 0\nmodels = 1\ntimezone = 'Europe/Berlin'\n\n[arena]"
    )


def files(folder):
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in (".db-shm", ".db-wal")
    }


@pytest.fixture
def launcher(write_chain, instance):
    made = Launcher(write_chain(strict), instance, lambda line: None)
    made.chain()
    return made


def test_what_is_old_goes_and_what_is_needed_stays(launcher, instance):
    study, lake, said = launcher.study, launcher.lake, []
    client = Tracking.of(study).client()
    assert str(champion_of(client, study.name).version) == "1"
    for _ in range(2):  # versions 2 and 3 of the same policy; 1 is the champion
        launcher.run("train_and_evaluate", ["policy"], "dpo")
    (lake.current("policies", "dpo") / "checkpoints").mkdir()
    (lake.current("policies", "dpo") / "checkpoints" / "step").write_text("x" * 1000)
    (lake.current("policies", "dpo") / "result.json").write_text("{}")
    (lake.folder("policies", "dpo", "stopped") / "weights").write_text("x" * 100)
    (lake.folder("generations", "gone", "1") / "image").write_text("x" * 10)
    experiment = client.get_experiment_by_name(study.name).experiment_id
    runs = len(client.search_runs([experiment]))
    dagster_runs = instance.get_runs_count()

    before = files(study.path.parent)
    looked = clean(study, chain_of(study), instance, said.append, dry_run=True)
    assert files(study.path.parent) == before
    told = [line.split()[:2] for line in looked.splitlines()]
    assert ["checkpoints", "1"] in told
    assert ["unfinished", "work"] in told
    assert "would free" in looked

    done = clean(study, chain_of(study), instance, said.append)
    assert done.splitlines()[:-1] == looked.splitlines()[:-1]
    assert not (lake.root / "policies" / "dpo" / "stopped").exists()
    assert not (lake.root / "generations" / "gone").exists()
    assert not (lake.current("policies", "dpo") / "checkpoints").exists()
    assert {str(v.version) for v in client.search_model_versions("")} == {"1", "3"}
    left = client.search_runs([experiment])
    assert runs - len(left) == 1  # the training of version 2
    store = Tracking.of(study).folder / "artifacts" / study.name
    weights = {path.parent for path in store.rglob("*.safetensors")}
    assert len(weights) == 2
    kept = {path.relative_to(store).parts[0] for path in store.rglob("*") if path.is_file()}
    assert kept <= {run.info.run_id for run in left} | {"models"}
    assert instance.get_runs_count() < dagster_runs

    # What serves is served, what could be rolled back can be, and nothing is made again.
    standing = champion_of(client, study.name)
    assert weight_files(client, standing)
    assert kept_scores(client, standing).height == 24
    assert {step.verdict for step in steps_of(study, chain_of(study), instance)} == {UP_TO_DATE}
    assert launcher.chain() == []
    again = clean(study, chain_of(study), instance, said.append)  # what that chain left
    assert "model" not in again
    assert launcher.chain() == []
    assert "(dpo) is champion" in promote(study, chain_of(study), instance, "3")
    clean(study, chain_of(study), instance, said.append)
    assert roll_back(client, study.name) == "1"


def test_nothing_is_removed_while_a_run_goes_on_nor_what_it_could_go_on_from(
    write_study, instance, tmp_path
):
    launcher = Launcher(write_study(strict), instance, lambda line: None)
    study, lake = launcher.study, launcher.lake
    columns = ("vote_id", "prompt", "image_winner", "image_loser", "split")
    lake.write("training_set", pl.DataFrame({name: ["x"] for name in columns}))
    going_on = lake.folder("policies", "dpo", inputs.recipe(study, "dpo"))
    given_up = lake.folder("policies", "dpo", "other")
    for folder in (going_on, given_up):
        (folder / "checkpoint").write_text("x")
    job = launcher.definitions.resolve_job_def("small__observe_inputs")
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    with pytest.raises(ValueError, match=f"run {run.run_id} of small__observe_inputs is going on"):
        clean(study, chain_of(study), instance, print)
    assert given_up.exists()
    (nightly_clean,) = schedules(study)
    assert nightly_clean.execution_timezone == "Europe/Berlin"
    with dg.build_schedule_context(instance=instance) as context:
        assert "is going on" in nightly_clean(context).skip_message
        instance.report_run_failed(run)
        assert isinstance(nightly_clean(context), dg.RunRequest)

    done = launcher.definitions.resolve_job_def(study.called(CLEAN)).execute_in_process(
        instance=instance
    )
    assert done.success
    assert going_on.exists()
    assert not given_up.exists()


def test_the_caches_lose_what_belongs_to_no_picture_any_more(write_study, instance):
    study = write_study(strict)
    lake = Lake(study.lake)
    for name in ("now", "before"):
        (lake.root / "cache" / "ksort" / name).mkdir(parents=True)
    shown = lake.folder("generations", "base", "now") / "a.png"
    shown.write_bytes(b"a picture")
    lake.publish("generations", "base", "now")
    digest = hashlib.sha256(b"a picture").hexdigest()
    kept = Kept(lake.root / "cache" / "scores.sqlite")
    kept.put("scorer", {(digest, "p"): np.ones(1), ("0" * 64, "p"): np.ones(1)})
    kept.connection.close()
    said = clean(study, chain_of(study), instance, print)
    assert [line.split()[:2] for line in said.splitlines()[:-1]] == [
        ["pictures", "for"],
        ["scores", "of"],
    ]
    left = Kept(lake.root / "cache" / "scores.sqlite")
    found, _ = left.get("scorer", [(digest, "p"), ("0" * 64, "p")])
    assert list(found) == [(digest, "p")]
    assert [path.name for path in (lake.root / "cache" / "ksort").iterdir()] == ["now"]
    assert "would free 0 B" in clean(study, chain_of(study), instance, print, dry_run=True)


def test_what_is_young_stays(write_study, instance, tmp_path):
    launcher = Launcher(write_study(), instance, lambda line: None)
    study = launcher.study
    for _ in range(2):
        launcher.run("observe_inputs", ["vote_files"])
    leftover = launcher.lake.folder("policies", "dpo", "other") / "weights"
    leftover.write_text("x" * 2000)
    assert clean(study, chain_of(study), instance, print) == "freed 0 B of small"
    long_ago = time.time() - 91 * 24 * 3600
    for path in (leftover, leftover.parent):
        os.utime(path, (long_ago, long_ago))
    assert (
        clean(study, chain_of(study), instance, print).splitlines()[-1] == "freed 2.0 kB of small"
    )
    assert instance.get_runs_count() == 2
