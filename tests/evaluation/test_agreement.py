"""Agreement of scorers with people, with each other, and of people with themselves."""

import io
import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from evaluation.__main__ import main
from evaluation.agreement import Pair, accuracy, human_agreement, judged_pairs, same_order
from evaluation.errors import EvaluationError, MissingWeights
from evaluation.human_votes import Ranking, read_rankings


def test_a_ranking_is_its_strict_pairs():
    ranking = Ranking("p", ("x", "y", "z"), (2.0, 1.0, 2.0), None)
    assert judged_pairs([ranking]) == ([Pair("p", "y", "x"), Pair("p", "y", "z")], 1)


def test_accuracy_counts_equal_scores_half_and_skips_what_has_no_score():
    pairs = [Pair("p", "x", "y"), Pair("p", "y", "z"), Pair("q", "x", "y"), Pair("q", "x", "w")]
    scores = {("p", "x"): 1.0, ("p", "y"): 1.0, ("p", "z"): 0.0, ("q", "x"): 0.0, ("q", "y"): 3.0}
    found = accuracy("clip", pairs, scores)
    assert (found.accuracy, found.pairs, found.prompts) == (pytest.approx(1.5 / 3), 3, 2)
    with pytest.raises(EvaluationError, match="clip scored no pair"):
        accuracy("clip", pairs, {})


@pytest.mark.slow
def test_the_interval_of_an_accuracy_covers():
    rng = np.random.default_rng(0)
    covered = 0
    repeats = 300
    for _ in range(repeats):
        pairs, scores = [], {}
        for p in range(60):  # a prompt's own difficulty, and one to six votes on it
            easy = rng.beta(4, 2)
            for k in range(rng.integers(1, 7)):
                pairs.append(Pair(str(p), f"{k}+", f"{k}-"))
                scores[str(p), f"{k}+"] = float(rng.random() < easy)
                scores[str(p), f"{k}-"] = 0.5
        found = accuracy("s", pairs, scores)
        covered += found.low <= 4 / 6 <= found.high
    assert abs(covered / repeats - 0.95) < 2.5 * (0.95 * 0.05 / repeats) ** 0.5


def test_scorers_agree_on_pairs_that_both_tell_apart():
    pairs = [Pair("p", "x", "y"), Pair("p", "y", "x"), Pair("p", "x", "z"), Pair("p", "y", "z")]
    first = {("p", "x"): 2.0, ("p", "y"): 1.0, ("p", "z"): 0.0}
    other = {("p", "x"): 2.0, ("p", "y"): 3.0, ("p", "z"): 2.0}
    assert same_order(first, first, pairs) == 1.0
    assert same_order(first, other, pairs) == pytest.approx(1 / 2)  # x, z tie for the other
    assert np.isnan(same_order(first, {}, pairs))


def test_people_agree_as_often_as_two_of_their_votes_do():
    votes = [Pair("p", "x", "y")] * 3 + [Pair("p", "y", "x")] + [Pair("q", "x", "y")]
    assert human_agreement(votes) == (3 / 6, 6)  # 3 x 2 / 2 agree, 3 x 1 do not
    share, count = human_agreement(votes[-1:])
    assert np.isnan(share)
    assert count == 0


class Grey:
    """Mean grey of an image, turned where sign is -1."""

    def __init__(self, sign: float):
        self.sign = sign

    def score(self, prompts, images):
        return self.sign * np.array([np.asarray(i.convert("L"), float).mean() for i in images])


class Unsure(Grey):
    """Has no number for the brightest images, and fails at one grey."""

    def __init__(self):
        super().__init__(1)

    def score(self, prompts, images):
        found = super().score(prompts, images)
        if 57 in found:
            raise RuntimeError("57 is more than I can bear")
        return np.where(found == 62, np.nan, found)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """200 votes: the brighter image was chosen four times in five; a tenth are ties."""

    def absent():
        raise MissingWeights("clip: no weights: put them somewhere")

    table = {"pickscore": lambda: Grey(1), "hps_v2": lambda: Grey(-1), "clip": absent}
    table["imagereward"] = Unsure
    monkeypatch.setattr("evaluation.scorers.naming.load", lambda named: table[named.kind]())
    rng = np.random.default_rng(0)
    rows, names, contents = [], [], []
    for i in range(200):
        for side, grey in (("a", 50 + i % 100), ("b", 160)):
            sink = io.BytesIO()
            Image.new("L", (8, 8), int(grey)).save(sink, "PNG")
            names.append(f"{i}{side}")
            contents.append(sink.getvalue())
        outcome = "tie" if i % 10 == 0 else "b" if rng.random() < 0.8 else "a"
        rows.append((f"prompt {i % 50}", f"{i}a", f"{i}b", outcome, "m", "n"))
    columns = ("prompt", "image_a", "image_b", "outcome", "model_a", "model_b")
    pl.DataFrame(rows, schema=columns, orient="row").write_parquet(tmp_path / "votes.parquet")
    pl.DataFrame({"image": names, "bytes": contents}).write_parquet(tmp_path / "images.parquet")
    return tmp_path


