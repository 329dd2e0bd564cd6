"""Every asset check, made to fail: a check that cannot is no check."""

import inspect
import re
from dataclasses import replace

import dagster as dg
import numpy as np
import polars as pl
import pytest
from PIL import Image
from safetensors.numpy import save_file

from arena.gaps.pairwise import pairwise_gaps
from arena.gaps.table import gaps_by
from arena.ratings.table import Ratings, estimator
from arena.votes.intake import take_in
from assets import model_registry
from assets.anomalies import ratings_moved_as_explained
from assets.champion import champion_stage
from assets.evaluation_prompts import chosen, evaluation_prompts_stage
from assets.gaps import as_metrics, gaps_stage
from assets.generations import check_images
from assets.images import SCHEMA, images_stage
from assets.ksort_rating import check_settled
from assets.lake import Lake
from assets.lineage import why
from assets.policy import check_preference, check_weights
from assets.ratings import BEFORE, ratings_stage
from assets.report import COLUMNS, check_better, report_stage
from assets.scorecard import check_drift, check_scores
from assets.study import read_study
from assets.summary import summary_stage
from assets.tracking import Tracking
from assets.training_set import training_set_stage
from assets.votes import votes_stage
from evaluation.comparison.drift import drifts
from evaluation.comparison.scores import scores_of
from evaluation.comparison.statistics import compare
from pipelines.chain import chain_of
from pipelines.definitions import build_definitions


@pytest.fixture
def study(write_study):
    return write_study()


@pytest.fixture
def lake(study):
    """A lake with sound votes, ratings, gaps and a warehouse."""
    made = Lake(study.lake)
    tables = [made.table(name) for name in ("votes", "rankings", "rejected")]
    made.write("intake", take_in(study.votes.sources, *tables))
    votes = made.read("votes")
    ratings = estimator("trueskill").fit(votes)
    ratings.write(made.table("ratings"))
    made.write("gaps", pairwise_gaps(votes, ratings, "posterior"))
    made.build_warehouse({name: made.table(name) for name in ("votes", "ratings", "gaps")})
    return made


def stage_of(build, path):
    study = read_study(path)
    return build(study, chain_of(study))


def check(stages, name):
    """Run the check called `name` on what lies in the lake now."""
    found = [
        each
        for each in stages
        if isinstance(each, dg.AssetChecksDefinition)
        and name in {spec.name for spec in each.check_specs}
    ]
    assert len(found) == 1
    return found[0]()


def test_no_vote_lost(study, lake):
    assert check(votes_stage(study, chain_of(study)), "no_vote_lost").passed
    lake.write("votes", lake.read("votes")[1:])
    failed = check(votes_stage(study, chain_of(study)), "no_vote_lost")
    assert not failed.passed
    assert failed.metadata["lost"].value == 1
    lake.write("intake", lake.read("intake").with_columns(duplicates=pl.lit(1)))
    failed = check(votes_stage(study, chain_of(study)), "no_vote_lost")
    assert not failed.passed
    assert "votes.parquet" in failed.metadata["files_that_do_not_add_up"].value


def test_rejections_are_few(study, lake):
    assert check(votes_stage(study, chain_of(study)), "rejections_are_few").passed
    rejected = pl.DataFrame(
        {"file": "f", "row": 1, "column": "outcome", "reason": "unknown", "value": "x"}
    )
    lake.write("rejected", pl.concat([rejected] * 50))
    assert not check(votes_stage(study, chain_of(study)), "rejections_are_few").passed


def test_every_model_connected(study, lake):
    assert check(ratings_stage(study, chain_of(study)), "every_model_connected").passed
    votes = lake.read("votes")
    apart = votes[:5].with_columns(model_a=pl.lit("x"), model_b=pl.lit("y"))
    estimator("trueskill").fit(pl.concat([votes, apart])).write(lake.table("ratings"))
    failed = check(ratings_stage(study, chain_of(study)), "every_model_connected")
    assert not failed.passed
    assert "x, y" in failed.metadata["apart"].value


