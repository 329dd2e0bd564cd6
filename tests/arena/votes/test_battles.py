import json

import polars as pl
import pytest

from arena.votes.faults import VotesError
from arena.votes.read import read_votes

BATTLE = {
    "model_a": "m",
    "model_b": "n",
    "winner": "model_a",
    "judge": "someone",
    "anony": True,
    "tstamp": 1707700514.3167,
}


def test_the_real_battles_of_genai_arena(shared):
    reading = read_votes([shared("genai_arena/clean_battle_20240220.json")])
    votes = reading.votes
    assert (reading.rows, votes.height, reading.rejected.height) == (2061, 2061, 0)
    drawing = votes.filter(pl.col("model_a").str.ends_with("_generation"))
    assert drawing.height == 1978
    assert pl.concat([drawing["model_a"], drawing["model_b"]]).n_unique() == 6
    assert votes.filter(pl.col("model_a").str.ends_with("_edition")).height == 83
    battles = json.loads(shared("genai_arena/clean_battle_20240220.json").read_text())
    tied = sum(battle["winner"].startswith("tie") for battle in battles)
    assert votes.filter(pl.col("outcome") == "tie").height == tied
    assert votes["rater"].unique().to_list() == ["arena_user_::1"]
    assert votes["created_at"].min().isoformat().startswith("2024-02-12T01:15:14.3167")


def test_winners_are_translated_and_both_bad_is_a_tie(write_json):
    winners = ["model_a", "model_b", "tie", "tie (bothbad)"]
    votes = read_votes([write_json([BATTLE | {"winner": each} for each in winners])]).votes
    assert votes["outcome"].to_list() == ["a", "b", "tie", "tie"]


def test_an_unknown_winner_or_no_object_is_rejected_under_its_own_name(write_json):
    reading = read_votes([write_json([BATTLE, BATTLE | {"winner": "both"}, 7, {"model_a": "m"}])])
    assert (reading.rows, reading.votes.height) == (4, 1)
    assert reading.rejected.select("row", "column").rows() == [
        (2, "winner"),
        (3, ""),
        (4, "model_b"),
    ]
    assert "both" in reading.rejected["value"][0]


def test_a_file_that_holds_no_battles_says_what_it_misses(write_json, tmp_path):
    with pytest.raises(VotesError, match=r"votes\.json: .*winner"):
        read_votes([write_json([{"model_a": "m", "model_b": "n"}])])
    (tmp_path / "cut.json").write_text(json.dumps([BATTLE] * 3)[:-20])
    with pytest.raises(VotesError, match=r"cut\.json: not readable JSON"):
        read_votes([tmp_path / "cut.json"])