def run(study, *more) -> int:
    arguments = ["agreement", study / "votes.parquet", "--images", study / "images.parquet"]
    return main([str(one) for one in [*arguments, *more]])


def test_the_command_says_who_agrees_with_whom(study, capsys):
    out = study / "agreement.json"
    assert run(study, "--scorer", "pickscore", "--scorer", "hps_v2", "--out", out) == 0
    printed = capsys.readouterr().out
    assert "180 judged pairs of 45 prompts, 20 ties left out" in printed
    assert "pickscore and hps_v2 order 0.0% of the pairs alike" in printed
    content = json.loads(out.read_text())
    first, second = content["accuracy"]
    outcomes = pl.read_parquet(study / "votes.parquet")["outcome"]
    brighter = (outcomes == "b").sum() / 180
    assert first["accuracy"] == pytest.approx(brighter)
    assert first["low"] < brighter < first["high"] < first["low"] + 0.2
    assert second["accuracy"] == pytest.approx(1 - first["accuracy"])
    assert content["people"] == {"agreement": None, "pairs_of_votes": 0}


def test_what_cannot_be_scored_is_named_and_the_rest_is_counted(study, capsys):
    images = pl.read_parquet(study / "images.parquet")
    images.filter(pl.col("image") != "7a").write_parquet(study / "images.parquet")
    assert run(study, "--scorer", "pickscore", "--scorer", "clip") == 1
    said = capsys.readouterr()
    assert "of 179 pairs" in said.out
    assert "7a: cannot be read" in said.err
    assert "clip: no weights" in said.err
    votes = pl.read_parquet(study / "votes.parquet").with_columns(outcome=pl.lit("tie"))
    votes.write_parquet(study / "votes.parquet")
    assert run(study, "--scorer", "pickscore") == 1
    assert "every vote is a tie" in capsys.readouterr().err


def test_no_number_is_no_wrong_answer_and_a_scorers_error_is_a_sentence(study, capsys):
    """Greys 50 to 149 stand beside 160; 57 and 62 are there twice each."""
    assert run(study, "--scorer", "imagereward") == 1
    said = capsys.readouterr()
    assert re.search(r"imagereward +\d\d\.\d%.* of 176 pairs", said.out)
    assert "7a: imagereward: failed: 57 is more than I can bear" in said.err
    assert "12a: imagereward: gave nan" in said.err
    assert "Traceback" not in said.err


def png(grey: int) -> bytes:
    sink = io.BytesIO()
    Image.new("L", (8, 8), grey).save(sink, "PNG")
    return sink.getvalue()


def test_pick_a_pic_holds_its_images(study, tmp_path, capsys):
    rows = {
        "caption": [f"prompt {i}" for i in range(6)],
        "jpg_0": [png(50)] * 6,
        "jpg_1": [png(200)] * 6,
        "image_0_uid": [f"{i}a" for i in range(6)],
        "image_1_uid": [f"{i}b" for i in range(6)],
        "label_0": [0.0, 0.0, 0.0, 1.0, 0.5, 0.0],
        "label_1": [1.0, 1.0, 1.0, 0.0, 0.5, 1.0],
        "model_0": ["m"] * 6,
        "model_1": ["n"] * 6,
        "ranking_id": list(range(6)),
    }
    path = tmp_path / "pickapic.parquet"
    pl.DataFrame(rows).write_parquet(path, row_group_size=2)
    assert main(["agreement", str(path), "--scorer", "pickscore"]) == 0
    said = capsys.readouterr().out
    assert "5 judged pairs of 5 prompts, 1 ties left out" in said
    assert re.search(r"pickscore +80\.0%.* of 5 pairs", said)


IMAGEREWARD = Path(__file__).parents[3] / "shared" / "data" / "imagereward" / "test.json"


@pytest.mark.skipif(not IMAGEREWARD.is_file(), reason="../shared/data is not here")
def test_imagerewards_rankings_are_read(capsys):
    rankings = read_rankings(IMAGEREWARD)
    assert len(rankings) == 466
    assert not capsys.readouterr().err
    pairs, ties = judged_pairs(rankings)
    assert (min(len(one.images) for one in rankings), ties > 0) == (4, True)
    assert all(one.models is None for one in rankings)
    assert len(pairs) > 4000