def test_arena_predicts_held_out_votes(study, lake):
    assert check(ratings_stage(study, chain_of(study)), "arena_predicts_held_out_votes").passed
    votes = lake.read("votes")
    turned = {"a": "b", "b": "a", "tie": "tie"}
    late = pl.int_range(pl.len()) >= 0.8 * pl.len()
    lake.write(
        "votes",
        votes.with_columns(
            outcome=pl.when(late)
            .then(pl.col("outcome").replace(turned))
            .otherwise(pl.col("outcome"))
        ),
    )
    assert not check(ratings_stage(study, chain_of(study)), "arena_predicts_held_out_votes").passed


def test_share_of_ties_is_steady(study, lake):
    assert check(votes_stage(study, chain_of(study)), "share_of_ties_is_steady").passed
    votes = lake.read("votes")
    late = pl.int_range(pl.len()) >= 540
    changed = pl.when(late).then(pl.lit("tie")).otherwise("outcome").alias("outcome")
    lake.write("votes", votes.with_columns(changed))
    failed = check(votes_stage(study, chain_of(study)), "share_of_ties_is_steady")
    assert not failed.passed
    assert failed.metadata["share_in_the_newest"].value == 1.0
    # Few votes: a difference that chance may make is none.
    lake.write("votes", votes.with_columns(changed)[535:545])
    assert check(votes_stage(study, chain_of(study)), "share_of_ties_is_steady").passed


def test_raters_agree_with_the_arena(study, lake):
    assert check(ratings_stage(study, chain_of(study)), "raters_agree_with_the_arena").passed
    coin = np.random.default_rng(0).choice(["a", "b"], 600)
    by_coin = pl.col("rater") == "rater 3"
    lake.write(
        "votes",
        lake.read("votes").with_columns(
            outcome=pl.when(by_coin).then(pl.Series(coin)).otherwise("outcome")
        ),
    )
    failed = check(ratings_stage(study, chain_of(study)), "raters_agree_with_the_arena")
    assert not failed.passed
    assert failed.metadata["raters_like_a_coin"].value == 1
    # Dagster's history keeps every result for good: the name itself stays in the lake.
    assert "rater 3" not in str(failed.metadata)
    assert lake.read("raters_like_a_coin")["rater"].to_list() == ["rater 3"]


def test_light_and_diversity_are_kept():
    scores = pl.DataFrame(
        {
            "policy": ["base"] * 40 + ["dpo"] * 40,
            "prompt": [f"prompt {i}" for i in range(40)] * 2,
            "miniature": [0.5] * 40 + [0.6] * 40,
            "brightness": [0.5] * 80,
        }
    )
    dark = scores.with_columns(brightness=pl.Series([0.5] * 40 + [0.3] * 40))
    lost = dark.with_columns(miniature=pl.lit(0.5))

    def kept(table):
        found = drifts(scores_of(table, ["miniature"]), "base")
        return check_drift(compare(table, "base", "miniature")["dpo"], found)

    assert kept(scores).passed
    assert kept(lost).passed
    failed = kept(dark)
    assert not failed.passed
    assert failed.metadata["fallen"].value == "brightness"


def test_every_check_of_the_definitions_is_made_to_fail_here(study):
    names = {key.name for key in build_definitions(study).resolve_asset_graph().asset_check_keys}
    tests = globals()
    assert {name for name in names if f"test_{name}" not in tests} == set()
    for name in names:
        source = inspect.getsource(tests[f"test_{name}"])
        assert re.search(r"not check|not failed\.passed", source), name


def test_champion_can_be_loaded(study, tmp_path):
    tracking = Tracking.of(study)
    client = tracking.client()

    def check_now():
        return check(champion_stage(study, chain_of(study)), "champion_can_be_loaded")

    assert check_now().description == "there is no champion yet"
    experiment = tracking.experiment(client, study.name)
    run = client.create_run(experiment).info.run_id
    weights = tmp_path / "policy" / "pytorch_lora_weights.safetensors"
    weights.parent.mkdir()
    save_file({"up": np.ones(3, np.float32)}, weights)
    tags = {"policy": "dpo", "data_version": "1"}
    model_id = model_registry.log_weights(
        client, experiment, run, "small-dpo", weights.parent, study.base, {}
    )
    version = model_registry.register(client, study.name, model_id, run, tags)
    model_registry.crown(client, study.name, version)
    assert check_now().passed
    for path in tracking.folder.rglob("*.safetensors"):
        path.unlink()
    failed = check_now()
    assert not failed.passed
    assert failed.metadata["weights"].value == "none"


