"""The whole chain once, with jobs that take milliseconds: who becomes champion, and from what."""

import mlflow
import polars as pl
import pytest

from assets.champion import champion_of, check_loads, decide, kept_scores
from assets.lineage import DATA_VERSION, latest
from assets.tracking import Tracking
from pipelines.launch import Launcher
from pipelines.promotion import promote

pytestmark = pytest.mark.slow


@pytest.fixture
def launcher(write_chain, instance):
    made = Launcher(write_chain(), instance, lambda line: None)
    made.chain()
    return made


def metadata(instance, name, partition=None):
    import dagster as dg

    found = latest(instance, dg.AssetKey(name), partition)
    return {key: getattr(value, "value", value) for key, value in found.metadata.items()}, found


def test_the_best_policy_is_champion_by_the_rule_and_a_person_can_overrule_it(launcher, instance):
    study, lake = launcher.study, launcher.lake
    client = Tracking.of(study).client()

    said, made = metadata(instance, "champion")
    assert said["decision"].startswith("arenapo is champion")
    assert "win_rate_low > 0.5" in said["rule"]
    assert "| arenapo |" in said["challengers"]
    standing = champion_of(client, study.name)
    assert standing.tags["policy"] == "arenapo"
    assert made.tags[DATA_VERSION] == standing.tags["data_version"]
    folder = mlflow.artifacts.download_artifacts(
        f"models:/{study.name}@champion", tracking_uri=Tracking.of(study).uri
    )
    kept = lake.current("policies", "arenapo") / "policy" / "pytorch_lora_weights.safetensors"
    loaded = (lake.root / folder).rglob("*.safetensors")
    assert [path.read_bytes() for path in loaded] == [kept.read_bytes()]
    assert check_loads(client, standing).passed

    reported, _ = metadata(instance, "report")
    assert reported["prompts_in_training"] == 0
    page = (lake.root / "reports" / "comparison.html").read_text()
    assert "None of the prompts occur among the training prompts" in page

    lineage = lake.read("lineage").filter(pl.col("policy").fill_null("") == "arenapo")
    row = lineage.filter(pl.col("asset") == "policy").row(0, named=True)
    run = client.get_run(row["mlflow_run"])
    assert run.data.tags["dagster.run_id"] == row["dagster_run"]
    assert run.data.tags["data_version"] == row["content"] == standing.tags["data_version"]
    _, trained_on = metadata(instance, "training_set")
    assert run.data.tags["input.training_set"] == trained_on.tags[DATA_VERSION]
    assert run.data.tags["code_version"]
    scored = lineage.filter(pl.col("asset") == "scorecard").row(0, named=True)
    compared = client.get_run(scored["mlflow_run"]).data
    assert compared.params["training_set"] == trained_on.tags[DATA_VERSION]
    assert {"objective", "gap_estimator", "gamma", "beta_dpo", "steps"} <= set(compared.params)
    assert {"miniature.win_rate_low", "miniature.mean_high"} <= set(compared.metrics)

    # What lost is no challenger that wins later by being asked again.
    again = decide(study, lake, client, instance)
    assert again.version is None
    assert "no policy is shown to be better than the champion" in again.said
    assert kept_scores(client, standing).height == 24

    # A scorer with other weights: its scores are not compared with those of the one before.
    weights = study.path.parent / "scorer" / "result.json"
    sound = weights.read_text()
    weights.write_text('{"other": "weights"}')
    assert decide(study, lake, client, instance).said == "nobody challenges the champion"
    launcher.run("train_and_evaluate", ["scorecard"], "dpo")
    apart = decide(study, lake, client, instance)
    assert apart.version is None
    assert "was scored on other prompts, by another scorer or never" in apart.said
    weights.write_text(sound)
    launcher.run("train_and_evaluate", ["scorecard"], "dpo")

    assert "(dpo) is champion" in promote(study, instance, "dpo")
    assert champion_of(client, study.name).tags["policy"] == "dpo"
    assert "by hand" in metadata(instance, "champion")[0]["decision"]
    assert decide(study, lake, client, instance).version == str(standing.version)
    assert "is champion again" in promote(study, instance, None)
    assert champion_of(client, study.name).version == standing.version
    with pytest.raises(ValueError, match="no version or policy 'dop'; there are 1 "):
        promote(study, instance, "dop")
    # The one that a person took back is left alone by the rule, whatever its scores.
    promote(study, instance, None)
    assert champion_of(client, study.name) is None
    assert set(decide(study, lake, client, instance).table["policy"]) == set()
    # A person's word is not asked again; the report follows it.
    assert launcher.chain() == ["report"]

    for path in lake.root.parent.glob("mlflow/artifacts/**/pytorch_lora_weights.safetensors"):
        path.unlink()
    assert not check_loads(client, standing).passed


def test_equal_inputs_have_equal_hashes_in_another_folder(launcher, instance, tmp_path):
    import shutil

    import dagster as dg

    from assets.study import read_study

    def hashes(where, chain):
        names = [("votes", None), ("ratings", None), ("gaps", None), ("training_set", None)]
        stages = ("policy", "generations", "scorecard", "ksort_rating")
        names += [(stage, name) for stage in stages for name in chain.study.policies]
        names += [("champion", None), ("report", None)]
        return {
            (name, part): latest(where, dg.AssetKey(name), part).tags[DATA_VERSION]
            for name, part in names
        }

    other = tmp_path / "another" / "place"
    keep = shutil.ignore_patterns("lake", "dagster", "another", "mlflow*")
    shutil.copytree(tmp_path, other, ignore=keep)
    (tmp_path / "home").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "home")) as second:
        chain = Launcher(read_study(other / "small.toml"), second, lambda line: None)
        chain.chain()
        assert hashes(second, chain) == hashes(instance, launcher)
