"""What a person is told of votes before anything runs."""

import polars as pl
import pytest

from arena.votes.read import read_votes
from arena.votes.summary import describe, notes

HEADER = "model_a,model_b,outcome"


def test_the_real_rankings_are_described_with_what_they_lack(shared):
    text = describe(read_votes([shared("imagereward/test.json")]))
    assert "466 rows = 466 accepted + 0 rejected" in text
    assert "K-wise votes: 466 of 4 to 9 images, 349 with ties" in text
    assert "models not named: in" in text
    assert "share one prior" in text


def test_the_real_battles_fall_into_two_groups(shared):
    text = describe(read_votes([shared("genai_arena/clean_battle_20240220.json")]))
    assert "2,061 rows = 2,061 accepted + 0 rejected" in text
    assert "groups never compared with each other: 2" in text
    assert "models' names were shown: in " in text
    assert "images: not named" in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{HEADER},mood\nm,n,a,good\n", "not read: mood"),
        (f"{HEADER}\nm,n,a\n", "columns: model_a = model_a, model_b = model_b"),
        (f"{HEADER}\nm,n,a\n", "not there: vote_id, source, prompt_id"),
        (f"{HEADER}\nm ,n,a\nM,n,a\n", "the same model? 'M' / 'm' differ by blanks, case"),
        (f"{HEADER}\nｍ,n,a\nm,n,a\n", "differ by blanks, case or Unicode form only"),
        (f"{HEADER},rater\nm,n,a,u\nm,n,b,u\n", "a single rater gave all of them"),
        (f"{HEADER},anony\nm,n,a,false\nm,n,b,true\n", "names were shown: in 1 of 2 votes"),
        (f"{HEADER},count\nm,n,a,9\nm,n,b,2\n", "votes: 11 in 2 rows, 2 rows of several raters"),
        (f"{HEADER}\nm,m,a\nm,n,a\n", "a model against itself: 1"),
        (f"{HEADER},created_at\nm,n,a,2090-01-01\n", "in the future: 1 votes, such as "),
        (f"{HEADER},created_at\nm,n,a,soon\n", "created_at not a time before 2100"),
    ],
)
def test_what_there_is_to_say_is_said(text, said, read_text):
    assert said in describe(read_text(text))


def test_image_files_are_looked_for_and_the_folder_is_named(read_text, tmp_path):
    (tmp_path / "1.png").write_bytes(b"")
    text = describe(read_text(f"{HEADER},image_a,image_b\nm,n,a,1.png,2.png\n"))
    assert f"image files: 1 of 2 looked for are there, from {tmp_path}; 2.png is not" in text


def test_rejections_are_said_once_for_each_reason(votes_of, write_votes):
    votes = votes_of(6).with_columns(outcome=pl.Series(["a", "?", "?", "b", "tie", ""]))
    path = write_votes("csv", votes)
    text = describe(read_votes([path]))
    assert "6 rows = 3 accepted + 3 rejected + 0 exact duplicates" in text
    assert f"rejected: 3 in {path}, first in row 2: outcome not a, b or tie ('?')" in text


def test_every_command_says_what_was_left_out_or_counts_once(votes_of, write_votes):
    votes = votes_of(4).drop("vote_id")
    first, second = (write_votes("csv", votes, name) for name in ("1.csv", "2.csv"))
    assert notes(read_votes([first, second])) == [
        f"{second}: the same content as {first}; its votes count once"
    ]
    bad = votes.with_columns(outcome=pl.lit("?"), created_at=pl.lit("soon"))
    said = notes(read_votes([write_votes("csv", bad, "3.csv")]))
    assert said[0].startswith("4 rows rejected, most of all 4 x outcome not a, b or tie")
    assert said[1].startswith("4 values could not be read, most of all 4 x created_at")
    assert notes(read_votes([first])) == []