def test_joint_gap_converged(study, lake):
    text = study.path.read_text()
    study.path.write_text(text.replace("[gap]", '[gap]\nestimator = "joint"'))
    stage = stage_of(gaps_stage, study.path)
    _, report = gaps_by(["joint"], lake.read("votes"), Ratings.read(lake.table("ratings")))
    lake.write("joint", pl.DataFrame([as_metrics(report)]))
    assert check(stage, "joint_gap_converged").passed
    lake.write("joint", pl.DataFrame([as_metrics(replace(report, converged=False))]))
    assert not check(stage, "joint_gap_converged").passed


def test_ratings_did_not_jump(study, lake):
    assert check(
        ratings_stage(study, chain_of(study)), "ratings_did_not_jump"
    ).passed  # nothing came before
    votes, arena = lake.read("votes"), estimator("trueskill", tau=0.0)
    before = arena.fit(votes[:500])
    before.write(lake.table(BEFORE))
    arena.fit(votes[500:], prior=before).write(lake.table("ratings"))
    assert check(ratings_stage(study, chain_of(study)), "ratings_did_not_jump").passed
    turned = pl.col("outcome").replace({"a": "b", "b": "a"})
    arena.fit(votes[500:].with_columns(turned), prior=before).write(lake.table("ratings"))
    failed = check(ratings_stage(study, chain_of(study)), "ratings_did_not_jump")
    assert not failed.passed
    assert failed.severity == dg.AssetCheckSeverity.WARN
    assert "| model 5 |" in failed.metadata["look_at"].value
    # Ratings on another scale say nothing about these.
    estimator("trueskill", beta=2.0).fit(votes).write(lake.table("ratings"))
    assert check(ratings_stage(study, chain_of(study)), "ratings_did_not_jump").passed


@pytest.mark.parametrize("tau", [0.0, 25 / 300])
def test_sound_votes_seldom_raise_the_alarm_of_a_jump(tau, votes_table):
    arena, alarms, largest = estimator("trueskill", tau=tau), 0, []
    for seed in range(200):
        votes = votes_table(700, seed)
        before = arena.fit(votes[:500])
        found = ratings_moved_as_explained(before, arena.fit(votes[500:], prior=before))
        alarms += not found.passed
        largest.append(found.metadata["largest_z"].value)
    assert alarms <= 2
    assert max(largest) > 2  # the measure is no constant: sound votes move ratings too


@pytest.mark.parametrize(
    ("column", "value"),
    [("gap", -0.1), ("gap", float("nan")), ("gap", None), ("gap_sd", -1.0), ("probability", 1.2)],
)
def test_gaps_are_positive_and_finite(study, lake, column, value):
    assert check(gaps_stage(study, chain_of(study)), "gaps_are_positive_and_finite").passed
    first = pl.int_range(pl.len()) == 0
    spoiled = pl.when(first).then(pl.lit(value, dtype=pl.Float64)).otherwise(pl.col(column))
    lake.write("gaps", lake.read("gaps").with_columns(spoiled.alias(column)))
    failed = check(gaps_stage(study, chain_of(study)), "gaps_are_positive_and_finite")
    assert not failed.passed
    assert failed.metadata["bad"].value == 1


def test_the_joint_gap_of_a_policy_is_checked_beside_the_studys_own(study, lake):
    text = study.path.read_text()
    asked = 'objective = "arenapo"\ngap_estimator = "joint"'
    study.path.write_text(text.replace('objective = "arenapo"', asked))
    ratings = Ratings.read(lake.table("ratings"))
    found, _ = gaps_by(["pairwise", "joint"], lake.read("votes"), ratings)
    lake.write("gaps", found)
    stage = stage_of(gaps_stage, study.path)
    assert check(stage, "gaps_are_positive_and_finite").passed
    first = pl.int_range(pl.len()) == 0
    for value in (-0.1, float("nan")):
        spoiled = pl.when(first).then(value).otherwise("joint_gap").alias("joint_gap")
        lake.write("gaps", found.with_columns(spoiled))
        assert check(stage, "gaps_are_positive_and_finite").metadata["bad"].value == 1


