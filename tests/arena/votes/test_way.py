"""A vote's way from a csv to the table is short: what is opened, and which of our functions run."""

import sys

import pytest
from entered import entered
from vote_files import make_votes

import arena
from arena.votes.read import read_votes


def plain(folder):
    path = folder / "plain.csv"
    path.write_text("model_a,model_b,outcome\nx,y,a\ny,z,b\nx,z,tie\n")
    return path


def full(folder):
    """Write votes with every column but ids: these are made on the way."""
    path = folder / "full.csv"
    make_votes(6).drop("vote_id").write_csv(path)
    return path


@pytest.mark.parametrize(("write", "most"), [(plain, 17), (full, 20)])
def test_a_csv_takes_few_of_our_functions(write, most, tmp_path):
    path = write(tmp_path)
    read_votes(path)  # what is loaded once is loaded now
    way = entered(arena, lambda: read_votes(path))
    assert 10 < len(way) <= most, sorted(way)


OPENED: list[str] = []


def note_open(event, arguments):
    if event == "open":
        OPENED.append(str(arguments[0]))


@pytest.fixture
def opened():
    """Return the paths that are opened, in order; an audit hook stays for ever."""
    if not hasattr(sys, "arena_watches_open"):
        sys.addaudithook(note_open)
        sys.arena_watches_open = True
    OPENED.clear()
    return OPENED


def test_a_csv_is_opened_once_and_once_more_beside_others(tmp_path, opened):
    path = plain(tmp_path)
    opened.clear()
    assert read_votes(path).accepted == 3
    assert opened.count(str(path)) == 1
    make_votes(3).write_csv(tmp_path / "other.csv")
    opened.clear()
    read_votes(tmp_path)  # which of them are the same is asked first
    assert opened.count(str(path)) == 3


SPELLINGS = (
    ("Model A", "Model B", "Prompt ID", "Created At"),
    ("model-a", "model-b", "prompt-id", "created-at"),
    ("MODEL_A", "MODEL_B", "PROMPT_ID", "CREATED_AT"),
    (" Model  a ", "Model_B", "Prompt-Id", "created at"),
)


@pytest.mark.parametrize("names", SPELLINGS)
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_names_of_columns_are_read_whatever_their_case_blanks_and_hyphens(kind, names, write_votes):
    votes = make_votes(4).select("model_a", "model_b", "prompt_id", "created_at", "outcome")
    expected = read_votes(write_votes(kind, votes, "ours")).votes.drop("source")
    renamed = votes.rename(dict(zip(votes.columns, (*names, "Outcome"), strict=True)))
    assert read_votes(write_votes(kind, renamed, "theirs")).votes.drop("source").equals(expected)


def test_so_are_those_of_published_layouts(read_text, read_records):
    row = 'a/1.png,b/1.png,x,y,p,"[3, 2]"'
    hpd = read_text(f"Path1,Path2,Model1,Model2,Prompt,Choice Dist\n{row}\n")
    assert hpd.votes.select("votes_a", "votes_b").rows() == [(3, 2)]
    log = {"Type": "leftvote", "Tstamp": 1.7e9, "Models": ["x", "y"], "States": []}
    assert read_records(log).votes["outcome"].to_list() == ["a"]
    scores = read_text("T2I Model,Worker-ID,Item ID,Answer\nx,r,p,5\ny,r,p,3\n")
    assert scores.votes["outcome"].to_list() == ["a"]


def test_a_name_as_it_should_be_goes_before_one_like_it(read_text):
    reading = read_text("Model A,model_a,model_b,outcome\nwrong,x,y,a\n")
    assert reading.votes["model_a"].to_list() == ["x"]
    assert reading.files[0].unread == ["Model A"]


def test_a_told_name_may_be_spelled_as_in_the_file_or_not(read_text):
    text = "Left Model,Right Model,Pick\nx,y,left\n"
    for left, right, pick in (
        ("Left Model", "Right Model", "Pick"),
        ("left_model", "right-model", "PICK"),
    ):
        columns = {"model_a": left, "model_b": right, "outcome": pick}
        assert read_text(text, columns=columns).votes["outcome"].to_list() == ["a"]


def test_pick_a_pic_may_name_its_votes(read_text):
    text = "vote_id,caption,model_0,model_1,label_0,label_1\nv7,a cat,x,y,1,0\n"
    assert read_text(text).votes["vote_id"].to_list() == ["v7"]
