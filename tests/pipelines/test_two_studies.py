"""Two studies in one Dagster home, and two homes on one MLflow store: nobody touches the other."""

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from small_study import second_study

from assets.content import content_hash
from assets.lineage import latest
from pipelines.automation import look_at_evidence, look_at_policies, look_at_votes
from pipelines.chain import chain_of
from pipelines.definitions import build_definitions
from pipelines.homes import apart, studies_of_home
from pipelines.launch import Launcher
from pipelines.planning import UP_TO_DATE, steps_of
from pipelines.retention import clean, needed_runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # whole chains, on a busy machine too
ROOT = Path(__file__).parents[2]


@pytest.fixture
def two(write_chain):
    """Two studies of equal content in two folders, on one store of MLflow."""
    strict = "[retention]\ndays = 0\nmodels = 1\n\n[arena]"
    third = '[[policy]]\nname = "arenapo"\nobjective = "arenapo"\n\n'
    study = write_chain(lambda text: text.replace("[arena]", strict).replace(third, ""))
    return study, second_study(study)


def quiet(line):
    del line


def test_a_b_a_recomputes_nothing_and_each_sees_only_its_own(two, instance):
    a, b = two
    first = Launcher(a, instance, quiet)
    made = first.chain()
    assert Launcher(b, instance, quiet).chain() == made
    assert Launcher(a, instance, quiet).chain() == []
    for study in two:
        chain = chain_of(study)
        verdicts = {step.verdict for step in steps_of(study, chain, instance)}
        assert verdicts == {UP_TO_DATE}
        # Equal inputs in another folder have equal versions.
        assert latest(instance, study.key("report"), None).tags["dagster/data_version"]

    # What `clean` of one lets go is none of the other's.
    needed = {study.name: needed_runs(study, chain_of(study), instance) for study in two}
    assert not needed["small"] & needed["second"]
    lake = content_hash(b.lake)
    clean(a, chain_of(a), instance, quiet)
    assert all(instance.get_run_by_id(run) for run in needed["second"])
    assert content_hash(b.lake) == lake
    assert Launcher(b, instance, quiet).chain() == []
    assert Launcher(a, instance, quiet).chain() == []

    # A sensor of one says nothing of the other's run.
    job = build_definitions(b).resolve_job_def(b.called("rate_votes"))
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    context = dg.build_sensor_context(instance=instance)
    for look in (look_at_policies, look_at_evidence):
        assert run.run_id[:8] not in look(a, chain_of(a), context).skip_reason.skip_message
    assert look_at_votes(a, chain_of(a), context, 2e9).skip_reason.skip_message == (
        "the vote files hold nothing new"
    )


def test_one_code_location_serves_both_with_names_of_their_own(two, monkeypatch, tmp_path):
    a, b = two
    monkeypatch.setenv("ARENAPO_STUDIES", os.pathsep.join([str(a.path), str(b.path)]))
    assert [study.name for study in studies_of_home()] == ["small", "second"]
    merged = dg.Definitions.merge(*(build_definitions(study) for study in studies_of_home()))
    repository = merged.get_repository_def()
    assert {job.name for job in repository.get_all_jobs()} >= {
        f"{study.name}__{job}"
        for study in two
        for job in ("rate_votes", "train_and_evaluate", "write_report")
    }
    assert {key.path[0] for key in repository.asset_graph.get_all_asset_keys()} == {
        "small",
        "second",
    }

    # A pattern, and a study with a mistake in it, which leaves the others alone.
    (tmp_path / "broken.toml").write_text("[study")
    pattern = str(tmp_path / "**" / "*.toml")
    monkeypatch.setenv("ARENAPO_STUDIES", pattern)
    assert {study.name for study in studies_of_home()} == {"small", "second"}
    monkeypatch.setenv("ARENAPO_STUDIES", str(tmp_path / "broken.toml"))
    with pytest.raises(ValueError, match=r"broken\.toml"):
        studies_of_home()


def test_two_studies_of_one_name_or_one_lake_are_refused(two):
    a, b = two
    with pytest.raises(ValueError, match="both studies are called small"):
        apart([a, b.model_copy(update={"name": "small"})])
    with pytest.raises(ValueError, match="both write to"):
        apart([a, b.model_copy(update={"lake": a.lake})])


@pytest.mark.slow
def test_five_studies_are_imported_without_anything_heavy(two, tmp_path):
    a, _ = two
    text = a.path.read_text()
    for number in range(5):
        own = text.replace('name = "small"', f'name = "s-{number}"')
        (tmp_path / f"s{number}.toml").write_text(own.replace('"lake"', f'"lake{number}"'))
    code = "import pipelines.definitions as found; print(len(found.defs.jobs))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "ARENAPO_STUDIES": str(tmp_path / "s[0-4].toml"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "25"
