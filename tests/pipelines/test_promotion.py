"""The whole chain once, with jobs that take milliseconds: who becomes champion, and from what."""

import json

import mlflow
import polars as pl
import pytest

from assets.champion import decide_now
from assets.lineage import DATA_VERSION, latest, told
from assets.model_registry import champion_of, kept_scores, pinned, weight_files
from assets.study import read_study
from assets.tracking import Tracking
from assets.verdict import RULES
from pipelines.chain import chain_of
from pipelines.launch import Launcher, StageFailed
from pipelines.promotion import promote

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # whole chains, on a busy machine too


@pytest.fixture
def launcher(finished, instance):
    return Launcher(finished, instance, lambda line: None)


def fake(launcher, **settings):
    """Change what the stand-ins do from now on."""
    path = launcher.study.path.parent / "fake.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def decision(launcher):
    study = launcher.study
    client = Tracking.of(study).client()
    return decide_now(study, chain_of(study), client, launcher.instance)


def test_the_best_policy_is_champion_by_the_rule_and_what_it_rests_on_is_recorded(
    launcher, instance
):
    study, lake = launcher.study, launcher.lake
    client = Tracking.of(study).client()
    said = told(instance, study, "champion", None)
    assert said["decision"].startswith("arenapo is champion")
    assert said["rule"] == RULES["scores"]
    assert "| arenapo |" in said["challengers"]
    standing = champion_of(client, study.name)
    assert standing.tags["policy"] == "arenapo"
    assert (
        latest(instance, study.key("champion"), None).tags[DATA_VERSION]
        == (standing.tags["data_version"])
    )
    folder = mlflow.artifacts.download_artifacts(
        f"models:/{study.name}@champion", tracking_uri=Tracking.of(study).uri
    )
    kept = lake.current("policies", "arenapo") / "policy" / "pytorch_lora_weights.safetensors"
    loaded = (lake.root / folder).rglob("*.safetensors")
    assert [path.read_bytes() for path in loaded] == [kept.read_bytes()]
    assert weight_files(client, standing)
    for name in ("dpo", "arenapo"):
        found = client.get_model_version_by_alias(study.name, f"candidate-{name}")
        assert found.tags["policy"] == name

    assert told(instance, study, "report", None)["prompts_in_training"] == 0
    report = {row["policy"]: row["verdict"] for row in lake.read("report").iter_rows(named=True)}
    assert report == {"arenapo": "better", "dpo": "better", "base": "the baseline"}
    page = (lake.root / "reports" / "comparison.html").read_text()
    assert "None of the prompts occur among the training prompts" in page

    summary = (lake.root / "reports" / "summary.md").read_text()
    assert "arenapo against dpo: wins" in summary
    assert summary.strip().endswith(f"Champion: {said['decision']}.")

    lineage = lake.read("lineage").filter(pl.col("policy").fill_null("") == "arenapo")
    row = lineage.filter(pl.col("asset") == "policy").row(0, named=True)
    run = client.get_run(row["mlflow_run"])
    assert run.data.tags["dagster.run_id"] == row["dagster_run"]
    assert run.data.tags["data_version"] == row["content"] == standing.tags["data_version"]
    assert run.data.tags["mlflow.source.git.commit"]
    assert run.data.tags["code_version"]
    scored = lineage.filter(pl.col("asset") == "scorecard").row(0, named=True)
    compared = client.get_run(scored["mlflow_run"])
    assert compared.data.tags["mlflow.parentRunId"] == run.info.run_id
    assert {"objective", "gap_estimator", "gamma", "beta_dpo", "steps"} <= set(compared.data.params)
    assert {"miniature.win_rate_low", "miniature.mean_high"} <= set(compared.data.metrics)
    model = client.get_logged_model(said_of(instance, study, "policy", "arenapo"))
    on = {each.key: each.dataset_name for each in model.metrics}
    assert on["miniature.win_rate"] == "evaluation_prompts"
    assert on["final.held_out_accuracy"] == "training_set"

    # What lost is no challenger that wins later by being asked again.
    again = decision(launcher)
    assert again.version is None
    assert "no policy is shown to be better than the champion" in again.said
    assert kept_scores(client, standing).height == 24


