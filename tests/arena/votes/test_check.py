"""What makes a row a vote, and what cannot condemn it."""

from datetime import UTC, datetime

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from vote_files import adds_up

from arena.schema import REJECTED, VOTES
from arena.votes.faults import VotesError
from arena.votes.read import read_ballots, read_votes

KINDS = ["csv", "json", "jsonl", "parquet"]
HEADER = "model_a,model_b,outcome"


def said(table):
    return table.select("row", "column", "reason", "value").rows()


@pytest.mark.parametrize("kind", KINDS)
def test_every_column_comes_back_as_it_was_written(kind, votes_of, write_votes):
    votes = votes_of().with_columns(ranking=pl.lit(None, pl.String))
    reading = adds_up(read_votes([write_votes(kind, votes)]))
    assert_frame_equal(reading.votes, votes.select(*VOTES))
    assert dict(reading.votes.schema) == VOTES
    assert dict(reading.rejected.schema) == dict(reading.doubts.schema) == REJECTED
    assert reading.files[0].unread == ["ranking"]


@pytest.mark.parametrize("kind", KINDS)
def test_only_three_columns_are_needed(kind, votes_of, write_votes):
    path = write_votes(kind, votes_of().select("outcome", "model_b", "model_a"))
    votes = read_votes([path]).votes
    assert votes["source"].to_list() == [path.name] * 6
    assert votes["vote_id"].n_unique() == 6
    assert votes["prompt"].null_count() == 6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("missing", ["model_a", "model_b", "outcome"])
def test_a_missing_column_is_named_with_the_file_and_those_there(
    kind, missing, votes_of, write_votes
):
    path = write_votes(kind, votes_of().drop(missing, "votes_a", "votes_b"))
    with pytest.raises(VotesError, match=f"no column {missing}") as caught:
        read_votes([path])
    assert str(caught.value).startswith(str(path))
    assert "prompt_id" in str(caught.value)
    assert "--columns" in str(caught.value)


def test_each_fault_is_one_rejection_with_its_row_column_and_value(read_text):
    reading = read_text(f"{HEADER}\nx,y,a\n,y,a\nx,y,perhaps\nx,  ,b\nNULL,y,?\nx,y,\n")
    assert said(reading.rejected) == [
        (2, "model_a", "empty", None),
        (3, "outcome", "not a, b or tie", "perhaps"),
        (4, "model_b", "empty", "  "),
        (5, "model_a", "empty", "NULL"),
        (6, "outcome", "not a, b or tie", None),
    ]
    assert reading.accepted == 1


def test_a_null_outcome_in_any_container_is_rejected(read_records):
    vote = {"model_a": "m", "model_b": "n"}
    reading = read_records(vote | {"outcome": "a"}, vote | {"outcome": None}, vote)
    assert (reading.accepted, reading.rejected["row"].to_list()) == (1, [2, 3])


def test_an_optional_column_never_costs_a_vote(read_text):
    columns = "created_at,rater,votes_a,count,anonymous"
    reading = read_text(f"{HEADER},{columns}\nm,n,a,yesterday,9.5e99,many,-3,perhaps\n")
    assert (reading.accepted, reading.rejected.height) == (1, 0)
    vote = reading.votes.row(0, named=True)
    assert (vote["created_at"], vote["rater"], vote["votes_a"], vote["anonymous"]) == (None,) * 4
    assert set(reading.doubts["column"]) == {"created_at", "rater", "votes_a", "count"}


@pytest.mark.parametrize("value", [["p"], {"text": "p"}])
def test_an_optional_column_may_nest(value, tmp_path):
    path = tmp_path / "votes.parquet"
    columns = {"model_a": ["m"], "model_b": ["n"], "outcome": ["a"], "prompt": [value]}
    pl.DataFrame(columns).write_parquet(path)
    assert read_votes([path]).accepted == 1


def test_bytes_are_no_image_s_name_and_cost_no_vote(tmp_path):
    path = tmp_path / "votes.parquet"
    columns = {"model_a": ["m"], "model_b": ["n"], "outcome": ["a"], "image_a": [b"\xff\xd8"]}
    pl.DataFrame(columns).write_parquet(path)
    reading = adds_up(read_votes([path]))
    assert (reading.accepted, reading.doubts["column"].to_list()) == (1, ["image_a"])


def test_a_model_that_nests_is_refused_by_name(tmp_path):
    path = tmp_path / "votes.parquet"
    pl.DataFrame({"model_a": [["x"]], "model_b": ["y"], "outcome": ["a"]}).write_parquet(path)
    with pytest.raises(VotesError, match=r"votes\.parquet: column model_a holds List"):
        read_votes([path])


