"""What makes a stage stale, and what does not: content, code and the TOML keys that it reads."""

import polars as pl
import pytest
from PIL import Image
from small_study import one_trained

from assets.sections import Votes
from assets.study import read_study
from pipelines.chain import STAGES, chain_of
from pipelines.launch import Launcher
from pipelines.staleness import Staleness, look_at_sources

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # whole chains, on a busy machine too
JOINT = '[[policy]]\nname = "joint"\nobjective = "arenapo"\ngap_estimator = "joint"\n\n'


def quiet(line):
    del line


def chain_again(launcher, change=str):
    """Change the study's text and bring the chain up to date; return what ran."""
    path = launcher.study.path
    path.write_text(change(path.read_text()))
    return Launcher(read_study(path), launcher.instance, quiet).chain()


def reasons(launcher, change=str, policy="arenapo"):
    """Return stage -> why it is behind, as a plan sees it after a change of the text."""
    path = launcher.study.path
    text = path.read_text()
    path.write_text(change(text))
    study = read_study(path)
    path.write_text(text)
    chain = chain_of(study)
    look = Staleness(study, launcher.instance, chain, look_at_sources(study))
    found = look.reasons([s.name for s in chain.values() if not s.by_policy], None)
    return found | look.reasons([s.name for s in chain.values() if s.by_policy], policy)


def test_one_joint_policy_more_trains_one_policy(finished, instance):
    launcher = Launcher(finished, instance, quiet)
    ran = chain_again(launcher, lambda text: text.replace("[generation]", JOINT + "[generation]"))
    assert [each for each in ran if each.startswith("policy")] == ["policy[joint]"]
    assert [each for each in ran if each.startswith("generations")] == ["generations[joint]"]
    assert "joint_gap" in launcher.lake.read("training_set").columns
    assert chain_again(launcher) == []


def test_held_out_prompts_are_drawn_once_while_votes_come(write_chain, instance, votes_table):
    launcher = Launcher(
        write_chain(lambda text: one_trained(text).replace('prompts = "prompts.csv"\n', "")),
        instance,
        quiet,
    )
    launcher.chain()
    assert launcher.chain() == []
    votes_table(700, seed=0).write_parquet(launcher.study.votes.sources[0])
    ran = launcher.chain()
    assert "generations[base]" not in ran  # the prompts stay, and the base's images with them
    assert "generations[dpo]" in ran  # its weights moved
    asked = {"evaluation_prompts": "a person asked"}
    assert "evaluation_prompts" in Launcher(launcher.study, instance, quiet, asked).rate()


@pytest.mark.slow
def test_each_key_that_a_stage_reads_makes_it_stale_and_no_other_does(finished, instance):
    launcher = Launcher(finished, instance, quiet)
    cases = {
        ('baseline = "base"', 'baseline = "base"\nseed = 7'): {"training_set", "ksort_rating"},
        ('"posterior"', '"predictive"'): {"gaps"},
        ('draw_probability = "auto"', "draw_probability = 0.1"): {"ratings"},
        ("steps = 2", "steps = 3"): {"generations"},
        ("held_out = 0.2", "held_out = 0.3"): {"training_set"},
        # What says the same in other words, or changes nothing that is computed.
        ("[gap]", '[gap]\nestimator = "pairwise"'): set(),
        ("batch_size = 4", "batch_size = 4\nlog_every = 3"): set(),
        ("[generation]", "# a note\n[retention]\ndays = 3\n\n[generation]"): set(),
        ("[study]", '[study]\nowners = ["team:pictures"]'): set(),
    }
    for (old, new), expected in cases.items():
        assert old in launcher.study.path.read_text()
        found = reasons(launcher, lambda text, old=old, new=new: text.replace(old, new, 1))
        own = {name for name, why in found.items() if not why.startswith("follows")}
        # The seed is the policy's own too, where it names none.
        assert own - {"policy"} == expected, (new, found)
    seed = reasons(launcher, lambda text: text.replace("[study]", "[study]\nseed = 7", 1))
    assert seed["training_set"] == "the TOML changed: study.seed 0 -> 7"
    assert "recipe changed" in seed["policy"]


def test_every_key_of_the_votes_makes_them_stale():
    by_content = {"sources", "images"}  # what they name is hashed, wherever it lies
    read = {key.removeprefix("votes.") for stage in STAGES for key in stage.reads}
    assert set(Votes.model_fields) - by_content <= read


def test_pictures_that_are_replaced_or_come_late_are_trained_on(
    write_chain, instance, votes_table, tmp_path
):
    study = write_chain(lambda text: one_trained(text).replace("check_images = false\n", ""))
    named = pl.format("pictures/{}.png", pl.col("image_a", "image_b")).name.keep()
    votes = votes_table(60).with_columns(named)
    votes.write_parquet(study.votes.sources[0])
    (tmp_path / "pictures").mkdir()
    names = sorted({*votes["image_a"], *votes["image_b"]})
    late = votes.filter(pl.col("outcome") != "tie")["image_a"][0]
    for name in names:
        if name != late:
            Image.new("RGB", (8, 8), "white").save(tmp_path / name)
    launcher = Launcher(study, instance, quiet)
    launcher.chain()  # one wrong path stops nobody
    before = launcher.lake.read("training_set").height
    assert launcher.chain() == []

    Image.new("RGB", (8, 8), "red").save(tmp_path / late)
    assert reasons(launcher, policy="dpo")["images"] == "1 images came"
    ran = launcher.chain()
    assert {"images", "training_set", "policy[dpo]"} <= set(ran)
    assert launcher.lake.read("training_set").height > before
    assert launcher.chain() == []

    Image.new("RGB", (9, 9), "blue").save(tmp_path / late)
    assert reasons(launcher, policy="dpo")["images"] == "1 images changed"
    ran = launcher.chain()
    assert "policy[dpo]" in ran
    assert "votes" not in ran
    assert launcher.chain() == []
