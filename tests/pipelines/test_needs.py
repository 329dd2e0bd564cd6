"""What a study needs is said before anything is computed, and it needs no more than it names."""

import json
import re

import pytest

from pipelines.__main__ import check
from pipelines.chain import chain_of
from pipelines.launch import Launcher
from pipelines.needs import needs, quick, require

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # whole chains, on a busy machine too


def missing(study):
    return {each.what: each.said for each in quick(study) if not each.met}


def test_everything_that_is_missing_is_named_with_what_to_do(write_study, monkeypatch, tmp_path):
    assert missing(write_study()) == {}
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    changes = {
        'sources = ["votes.parquet"]': ('sources = ["absent.csv"]', "votes.sources", "absent.csv"),
        'base = "./base"': ('base = "./ksort"', "model.base", "no model_index.json"),
        '"miniature=./scorer"': ('"miniature=./absent"', "scorer miniature", "absent is not there"),
        'prompts = "prompts.csv"': ('prompts = "absent.csv"', "generation.prompts", "no such file"),
        'dataset = "ksort"': ('dataset = "base"', "ksort.dataset", "no result.json"),
        'judge = "scorer:miniature"': ('judge = "openai:gpt"', "ksort.judge", "OPENAI_API_KEY"),
        '"scorer:miniature"': ('"recorded:absent.jsonl"', "ksort.judge", "absent.jsonl"),
        "[arena]": ('rater_salt = "NO_SALT"\n\n[arena]', "votes.rater_salt", "NO_SALT is not set"),
    }
    for old, (new, what, said) in changes.items():
        study = write_study(lambda text, old=old, new=new: text.replace(old, new, 1))
        found = missing(study)
        # The judge of this study is the scorer, so that it misses the same weights.
        assert what in found
        assert set(found) <= {what, "ksort.judge"}, found
        assert said in found[what]
        with pytest.raises(ValueError, match=re.escape(what)):
            require(study)
    write_study()
    (tmp_path / "judge").mkdir()
    local = write_study(lambda text: text.replace('"scorer:miniature"', '"local:judge"'))
    assert missing(local) == {}
    assert local.judge == f"local:{tmp_path / 'judge'}"


def test_the_table_reads_the_votes_and_ends_in_exit_1(write_study, votes_table, capsys):
    study = write_study()
    found = {each.what: each.said for each in needs(study)}
    assert found["votes"] == "600 votes, 0 rows rejected"
    study.votes.sources[0].write_text("model_a,model_b\nx,y\n")
    assert check(None, [study], None) == 1
    said = capsys.readouterr().out
    assert re.search(r"MISSING  votes  .*outcome", said)


@pytest.mark.slow
def test_a_study_without_ksort_and_with_a_size_runs_to_the_report(write_chain, instance):
    def pairwise_only(text):
        text = text[: text.index("[ksort]")].replace("steps = 2", "steps = 2\nsize = 64")
        return text.replace('[[policy]]\nname = "dpo"\nobjective = "dpo"\n\n', "")

    launcher = Launcher(write_chain(pairwise_only), instance, lambda line: None)
    assert "ksort_rating" not in chain_of(launcher.study)
    launcher.chain()
    report = launcher.lake.read("report")
    assert report.height == 2
    assert report["ksort_mu"].null_count() == 2
    drawn = json.loads((launcher.study.path.parent / "drawn.json").read_text())
    assert drawn["resolution"] == "64"
    assert drawn["ksort"] is None
    assert launcher.chain() == []


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("miniature=./scorer", "pickscor=./scorer", "unknown scorer 'pickscor="),
        ('"scorer:miniature"', '"human:me"', "ksort.judge = 'human:me'"),
        ("[ksort]", "[ksort]\norders = 7", "ksort.orders = 7"),
        ("steps = 2", "steps = 2\nsize = 4", "generation.size = 4"),
        ("[ksort]", "[retention]\ntimezone = 'Mars'\n[ksort]", "Europe/Berlin"),
    ],
)
def test_what_nobody_knows_is_refused_when_the_study_is_read(write_study, old, new, says):
    with pytest.raises(ValueError, match=r"small\.toml") as caught:
        write_study(lambda text: text.replace(old, new, 1))
    assert says in str(caught.value)
