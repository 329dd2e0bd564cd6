"""What a scorer is called: built in, by entry point, your own; and weights that are not there."""

import sys
from importlib.metadata import EntryPoint

import pytest
import torch
from by_name import load_scorer
from PIL import Image

from evaluation.errors import EvaluationError, MissingWeights
from evaluation.scorers.naming import absence, content, parse, parse_all

PROMPTS = ["a bold seven", "a thin one leaning left", "a bold seven"]
OWN = '''"""My scorers."""


def reddest(prompts, images):
    return [image.resize((1, 1)).getpixel((0, 0))[0] for image in images]


class Longest:
    def __init__(self, source="none"):
        self.source = source

    def score(self, prompts, images):
        return [float(len(prompt)) for prompt in prompts]
'''


def test_your_own_scorer_is_a_function_or_a_class(tmp_path, monkeypatch):
    images = [Image.new("RGB", (8, 8), (40 * i, 0, 0)) for i in range(3)]
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "my_scorers.py"
    path.write_text(OWN)
    red = load_scorer("mine=my_scorers:reddest").score(PROMPTS, images)
    assert red == [image.resize((1, 1)).getpixel((0, 0))[0] for image in images]
    assert load_scorer("len=my_scorers:Longest").score(PROMPTS, images)[1] == len(PROMPTS[1])
    before = content(parse("mine=my_scorers:reddest"))
    path.write_text(OWN.replace("[0] for", "[1] for"))
    assert content(parse("mine=my_scorers:reddest")) != before  # its content is in the hash
    with pytest.raises(EvaluationError, match="my_scorers has no bluest"):
        load_scorer("mine=my_scorers:bluest")
    assert "cannot be imported" in absence("mine=no_such_module:score")
    with pytest.raises(EvaluationError, match="'seed' cannot be the name of a column"):
        parse("seed=my_scorers:reddest")
    sys.modules.pop("my_scorers")


def test_a_package_offers_scorers_by_entry_point(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "their_scorers.py").write_text(OWN)
    entry = EntryPoint("longest", "their_scorers:Longest", "arenapo.scorers")
    monkeypatch.setattr("evaluation.scorers.naming.entry_points", lambda group: [entry])
    assert load_scorer("longest").source == "none"
    assert load_scorer("longest=somewhere").source == "somewhere"
    assert load_scorer("other=longest:somewhere").source == "somewhere"
    sys.modules.pop("their_scorers")


def test_two_versions_of_a_scorer_stand_side_by_side(tmp_path):
    named = parse_all(["pickscore", f"old=pickscore:{tmp_path}", f"clip={tmp_path}"])
    assert [(one.label, one.kind) for one in named] == [
        ("pickscore", "pickscore"), ("old", "pickscore"), ("clip", "clip"),
    ]  # fmt: skip
    assert len({content(one) for one in named}) == 3
    with pytest.raises(EvaluationError, match="each scorer once"):
        parse_all(["clip", f"clip={tmp_path}"])


def test_a_study_hears_of_missing_weights_before_anything_is_spent(monkeypatch, tmp_path):
    """Every scorer has a usual source; where neither it nor the hub is there, one sentence."""
    monkeypatch.setattr("evaluation.hub.out_of_reach", lambda: True)
    monkeypatch.setattr("evaluation.hub.revision", lambda name: None)
    for name in ("aesthetic", "clip", "pickscore", "hps_v2.1", "hps_v3", "imagereward", "vqa"):
        assert f"{name}: no weights:" in absence(name)
        assert absence(f"{name}={tmp_path}") is None
    assert "give its folder" in absence("miniature")
    monkeypatch.setattr("evaluation.hub.out_of_reach", lambda: False)
    assert absence("aesthetic") is None


def test_an_unknown_scorer_names_the_known_ones():
    with pytest.raises(
        EvaluationError, match="unknown scorer 'beauty'; known scorers: aesthetic, clip"
    ):
        load_scorer("beauty")


@pytest.mark.parametrize("name", ["clip", "pickscore", "hps_v2.1", "aesthetic"])
def test_missing_weights_say_where_to_put_them(name, tmp_path):
    with pytest.raises(MissingWeights, match=rf"{name}.*(put|give)"):
        load_scorer(f"{name}={tmp_path}")


def test_without_the_hub_missing_weights_are_named_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr("evaluation.hub.out_of_reach", lambda: True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for name in ("clip", "pickscore", "hps_v2.1", "imagereward", "aesthetic"):
        with pytest.raises(MissingWeights, match=rf"{name}: no weights: .* put .* {name}=FOLDER"):
            load_scorer(f"{name}=nobody/nothing")
    torch.save({"weight": torch.zeros(1, 768)}, tmp_path / "sac+logos+ava1-l14-linearMSE.pth")
    with pytest.raises(MissingWeights, match=r"not the CLIP that it reads: put .* into .*clip"):
        load_scorer(f"aesthetic={tmp_path}")