def said_of(instance, study, stage, policy):
    return told(instance, study, stage, policy)["mlflow_model_id"]


def test_a_persons_word_stands_until_the_person_takes_it_back(launcher, instance):
    study, chain = launcher.study, chain_of(launcher.study)
    client = Tracking.of(study).client()
    first = champion_of(client, study.name)
    assert "(dpo) is champion" in promote(study, chain, instance, "dpo")
    assert champion_of(client, study.name).tags["policy"] == "dpo"
    assert "by hand" in told(instance, study, "champion", None)["decision"]
    # The next scorecards say that another one is better: what is pinned stays.
    fake(launcher, quality={"base": 0.5, "dpo": 0.4, "arenapo": 0.95})
    for name in ("dpo", "arenapo"):
        launcher.run("train_and_evaluate", ["scorecard"], name)
    launcher.run("write_report", ["champion", "report", "summary"])
    assert champion_of(client, study.name).tags["policy"] == "dpo"
    assert "a person pinned version" in told(instance, study, "champion", None)["decision"]
    assert launcher.chain() == []

    promote(study, chain, instance, "--unpin")
    assert pinned(client, study.name) is None
    assert decision(launcher).version == str(first.version)
    with pytest.raises(ValueError, match="nothing is pinned"):
        promote(study, chain, instance, "--unpin")

    assert "is champion again" in promote(study, chain, instance, "--back")
    assert champion_of(client, study.name).version == first.version
    with pytest.raises(ValueError, match="no version or policy 'dop'; there are 1 "):
        promote(study, chain, instance, "dop")


def test_nobody_is_crowned_by_the_scores_of_weights_before(launcher, instance):
    study = launcher.study
    client = Tracking.of(study).client()
    before = told(instance, study, "policy", "dpo")
    # dpo is trained again, and its new generations fail their check: a picture is missing.
    text = study.path.read_text()
    study.path.write_text(text.replace("batch_size = 4", "batch_size = 8"))
    fake(launcher, loses_a_picture=["dpo"], quality={"base": 0.5, "dpo": 2.0, "arenapo": 0.6})
    again = Launcher(read_study(study.path), instance, lambda line: None)
    with pytest.raises(StageFailed, match=r"every_image_is_there of generations\[dpo\] failed"):
        again.chain()
    now = told(instance, study, "policy", "dpo")
    assert now["mlflow_model_version"] != before["mlflow_model_version"]
    # A scorecard made by hand of the old images, with the best scores of all.
    said = decision(again)
    assert said.version is None or said.version != str(now["mlflow_model_version"])
    assert "dpo" not in said.table["policy"]
    assert sorted(again.lake.read("report")["policy"]) == ["arenapo", "base"]
    model = client.get_logged_model(now["mlflow_model_id"])
    assert not [each for each in model.metrics if each.key.startswith("miniature.")]

    # Mended, it is drawn and scored, and these are the new version's own.
    fake(again, loses_a_picture=[])
    again.run("train_and_evaluate", ["generations", "scorecard", "ksort_rating"], "dpo")
    model = client.get_logged_model(now["mlflow_model_id"])
    assert [each for each in model.metrics if each.key == "miniature.win_rate"]
    again.run("write_report", ["champion", "report", "summary"])
    assert str(champion_of(client, study.name).version) == str(now["mlflow_model_version"])


def test_other_weights_of_a_scorer_are_another_yardstick(launcher):
    weights = launcher.study.path.parent / "scorer" / "result.json"
    sound = weights.read_text()
    weights.write_text('{"other": "weights"}')
    assert decision(launcher).said.startswith("nobody challenges the champion")
    launcher.run("train_and_evaluate", ["scorecard"], "dpo")
    apart = decision(launcher)
    assert apart.version is None
    assert "was scored on other prompts, by another scorer or never" in apart.said
    weights.write_text(sound)
    launcher.run("train_and_evaluate", ["scorecard"], "dpo")
    assert "no policy is shown" in decision(launcher).said
