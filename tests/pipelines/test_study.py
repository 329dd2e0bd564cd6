from pathlib import Path

import pytest

from assets.study import read_study

ROOT = Path(__file__).parents[2]


def test_the_shipped_study_is_read_with_its_paths_beside_it():
    study = read_study(ROOT / "experiments" / "miniature.toml")
    assert study.votes.sources == [ROOT / "examples" / "miniature" / "world" / "votes.parquet"]
    assert next(iter(study.policies)) == study.baseline
    assert study.policies["base"] is None
    assert study.policies["arenapo"].objective == "arenapo"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('baseline = "base"', 'baseline = "bse"', "study.baseline is 'bse'"),
        ('spread = "posterior"', 'spread = "wide"', "gap.spread"),
        ("held_out = 0.2", "held_out = 1.5", "training_set.held_out"),
        ("held_out = 0.2", "heldout = 0.2", "training_set.heldout"),
        ('headline = "miniature"', 'headline = "hps"', "scorecard.headline is 'hps'"),
        ("[gap]", "[gaps]", "no section is called gaps"),
        ('sources = ["votes.parquet"]', "sources = []", "votes.sources"),
        ('objective = "dpo"', 'objective = "dpoo"', "needs one of"),
        ("[study]", "[study", "small.toml"),
    ],
)
def test_a_mistake_is_named_with_its_key(write_study, old, new, says):
    with pytest.raises(ValueError, match=r"small\.toml") as caught:
        write_study(lambda text: text.replace(old, new, 1))
    assert says in str(caught.value)


def test_a_study_that_holds_nothing_out_names_its_prompts(write_study):
    def change(text: str) -> str:
        return text.replace('prompts = "prompts.csv"', "").replace("held_out = 0.2", "held_out = 0")

    with pytest.raises(ValueError, match=r"small\.toml: generation\.prompts is missing"):
        write_study(change)


def test_a_version_follows_the_words_of_its_section_alone(write_study):
    plain = write_study()
    changed = write_study(lambda text: text.replace("held_out = 0.2", "held_out = 0.3"))
    assert plain.version("arena") == changed.version("arena")
    assert plain.version("training_set") != changed.version("training_set")