def test_a_model_s_name_has_an_end_and_one_line(read_text):
    reading = read_text(f'{HEADER}\n{"x" * 501},y,a\n"x\ny",z,a\nx,y,a\n')
    assert reading.rejected["reason"].to_list() == [
        "longer than 500 bytes",
        "holds a control character",
    ]


def test_a_string_of_ten_megabytes_is_a_vote_or_a_rejection(read_text):
    long = "x" * 10_000_000
    reading = read_text(f"{HEADER},prompt\nx,y,a,{long}\n{long},y,a,p\nx,y,{long},p\n")
    assert (reading.rows, reading.accepted) == (3, 1)
    assert reading.rejected.select("row", "column").rows() == [(2, "model_a"), (3, "outcome")]
    assert reading.rejected["value"].str.len_chars().max() == 200


WORDS = {
    "a": ["a", "A", " a ", "model_a", "Model A", "left", "leftvote", "image_1", "image_a"],
    "b": ["b", "B", "model_b", "right", "rightvote", "image_2", "MODEL_B"],
    "tie": [
        *("tie", "Tie", "tievote", "tie (bothbad)", "tie (both bad)", "both_bad", "Both bad"),
        *("bothbad_vote", "both_good", "both", "neither", "equal", "draw"),
    ],
}


@pytest.mark.parametrize("expected", WORDS)
def test_the_words_that_arenas_have_for_an_outcome(expected, read_text):
    lines = "".join(f"m,n,{word}\n" for word in WORDS[expected])
    reading = read_text(f"{HEADER}\n{lines}")
    assert reading.votes["outcome"].to_list() == [expected] * len(WORDS[expected])


def test_the_winner_s_own_name_is_an_outcome(read_text):
    reading = read_text(f"{HEADER}\nflux,sdxl,flux\nflux,sdxl, sdxl\nflux,sdxl,kolors\n")
    assert reading.votes["outcome"].to_list() == ["a", "b"]
    assert reading.rejected["value"].to_list() == ["kolors"]


def test_the_winner_s_image_is_an_outcome(read_text):
    reading = read_text(f"{HEADER},image_a,image_b\nm,m,2.png,1.png,2.png\n")
    assert reading.votes["outcome"].to_list() == ["b"]


def test_a_word_that_is_the_other_model_s_name_is_refused(read_text):
    reading = read_text(f"{HEADER}\nA,B,A\nB,A,A\nB,A,a\n")
    assert reading.votes["outcome"].to_list() == ["a", "a"]
    assert said(reading.rejected)[0][:2] == (2, "outcome")
    assert "say which by --outcomes" in reading.rejected["reason"][0]
    told = read_text(f"{HEADER}\nA,B,A\nB,A,A\nB,A,a\n", outcomes={"A": "a", "B": "b"})
    assert told.votes["outcome"].to_list() == ["a"] * 3


def test_a_model_against_itself_cannot_win_by_name(read_text):
    assert read_text(f"{HEADER}\nm,m,m\n").rejected["column"].to_list() == ["outcome"]


def test_counts_say_how_many_chose_each(read_text):
    reading = read_text(f"{HEADER},votes_a,votes_b\nm,n,a,3,1\nm,n,b,,\nm,n,tie,2,2\n")
    counts = reading.votes.select("votes_a", "votes_b", "votes_tie")
    assert counts.rows() == [(3, 1, 0), (None,) * 3, (2, 2, 0)]


def test_counts_without_an_outcome_tell_it(read_text):
    header = "model_a,model_b,votes_a,votes_b,votes_tie"
    reading = read_text(f"{header}\nm,n,3,4,0\nm,n,2,2,0\nm,n,3,1,9\nm,n,0,0,0\nm,n,x,1,0\n")
    assert reading.votes["outcome"].to_list() == ["b", "tie", "tie"]
    assert reading.rejected["row"].to_list() == [4, 5]


def test_counts_that_are_none_are_one_vote(read_text):
    lines = "m,n,a,-2\nm,n,a,2.5\nm,n,a,99999999999\nm,n,a,many\nm,n,a,\nm,n,a,1\nm,n,a,4.0\n"
    reading = read_text(f"{HEADER},count\n{lines}")
    assert reading.votes["votes_a"].to_list() == [None] * 6 + [4]
    assert reading.doubts["row"].to_list() == [1, 2, 3, 4]


def test_no_votes_at_all_is_no_vote(read_text):
    reading = read_text(f"{HEADER},count\nm,n,a,0\nm,n,b,1\n")
    assert said(reading.rejected) == [(1, "count", "0 votes", "0")]