@pytest.mark.parametrize("signed", [True, False])
def test_a_capability_gap_has_a_sign_where_the_study_keeps_it(signed, study, lake):
    text = study.path.read_text()
    asked = f'[gap]\nestimator = "capability"\nsigned = {str(signed).lower()}'
    study.path.write_text(text.replace("[gap]", asked))
    votes, ratings = lake.read("votes"), Ratings.read(lake.table("ratings"))
    stage = stage_of(gaps_stage, study.path)
    kept, _ = gaps_by(["capability"], votes, ratings, signed=True)
    upsets = (kept["gap"] < 0).sum()
    assert 0 < upsets < len(kept) / 2
    lake.write("gaps", kept)
    found = check(stage, "gaps_are_positive_and_finite")
    assert found.passed == signed
    assert found.metadata["bad"].value == (0 if signed else upsets)
    lake.write("gaps", gaps_by(["capability"], votes, ratings)[0])
    assert check(stage, "gaps_are_positive_and_finite").passed


def test_one_gap_a_vote(study, lake):
    assert check(gaps_stage(study, chain_of(study)), "one_gap_a_vote").passed
    lake.write("gaps", lake.read("gaps")[1:])
    lake.build_warehouse({name: lake.table(name) for name in ("votes", "ratings", "gaps")})
    failed = check(gaps_stage(study, chain_of(study)), "one_gap_a_vote")
    assert not failed.passed
    assert failed.metadata["votes_without_a_gap"].value == 1


def test_splits_share_no_prompt(study, lake):
    pairs = pl.DataFrame({"prompt": ["p", "q"], "split": ["train", "held_out"]})
    lake.write("training_set", pairs)
    assert check(training_set_stage(study, chain_of(study)), "splits_share_no_prompt").passed
    lake.write("training_set", pairs.with_columns(prompt=pl.lit("p")))
    assert not check(training_set_stage(study, chain_of(study)), "splits_share_no_prompt").passed
    lake.write("training_set", pairs[1:])
    assert not check(training_set_stage(study, chain_of(study)), "splits_share_no_prompt").passed


def test_no_prompt_was_trained_on(study):
    lake = Lake(study.lake)
    stages = evaluation_prompts_stage(study, chain_of(study))
    lake.write("training_set", pl.DataFrame({"prompt": ["p", "q"], "split": ["train", "held_out"]}))
    lake.write("evaluation_prompts", pl.DataFrame({"prompt_id": ["1"], "prompt": ["q"]}))
    assert check(stages, "no_prompt_was_trained_on").passed
    lake.write("evaluation_prompts", pl.DataFrame({"prompt_id": ["1"], "prompt": ["p"]}))
    assert not check(stages, "no_prompt_was_trained_on").passed


def test_held_out_prompts_are_frozen_until_one_is_trained_on_or_a_person_asks(write_study):
    study = write_study(lambda text: text.replace('prompts = "prompts.csv"', ""))
    lake = Lake(study.lake)

    def draw(train, held_out, **how):
        rows = [(each, "train") for each in train] + [(each, "held_out") for each in held_out]
        lake.write("training_set", pl.DataFrame(rows, schema=["prompt", "split"], orient="row"))
        table, _ = chosen(study, lake, **how)
        lake.write("evaluation_prompts", table)
        return table["prompt"].to_list()

    assert draw("ab", "cd") == ["c", "d"]
    assert draw("abxy", "cdef") == ["c", "d"]  # votes came, and nothing is drawn again
    assert draw("ab", "cdef", renew=True) == ["c", "d", "e", "f"]
    assert draw("abc", "ef") == ["e", "f"]  # c is trained on now
    with pytest.raises(ValueError, match="holds out no prompt"):
        draw("abef", "")


def test_every_image_can_be_used(study):
    lake = Lake(study.lake)
    rows = [{"image": "a", "content": "1", "fault": None}, {"image": "b", "fault": "cut off"}]
    for count, passes in ((1, True), (2, False)):
        lake.write("images", pl.DataFrame(rows[:count], schema=SCHEMA))
        failed = check(images_stage(study, chain_of(study)), "every_image_can_be_used")
        assert failed.passed == passes
    assert not failed.passed
    assert failed.description == "1 of 2 cannot be used: no training on them"
    assert failed.metadata["such_as"].value == "b: cut off"


