"""FastChat's servers and what their own cleaning makes of the log.

Layout: lm-sys/FastChat at 01e89b4, fastchat/serve/monitor/clean_battle_data.py (`remove_html`, the
two empty names of a hidden battle, names that must agree) and gradio_block_arena_anony.py
(`vote_last_response`: tstamp, type, models, states, ip; "### Model A: " after the vote).
"""

import pytest

VOTE = {
    "tstamp": 1750938195.5373,
    "type": "leftvote",
    "models": ["", ""],
    "states": [{"conv_id": "1", "model_name": "m"}, {"conv_id": "2", "model_name": "n"}],
    "ip": "127.0.0.1",
}


def models(reading):
    return reading.votes.select("model_a", "model_b", "anonymous").rows()


@pytest.mark.parametrize(
    "public",
    [
        ["<h3>Model A: m</h3>\n", "<h3>Model B: n</h3>\n"],
        ["### Model A: m", "### Model B: n"],
        ["m", "n"],
    ],
)
def test_names_that_were_shown_are_read_without_their_heading(public, read_records):
    assert models(read_records(VOTE | {"models": public})) == [("m", "n", False)]


@pytest.mark.parametrize("public", [["", ""], ["Model A", "Model B"], [None, None]])
def test_names_that_were_hidden_come_from_the_states(public, read_records):
    assert models(read_records(VOTE | {"models": public})) == [("m", "n", True)]


def test_states_without_names_leave_those_that_were_shown(read_records):
    states = [{"conv_id": "1", "model_name": None}, {"conv_id": "2"}]
    assert models(read_records(VOTE | {"models": ["m", "n"], "states": states})) == [
        ("m", "n", False)
    ]


def test_names_that_disagree_or_come_alone_are_rejected(read_records):
    reading = read_records(VOTE, VOTE | {"models": ["m", "o"]}, VOTE | {"models": ["m", ""]})
    assert reading.rejected["row"].to_list() == [2, 3]


def test_every_other_event_is_no_vote_and_no_fault(read_records):
    others = ["chat", "upvote", "downvote", "flag", "share"]
    reading = read_records(VOTE, *(VOTE | {"type": kind} for kind in others))
    assert (reading.rows, reading.files[0].skipped) == (1, {"events that are no votes": 5})
