"""A blocking check that said no blocks everything downstream, for whoever asks, until it passes."""

import dagster as dg
import polars as pl
import pytest

from assets import gaps as stage
from assets.lineage import Blocked, latest, obstacles, told
from assets.model_registry import champion_of, versions
from assets.tracking import Tracking
from pipelines.automation import look_at_evidence, look_at_policies
from pipelines.chain import chain_of
from pipelines.launch import Launcher, StageFailed
from pipelines.planning import BLOCKED, steps_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # whole chains, on a busy machine too
DOWNSTREAM = ("training_set", "evaluation_prompts", "policy", "generations", "scorecard", "report")


@pytest.fixture
def spoiled(monkeypatch):
    """A switch: while it is on, one gap of every run is no number."""
    real, on = stage.gaps_by, [True]

    def one_is_missing(*arguments):
        found, joint = real(*arguments)
        bad = pl.when(pl.int_range(pl.len()) == 3).then(float("nan")).otherwise("gap")
        return found.with_columns(gap=bad) if on[0] else found, joint

    monkeypatch.setattr(stage, "gaps_by", one_is_missing)
    return on


def test_what_a_check_forbade_stays_forbidden_until_it_passes_for_newer_gaps(
    write_chain, instance, spoiled, votes_table
):
    said = []
    launcher = Launcher(write_chain(), instance, said.append)
    study, chain = launcher.study, chain_of(launcher.study)
    for _ in range(2):  # the second try is no better than the first
        with pytest.raises(StageFailed, match=r"gaps_are_positive_and_finite of gaps .*bad: 1"):
            launcher.chain()
    assert any("gaps_are_positive_and_finite of gaps failed" in line for line in said)
    for name in DOWNSTREAM:
        assert latest(instance, study.key(name), None) is None

    plan = {(step.stage, step.policy): step for step in steps_of(study, chain, instance)}
    assert plan["gaps", None].verdict != BLOCKED
    for name, policy in (("training_set", None), ("policy", "dpo"), ("report", None)):
        assert plan[name, policy].verdict == BLOCKED
        assert "gaps_are_positive_and_finite" in plan[name, policy].why

    # The page's button: a job over what is downstream alone.
    job = launcher.definitions.resolve_job_def("small__rate_votes")
    asked = job.execute_in_process(
        instance=instance, asset_selection=[study.key("training_set")], raise_on_error=False
    )
    assert not asked.success
    context = dg.build_sensor_context(instance=instance)
    assert not look_at_policies(study, chain, context).run_requests
    assert not look_at_evidence(study, chain, context).run_requests

    spoiled[0] = False
    votes_table(700, seed=1).write_parquet(study.votes.sources[0])
    assert launcher.rate()[-1] == "evaluation_prompts"
    assert obstacles(instance, study, chain, "report", None) == []


def test_one_policys_failed_check_stops_that_policy_and_no_other(write_chain, instance):
    # The one that would be the best of all.
    launcher = Launcher(write_chain(spoiled=["arenapo"]), instance, lambda line: None)
    with pytest.raises(StageFailed, match=r"weights_are_finite of policy\[arenapo\] failed: .*up"):
        launcher.chain()
    study, chain = launcher.study, chain_of(launcher.study)
    assert latest(instance, study.key("generations"), "arenapo") is None
    for policy, free in (("arenapo", False), ("dpo", True)):
        assert (not obstacles(instance, study, chain, "generations", policy)) == free
    job = launcher.definitions.resolve_job_def("small__train_and_evaluate")
    said = r"generations\[arenapo\] does not run: check weights_are_finite"
    with pytest.raises(Blocked, match=said):
        job.execute_in_process(
            instance=instance, partition_key="arenapo", asset_selection=[study.key("generations")]
        )
    # It is nobody's candidate; the other one goes on, to champion and report.
    registry = Tracking.of(study).client()
    assert [each.tags["policy"] for each in versions(registry, "small")] == ["dpo"]
    assert champion_of(registry, "small").tags["policy"] == "dpo"
    assert told(instance, study, "champion", None)["decision"].startswith("dpo is champion")
    assert sorted(launcher.lake.read("report")["policy"]) == ["base", "dpo"]


def test_a_check_that_was_killed_is_evaluated_before_anything_follows(write_study, instance):
    launcher = Launcher(write_study(), instance, lambda line: None)
    launcher.rate()
    study = launcher.study
    made = latest(instance, study.key("training_set"), None)
    # A materialisation whose process died before its check: recorded, and not checked.
    instance.report_runless_asset_event(
        dg.AssetMaterialization(
            study.key("training_set"), metadata=made.metadata, tags=dict(made.tags)
        )
    )
    assert launcher.rate() == ["training_set", "evaluation_prompts"]
    assert launcher.rate() == []