def test_counts_against_the_outcome_are_left_out(read_text):
    reading = read_text(f"{HEADER},votes_a,votes_b\nm,n,a,1,3\n")
    assert reading.votes["votes_a"].to_list() == [None]
    assert "the counts say otherwise" in reading.doubts["reason"][0]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02 03:04:05.25+01:00", datetime(2026, 1, 2, 2, 4, 5, 250_000, tzinfo=UTC)),
        ("2026-01-02T03:04", datetime(2026, 1, 2, 3, 4, tzinfo=UTC)),
        ("2026-01-02", datetime(2026, 1, 2, tzinfo=UTC)),
        ("2026/01/02 03:04:05", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("0.5", datetime(1970, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)),
        ("1700000000", datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        ("1700000000000", datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        ("1700000000000000", datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        ("1700000000000000000", datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        ("yesterday", None),
        ("2026-13-01", None),
        ("2999-01-01", None),
        ("-1e300", None),
        ("inf", None),
    ],
)
def test_times_of_different_spellings_in_one_column(given, expected, read_text):
    reading = read_text(f"{HEADER},created_at\nx,y,a,2020-02-02\nx,y,a,{given}\nx,y,a,\n")
    found = reading.votes["created_at"].to_list()
    assert found == [datetime(2020, 2, 2, tzinfo=UTC), expected, None]
    assert reading.doubts.height == (expected is None)


def test_mongodb_wraps_times_and_ids(read_records):
    vote = {"model_a": "m", "model_b": "n", "outcome": "a"}
    wrapped = {"created_at": {"$date": {"$numberLong": "1700000000000"}}, "rater": {"$oid": "5f"}}
    votes = read_records(vote | wrapped).votes
    assert votes["created_at"].item() == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert votes["rater"].item() == "5f"


def test_ids_above_two_to_the_53_are_exact_as_whole_numbers_and_as_text(read_records):
    vote = {"model_a": "m", "model_b": "n", "outcome": "a"}
    ids = [2**53 + 1, str(2**60 + 1), 7.0, 2.0**60]
    reading = read_records(*(vote | {"vote_id": each} for each in ids))
    assert reading.votes["vote_id"].to_list() == ["9007199254740993", str(2**60 + 1), "7"]
    assert reading.rejected["row"].to_list() == [4]


def test_a_vote_id_names_one_vote(votes_of, write_votes):
    votes = votes_of(3)
    clash = votes[1:2].with_columns(prompt=pl.lit("other"))
    reading = adds_up(read_votes([write_votes("json", pl.concat([votes, votes[:1], clash]))]))
    assert (reading.rows, reading.votes.height, reading.duplicates) == (5, 3, 1)
    assert said(reading.rejected) == [(5, "vote_id", "another vote has this vote_id", None)]


def test_ten_thousand_models_are_no_trouble(read_text):
    reading = read_text(HEADER + "\n" + "".join(f"m{i},m{i + 1},a\n" for i in range(9_999)))
    assert reading.votes["model_a"].n_unique() == 9_999


def test_ballots_of_a_file_with_a_broken_line_are_its_other_rows(tmp_path):
    path = tmp_path / "votes.csv"
    path.write_text(f"{HEADER}\nx,y,a\ny,z\nx,z,b\n")
    ballots, reading = read_ballots([path])
    assert ballots["model_b"].to_list() == ["y", "z"]
    assert (reading.accepted, reading.rejected["row"].to_list()) == (2, [2])


@pytest.mark.parametrize("kind", KINDS)
def test_ballots_are_the_votes_without_what_no_estimator_needs(kind, votes_of, write_votes):
    votes = votes_of(9).with_columns(
        model_a=pl.when(pl.int_range(9) == 4).then(pl.lit(" ")).otherwise("model_a")
    )
    paths = [write_votes(kind, votes[:5], "1"), write_votes(kind, votes[3:], "2")]
    for some in (paths, paths[:1]):
        whole = read_votes(some)
        ballots, few = read_ballots(some)
        for name in ("model_a", "model_b", "outcome", "created_at", "votes_a", "votes_b"):
            assert ballots[name].cast(VOTES[name]).equals(whole.votes[name])
        assert few.rejected.equals(whole.rejected)
        assert (few.rows, few.duplicates) == (whole.rows, whole.duplicates)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_hexadecimal_id_is_no_float(tmp_path, ending):
    """One of a thousand random ids has a single e among digits: 129e1327... is no 10^1327."""
    ids = ["129e132796629756", "12e3", "1E5", "7e300", "00e1"]
    floats = {"1.7e3": "1700", "1e+3": "1000", "12.0": "12"}  # as polars, Python and a csv spell
    rows = {"vote_id": [*ids, *floats], "model_a": "x", "model_b": "y", "outcome": "a"}
    path = tmp_path / f"votes.{ending}"
    frame = pl.DataFrame(rows)
    write = {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}
    write[ending](path)
    reading = read_votes(path)
    assert reading.rejected.is_empty()
    assert reading.votes["vote_id"].to_list() == [*ids, *floats.values()]
