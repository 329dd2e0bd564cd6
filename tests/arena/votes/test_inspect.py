"""What is in the files, said before anything runs."""

import polars as pl
import pytest

from arena.__main__ import main


@pytest.fixture
def said(capsys):
    """Return a function that inspects files and gives what was printed."""

    def inspect(*paths, code=0):
        assert main(["inspect", *map(str, paths)]) == code
        printed = capsys.readouterr()
        return printed.err if code else printed.out

    return inspect


def test_the_real_rankings_are_described_with_what_they_lack(said, shared):
    text = said(shared("imagereward/test.json"))
    assert "imagereward" in text
    assert "466 rows = 466 accepted + 0 rejected" in text
    assert "K-wise votes: 466 of 4 to 9 images, 349 with ties" in text
    assert "models not named: in" in text
    assert "share one prior" in text


def test_the_real_battles_fall_into_two_groups(said, shared):
    text = said(shared("genai_arena/clean_battle_20240220.json"))
    assert "2,061 rows = 2,061 accepted + 0 rejected" in text
    assert "groups never compared with each other: 2" in text
    assert "images: not named" in text


def test_votes_an_image_and_a_rater_and_dates_in_the_future(said, votes_of, write_votes):
    votes = votes_of(6).with_columns(
        image_a=pl.lit("same.png"),
        created_at=pl.when(pl.int_range(pl.len()) == 5)
        .then(pl.datetime(2090, 1, 1, time_zone="UTC"))
        .otherwise("created_at"),
    )
    text = said(write_votes("csv", votes))
    assert "votes an image: 1 to 6, median 1; 1 images (14%) were compared more than once" in text
    assert "votes a rater: 3 to 3, median 3; 2 gave fewer than 5" in text
    assert "in the future: 1 votes, such as v5 of 2090-01-01" in text


def test_what_would_be_rejected_is_named_once_a_reason(said, votes_of, write_votes):
    votes = votes_of(6).with_columns(outcome=pl.Series(["a", "?", "?", "b", "tie", ""]))
    path = write_votes("csv", votes)
    text = said(path)
    assert "6 rows = 3 accepted + 3 rejected + 0 exact duplicates" in text
    assert f"rejected: 3 in {path}, first in row 2: outcome not a, b or tie ('?')" in text


def test_a_file_given_twice_is_said_to_be_the_same(said, votes_of, write_votes):
    votes = votes_of(4).drop("vote_id")
    first, second = (write_votes("csv", votes, name) for name in ("1.csv", "2.csv"))
    text = said(first, second)
    assert f"{second}: the same as {first}" in text
    assert "8 rows = 4 accepted + 0 rejected + 4 exact duplicates" in text


def test_a_folder_may_be_inspected_and_what_is_none_is_a_sentence(said, votes_of, write_votes):
    path = write_votes("csv", votes_of(4))
    assert "4 accepted" in said(path.parent)
    assert said(path.parent / "gone.csv", code=1).count("\n") == 1
