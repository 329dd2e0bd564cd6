"""Chatbot Arena's, GenAI-Arena's and LMArena's exports.

Layouts: FastChat's clean_battle_data.py (question_id, model_a, model_b, winner, judge,
conversation_a, conversation_b, turn, anony, language, tstamp); the cards of
lmarena-ai/arena-human-preference-140k (id, model_a, model_b, winner: "model_a, model_b, tie, or
both_bad", evaluation_session_id, evaluation_order, conversation_a, ..., timestamp) and of
lmsys/lmsys-arena-human-preference-55k, train.csv (id, model_a, model_b, prompt, response_a,
response_b, winner_model_a, winner_model_b, winner_tie).
"""

import json

import polars as pl
import pytest

from arena.votes.read import read_votes

BATTLE = {
    "question_id": "58210e39b3fd4441a2bd4a518bb44c2d",
    "model_a": "m",
    "model_b": "n",
    "winner": "model_b",
    "judge": "arena_user_973",
    "conversation_a": [{"role": "user", "content": "hi"}],
    "conversation_b": [{"role": "user", "content": "hi"}],
    "turn": 1,
    "anony": True,
    "language": "English",
    "tstamp": 1682351591.1322,
}


def test_the_real_battles_of_genai_arena(shared):
    path = shared("genai_arena/clean_battle_20240220.json")
    reading = read_votes([path])
    votes = reading.votes
    assert (reading.rows, votes.height, reading.rejected.height) == (2061, 2061, 0)
    drawing = votes.filter(pl.col("model_a").str.ends_with("_generation"))
    assert drawing.height == 1978
    assert pl.concat([drawing["model_a"], drawing["model_b"]]).n_unique() == 6
    tied = sum(battle["winner"].startswith("tie") for battle in json.loads(path.read_text()))
    assert (votes["outcome"] == "tie").sum() == tied
    assert votes.filter("anonymous", pl.col("model_a").str.ends_with("_generation")).height == 1451


def test_a_battle_is_read_without_its_conversations(read_records):
    reading = read_records(BATTLE)
    vote = reading.votes.row(0, named=True)
    assert (vote["outcome"], vote["rater"], vote["anonymous"]) == ("b", "arena_user_973", True)
    assert vote["prompt_id"] == BATTLE["question_id"]
    assert {"conversation_a", "turn", "language"} <= set(reading.files[0].unread)


def test_a_question_is_no_vote_and_may_come_often(read_records):
    # As in lmsys/mt_bench_human_judgments: question 81 was judged by many.
    judged = [BATTLE | {"question_id": 81, "winner": w} for w in ("model_a", "model_b", "tie")]
    assert read_records(*judged).accepted == 3


def test_lmarena_s_id_is_the_vote_s(read_records):
    battle = {name: BATTLE[name] for name in ("model_a", "model_b")}
    reading = read_records(
        battle | {"id": "f3c9", "winner": "both_bad", "evaluation_order": 1}, BATTLE
    )
    assert reading.votes["vote_id"][0] == "f3c9"
    assert reading.votes["outcome"].to_list() == ["tie", "b"]


HEADER = "id,model_a,model_b,prompt,response_a,response_b,winner_model_a,winner_model_b,winner_tie"
ONE_HOT = """
30192,m,n,"[""hi""]","[""a""]","[""b""]",1,0,0
53567,m,n,"[""hi""]","[""a""]","[""b""]",0,1,0
65089,m,n,"[""hi""]","[""a""]","[""b""]",0,0,1
96401,m,n,"[""hi""]","[""a""]","[""b""]",1,1,0
"""


def test_a_winner_in_three_columns(read_text):
    reading = read_text(HEADER + ONE_HOT)
    assert reading.votes["outcome"].to_list() == ["a", "b", "tie"]
    assert reading.votes["vote_id"].to_list() == ["30192", "53567", "65089"]
    assert reading.rejected["value"].to_list() == ["1, 1, 0"]


def test_a_team_s_own_table_with_a_winner_keeps_its_columns(read_text):
    header = "model_a,model_b,winner,image_a,image_b,user_id,created_at,prompt_id"
    vote = read_text(f"{header}\nm,n,n,1.png,2.png,7,2026-01-01,p\n").votes.row(0, named=True)
    assert (vote["outcome"], vote["image_b"], vote["rater"]) == ("b", "2.png", "7")
    assert vote["created_at"] is not None
    assert vote["prompt_id"] == "p"


@pytest.mark.parametrize("kind", ["left_model", "model_left", "model_1", "model1"])
def test_models_under_the_usual_pairs_of_names(kind, read_text):
    other = {"left_model": "right_model", "model_left": "model_right"}.get(kind, kind[:-1] + "2")
    assert read_text(f"{kind},{other},choice\nm,n,left\n").votes["model_b"].item() == "n"
