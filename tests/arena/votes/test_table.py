"""The votes table in its own formats: what is accepted, what is rejected and what is said."""

from datetime import UTC, datetime

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from arena.schema import REJECTED, VOTES
from arena.votes.faults import VotesError
from arena.votes.read import read_votes

KINDS = ["csv", "jsonl", "parquet"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_column_comes_back_as_it_was_written(kind, votes_of, write_votes):
    votes = votes_of()
    reading = read_votes([write_votes(kind, votes)])
    assert_frame_equal(reading.votes, votes.select(*VOTES))
    assert dict(reading.votes.schema) == VOTES
    assert dict(reading.rejected.schema) == REJECTED
    assert (reading.rows, reading.rejected.height, reading.duplicates) == (6, 0, 0)
    assert list(reading.formats.values()) == [kind]


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
    path = write_votes(kind, votes_of().drop(missing))
    with pytest.raises(VotesError, match=f"no column {missing}") as caught:
        read_votes([path])
    assert str(path) in str(caught.value)
    assert "prompt_id" in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_that_nobody_knows_is_left_alone(kind, votes_of, write_votes):
    path = write_votes(kind, votes_of().with_columns(mood=pl.lit("good")))
    assert read_votes([path]).votes.columns == list(VOTES)


def test_each_fault_is_one_rejection_with_its_row_column_and_value(write_votes):
    votes = pl.DataFrame(
        {
            "model_a": ["x", "", "x", "x", "x", None],
            "model_b": ["y", "y", "y", "y", "  ", "y"],
            "outcome": ["a", "a", "draw", "b", "b", "tie"],
            "confidence": ["0.5", "0.5", "0.5", "1.5", "1", "1"],
        }
    )
    reading = read_votes([write_votes("csv", votes)])
    assert reading.votes.height == 1
    assert reading.rejected.select("row", "column", "reason", "value").rows() == [
        (2, "model_a", "empty", None),
        (3, "outcome", "not a, b or tie", "draw"),
        (4, "confidence", "not a number from 0 to 1", "1.5"),
        (5, "model_b", "empty", "  "),
        (6, "model_a", "empty", None),
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02 03:04:05.25+01:00", datetime(2026, 1, 2, 2, 4, 5, 250_000, tzinfo=UTC)),
        ("2026-01-02T03:04", datetime(2026, 1, 2, 3, 4, tzinfo=UTC)),
        ("2026-01-02", datetime(2026, 1, 2, tzinfo=UTC)),
        ("0.5", datetime(1970, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)),
        ("1700000000", datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
    ],
)
def test_times_are_read_in_every_usual_spelling_within_one_column(given, expected, write_votes):
    votes = pl.DataFrame(
        {
            "model_a": ["x"] * 3,
            "model_b": ["y"] * 3,
            "outcome": ["a"] * 3,
            "created_at": ["2020-02-02", given, None],
        }
    )
    found = read_votes([write_votes("csv", votes)]).votes["created_at"].to_list()
    assert found == [datetime(2020, 2, 2, tzinfo=UTC), expected, None]


def test_milliseconds_and_words_are_no_times(write_votes):
    votes = pl.DataFrame(
        {
            "model_a": ["x"] * 3,
            "model_b": ["y"] * 3,
            "outcome": ["a"] * 3,
            "created_at": ["1700000000000", "yesterday", "2026-13-01"],
        }
    )
    rejected = read_votes([write_votes("csv", votes)]).rejected
    assert rejected["column"].unique().to_list() == ["created_at"]
    assert rejected["value"].to_list() == ["1700000000000", "yesterday", "2026-13-01"]


def test_a_row_that_is_none_is_rejected_and_the_others_stay(tmp_path):
    csv = tmp_path / "votes.csv"
    csv.write_text("model_a,model_b,outcome\nx,y,a\nx,y\n\nx,y,b,more\ny,x,tie\n")
    reading = read_votes([csv])
    assert (reading.rows, reading.votes.height) == (4, 2)
    assert reading.rejected["reason"].to_list() == [
        "2 fields where the header has 3",
        "4 fields where the header has 3",
    ]
    jsonl = tmp_path / "votes.jsonl"
    good = '{"model_a": "x", "model_b": "y", "outcome": "a"}'
    jsonl.write_text(f'{good}\n{{"model_a": \n[1]\n{good}\n')
    reading = read_votes([jsonl])
    assert (reading.rows, reading.votes.height) == (4, 2)
    assert reading.rejected["row"].to_list() == [2, 3]


def test_a_file_that_cannot_be_read_says_what_to_do(tmp_path):
    with pytest.raises(VotesError, match=r"gone\.csv: cannot be read .*check the path"):
        read_votes([tmp_path / "gone.csv"])
    (tmp_path / "empty.csv").write_text(" \n")
    with pytest.raises(VotesError, match="the file is empty"):
        read_votes([tmp_path / "empty.csv"])
    (tmp_path / "latin.csv").write_bytes("model_a,model_b,outcome\né,y,a\n".encode("latin-1"))
    with pytest.raises(VotesError, match=r"latin\.csv: not UTF-8 text .*save it as UTF-8"):
        read_votes([tmp_path / "latin.csv"])


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    path = tmp_path / "excel.csv"
    path.write_text("model_a,model_b,outcome\nx,y,a\n", encoding="utf-8-sig")
    assert read_votes([path]).votes.height == 1


def test_a_nested_column_is_refused_by_name(tmp_path):
    path = tmp_path / "votes.parquet"
    pl.DataFrame(
        {"model_a": ["x"], "model_b": ["y"], "outcome": ["a"], "prompt": [["p"]]}
    ).write_parquet(path)
    with pytest.raises(VotesError, match=r"votes\.parquet: column prompt holds List"):
        read_votes([path])


def test_a_vote_id_names_one_vote(votes_of, write_votes):
    votes = votes_of(3)
    again = votes[:1]
    clash = votes[1:2].with_columns(outcome=pl.lit("a"))
    reading = read_votes([write_votes("jsonl", pl.concat([votes, again, clash]))])
    assert (reading.rows, reading.votes.height, reading.duplicates) == (5, 3, 1)
    assert reading.rejected.select("row", "column", "value").rows() == [(5, "vote_id", "v1")]


def test_images_beside_the_file_become_whole_paths_and_urls_stay(tmp_path, votes_of, write_votes):
    (tmp_path / "0-a.png").write_bytes(b"")
    votes = votes_of(1).with_columns(image_b=pl.lit("https://example.org/0-b.png"))
    path = write_votes("csv", votes)
    kept = read_votes([path]).votes
    found = read_votes([path], resolve_images=True).votes
    assert kept["image_a"].item() == "0-a.png"
    assert found["image_a"].item() == str((tmp_path / "0-a.png").resolve())
    assert found["image_b"].item() == "https://example.org/0-b.png"
