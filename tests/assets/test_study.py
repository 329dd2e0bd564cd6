from pathlib import Path

import pytest

from assets.study import read_study

ROOT = Path(__file__).parents[2]


def test_the_shipped_study_is_read_with_its_paths_beside_it():
    study = read_study(ROOT / "experiments" / "miniature.toml")
    world = ROOT / "examples" / "miniature" / "world" / "votes.parquet"
    assert study.votes.sources == [world, ROOT / "lake" / "miniature" / "landing" / "*.jsonl"]
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
        ("held_out = 0.2", "heldout = 0.2", "allowed: held_out, check_images, network"),
        (
            'name = "small"',
            'name = "small"\nsed = 1',
            "study.sed: unknown key; allowed: name",
        ),
        ('name = "small"', "name = 3", "study.name = 3"),
        ('root = "lake"', 'root = "lake"\nrot = 1', "lake.rot: unknown key; allowed: root"),
        ('root = "lake"', "", "lake.root is missing"),
        ('root = "lake"', "root = 3", "lake.root = 3: needs a path"),
        ('"auto"', "1.5", "arena: draw_probability = 1.5: needs a share from 0"),
        ('"auto"', '"often"', "draw_probability = 'often': needs"),
        ("draw_probability", "draws", "arena: trueskill has no parameter draws; it has mu, sigma"),
        ("[arena]", '[arena]\nestimator = "elo"', "choose from trueskill, thurstone"),
        ("[arena]", "[arena]\ntau = -1", "tau = -1: needs a number, 0 or more"),
        ("[gap]", "[gap]\nestimator = 3", "gap.estimator = 3: needs one of pairwise, joint"),
        ("[gap]", '[gap]\nestimator = "all"', "needs one of pairwise, joint"),
        ('judge = "scorer:', 'judge = "human:', "ksort.judge = 'human:miniature': it must match"),
        ('name = "dpo"', "name = 3", "policy.name = 3: needs text in quotes"),
        # It becomes a folder and MLflow's alias candidate-<name>, which takes no dot.
        *(
            ('name = "dpo"', f"name = '{name}'", f"policy.name = {name!r}: needs letters, digits")
            for name in (".", "..", "../../x", "/x", "a/b", "", "a.b", "-x", "x" * 101, "ä", " x")
        ),
        ('name = "small"', 'name = "../x"', "study.name = '../x': it must match"),
        ("[gap]", "[alerts]\nwebhook = 'me@x'\n[gap]", "alerts.webhook: it must match"),
        ("[gap]", "[alerts]\nhook = 'x'\n[gap]", "alerts.hook: unknown key; allowed: command"),
        ("[gap]", "[retention]\nmodels = 0\n[gap]", "retention.models = 0: "),
        ("[gap]", "[retention]\ndays = 'all'\n[gap]", "retention.days = 'all'"),
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