def test_every_file_is_read(study):
    lake = Lake(study.lake)
    lake.write("quarantined", pl.DataFrame(schema={"file": pl.String, "reason": pl.String}))
    assert check(votes_stage(study, chain_of(study)), "every_file_is_read").passed
    torn = {"file": ["torn.parquet"], "reason": ["torn.parquet: cut off"]}
    lake.write("quarantined", pl.DataFrame(torn))
    failed = check(votes_stage(study, chain_of(study)), "every_file_is_read")
    assert not failed.passed
    assert failed.metadata["such_as"].value == "torn.parquet: cut off"
    assert why(failed) == "1 files are left out: torn.parquet: cut off"


def test_weights_are_finite(tmp_path):
    assert not check_weights(tmp_path).passed
    weights = tmp_path / "pytorch_lora_weights.safetensors"
    save_file({"up": np.ones(3, np.float32), "down": np.zeros(3, np.float32)}, weights)
    assert check_weights(tmp_path).passed
    save_file({"up": np.zeros(3, np.float32)}, weights)
    assert not check_weights(tmp_path).passed
    save_file({"up": np.array([1, np.nan], np.float32)}, weights)
    failed = check_weights(tmp_path)
    assert not failed.passed
    assert "up" in failed.metadata["not_finite"].value


def test_policy_prefers_winners():
    assert check_preference({"held_out_accuracy": 0.61}).passed
    assert not check_preference({"held_out_accuracy": 0.49}).passed
    assert not check_preference({}).passed


def test_every_image_is_there(tmp_path):
    random = np.random.default_rng(0)
    for name in ("0.png", "1.png"):
        Image.fromarray(random.integers(0, 255, (8, 8, 3), np.uint8)).save(tmp_path / name)
    pl.DataFrame({"image": ["0.png", "1.png"]}).write_parquet(tmp_path / "images.parquet")
    assert check_images(tmp_path, expected=2).passed
    assert not check_images(tmp_path, expected=3).passed
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    assert "1.png" in check_images(tmp_path, expected=2).metadata["blank"].value
    (tmp_path / "1.png").write_bytes(b"not an image")
    assert "1.png" in check_images(tmp_path, expected=2).metadata["broken"].value


def test_every_image_is_scored():
    scores = pl.DataFrame({"miniature": [0.5, 0.6]})
    assert check_scores(scores, ["miniature"]).passed
    assert not check_scores(scores, ["miniature", "absent"]).passed
    failed = check_scores(scores.with_columns(miniature=pl.Series([0.5, None])), ["miniature"])
    assert not failed.passed
    assert failed.metadata["without_a_score"].value == "{'miniature': 1}"


def test_summary_names_every_policy(study):
    lake = Lake(study.lake)
    lake.write("report", pl.DataFrame({"policy": ["base", "dpo"]}))
    page = lake.root / "reports" / "summary.md"
    page.parent.mkdir()
    page.write_text("| base | none |\n| dpo | dpo |\n")
    assert check(summary_stage(study, chain_of(study)), "summary_names_every_policy").passed
    page.write_text("| base | none |\n")
    failed = check(summary_stage(study, chain_of(study)), "summary_names_every_policy")
    assert not failed.passed
    assert failed.metadata["missing"].value == "dpo"


def test_some_policy_beats_the_baseline():
    table = pl.DataFrame({"policy": ["dpo", "base"], "verdict": ["better", "the baseline"]})
    assert check_better(table).passed
    even = table.with_columns(verdict=pl.Series(["not told apart", "the baseline"]))
    assert not check_better(even).passed


def test_ksort_rating_settled():
    assert check_settled({"sigma": 0.7, "rounds": [{}]}).passed
    assert not check_settled({"sigma": 0.8, "rounds": [{}]}).passed


def test_every_policy_is_reported(study):
    lake = Lake(study.lake)
    row = dict.fromkeys(COLUMNS, 1.0) | {"objective": "dpo"}
    rows = [row | {"policy": name} for name in study.policies]
    lake.write("report", pl.DataFrame(rows, schema=COLUMNS))
    assert check(report_stage(study, chain_of(study)), "every_policy_is_reported").passed
    lake.write("report", pl.DataFrame(rows[1:], schema=COLUMNS))
    failed = check(report_stage(study, chain_of(study)), "every_policy_is_reported")
    assert not failed.passed
    assert "base" in failed.metadata["missing"].value
