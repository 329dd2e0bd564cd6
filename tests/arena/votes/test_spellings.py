"""What people write for one thing: outcomes, times, names of columns, and JSON around the rows."""

import json
from datetime import UTC, datetime

import pytest

from arena.votes.faults import VotesError
from arena.votes.options import Options
from arena.votes.read import read_ballots, read_votes

HEADER = "model_a,model_b,outcome"
WORDS = {
    "a": (
        *("A is better", "Left is better", "model_a wins", "a wins", "option_a", "Response A"),
        *("A>B", "[[A]]", "[[A>>B]]", "left_vote", "Model-A", "image 1"),
    ),
    "b": ("B is better", "RIGHT", "model b won", "output_b", "B>A", "A << B", "right-vote"),
    "tie": (
        *("both-bad", "both_are_bad", "Both are good", "Tie (both bad)", "no preference"),
        *("A=B", "tied", "BOTH", "bothbad_vote", "tie-vote", "both_ok", "Neither is good"),
        *("Both equally good", "Equally bad", "tie (inconsistent)", "No difference"),
    ),
}


@pytest.mark.parametrize("outcome", WORDS)
def test_outcomes_are_read_however_they_are_worded(outcome, read_text):
    rows = "".join(f"x,y,{word}\n" for word in WORDS[outcome])
    assert read_text(f"{HEADER}\n{rows}").votes["outcome"].to_list() == [outcome] * len(
        WORDS[outcome]
    )


@pytest.mark.parametrize("word", ["1", "0", "none", "skip", "better", "wins", "vote", "c"])
def test_a_word_that_may_mean_either_is_no_outcome(word, read_text):
    assert read_text(f"{HEADER}\nx,y,{word}\n").accepted == 0


@pytest.mark.parametrize(
    "spelled",
    [
        "2024-04-24T18:36:59,5Z",
        "2024-04-24 18:36:59.500 +0000 UTC",
        "2024-4-24 18:36:59.5",
        "2024/4/24 18:36:59.5",
    ],
)
def test_a_moment_with_its_half_second(spelled, read_text):
    reading = read_text(f'{HEADER},created_at\nx,y,a,"{spelled}"\n')
    assert reading.votes["created_at"].item() == datetime(2024, 4, 24, 18, 36, 59, 500_000, UTC)


@pytest.mark.parametrize(
    "spelled",
    [
        "Wed, 24 Apr 2024 18:36:59 GMT",
        "24 Apr 2024 20:36:59 +0200",
        "20240424T183659Z",
        "2024-04-24t18:36:59z",
        "2024-04-24T20:36:59+02:00[Europe/Berlin]",  # Java's ZonedDateTime
        "2024-04-24 20:36:59 UTC+02:00",
        "Wed Apr 24 2024 20:36:59 GMT+0200 (Central European Summer Time)",  # JavaScript's Date
        "Wed Apr 24 18:36:59 2024",  # C's asctime
        45406 + 67019 / 86400,  # a spreadsheet's days
    ],
)
def test_a_moment_as_other_programs_show_it(spelled, read_text):
    reading = read_text(f'{HEADER},created_at\nx,y,a,"{spelled}"\n')
    assert reading.votes["created_at"].item() == datetime(2024, 4, 24, 18, 36, 59, tzinfo=UTC)


@pytest.mark.parametrize("spelled", ["04/05/2024 18:36", "5.4.2024"])
def test_a_day_that_may_be_a_month_is_no_time(spelled, read_text):
    reading = read_text(f"{HEADER},created_at\nx,y,a,{spelled}\n")
    assert (reading.accepted, reading.doubts["column"].to_list()) == (1, ["created_at"])


@pytest.mark.parametrize(
    "header",
    [
        "generator_a,generator_b,preferred_model",
        "Model A ID,Model B ID,Result",
        "modelA,modelB,winner",
        "leftModel,rightModel,preferredModel",
        "system_a,system_b,verdict",
    ],
)
def test_columns_as_teams_call_them(header, read_text):
    assert read_text(f"{header}\nx,y,a\n").votes["model_a"].to_list() == ["x"]


def test_wins_and_ties_are_counts(read_text):
    votes = read_text("model_a,model_b,wins_a,wins_b,ties\nx,y,3,2,1\n").votes
    assert votes.select("outcome", "votes_a", "votes_b", "votes_tie").rows() == [("a", 3, 2, 1)]
    assert read_text(f"{HEADER},num_votes\nx,y,b,4\n").votes["votes_b"].to_list() == [4]


def test_of_several_dimensions_one_is_read_when_it_is_named(read_text, tmp_path):
    text = f"{HEADER},criterion\nx,y,a,quality\nx,y,b,alignment\nx,y,b, quality \n"
    assert read_text(text).accepted == 3
    reading = read_text(text, dimension="quality")
    assert reading.votes["outcome"].to_list() == ["a", "b"]
    assert reading.files[0].skipped == {"votes in other dimensions": 1}
    path = tmp_path / "votes.csv"
    assert read_ballots([path], Options(dimension="Quality"))[0].height == 2
    with pytest.raises(VotesError, match="no vote can be used: 3 votes in other dimensions"):
        read_votes([path], dimension="colour").require()


VOTE = {"model_a": "x", "model_b": "y", "outcome": "a"}


@pytest.mark.parametrize(
    "document",
    [
        {"votes": [VOTE], "version": 2},
        {"data": [VOTE], "meta": {"rows": 1}},
        {name: [value] for name, value in VOTE.items()},
    ],
)
def test_json_around_the_rows(document, read_text):
    assert read_text(json.dumps(document)).votes["outcome"].to_list() == ["a"]
