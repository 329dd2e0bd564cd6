"""What a person can tell of a table with names of its own."""

import pytest

from arena.votes.faults import VotesError
from arena.votes.formats import FORMATS
from arena.votes.options import Options
from arena.votes.read import read_votes

OWN = "links,rechts,wahl,wer,bild_l,bild_r\nm,n,L,u,1.png,2.png\nm,n,gleich,v,3.png,4.png\n"
COLUMNS = {
    "model_a": "links",
    "model_b": "rechts",
    "outcome": "wahl",
    "rater": "wer",
    "image_a": "bild_l",
    "image_b": "bild_r",
}


def test_columns_and_outcomes_of_a_table_s_own(read_text):
    reading = read_text(OWN, columns=COLUMNS, outcomes={"l": "a", "R": "b", "gleich": "tie"})
    assert reading.votes["outcome"].to_list() == ["a", "tie"]
    assert reading.votes["rater"].to_list() == ["u", "v"]
    assert reading.votes["image_b"].to_list() == ["2.png", "4.png"]


def test_outcomes_may_be_numbers_with_a_sign(read_text):
    numbers = {"1": "a", "-1": "b", "0": "tie"}
    reading = read_text("model_a,model_b,vote\nm,n,1.0\nm,n,-1\nm,n,0\n", outcomes=numbers)
    assert reading.votes["outcome"].to_list() == ["a", "b", "tie"]


def test_one_side_may_be_told_and_the_other_found(read_text):
    text = "left,model_b,outcome\nm,n,a\n"
    assert read_text(text, columns={"model_a": "left"}).votes["model_a"].item() == "m"


def test_a_told_column_adds_to_a_published_layout(read_records):
    pair = {"prompt": "p", "path1": "1", "path2": "2", "model1": "m", "model2": "n", "who": "u"}
    reading = read_records(pair, columns={"rater": "who"})
    assert (reading.files[0].format, reading.votes["rater"].item()) == ("hpd_v3", "u")


def test_unknown_outcomes_name_what_was_told(read_text):
    reading = read_text(OWN, columns=COLUMNS, outcomes={"L": "a"})
    assert reading.rejected["reason"].to_list() == ["not a, b or tie, nor one of l"]


def test_where_no_outcome_is_known_it_says_how_to_tell_them(read_text):
    with pytest.raises(VotesError, match=r"3 x vote not a, b or tie .*; tell other words by --o"):
        read_text("model_a,model_b,vote\nm,n,1\nm,n,2\nm,n,0\n").require()


def test_a_told_column_that_is_not_there_is_named(tmp_path):
    path = tmp_path / "votes.csv"
    path.write_text("model_a,model_b,outcome\nm,n,a\n")
    with pytest.raises(VotesError, match=r"votes\.csv: no column who; it has model_a, model_b"):
        read_votes([path], columns={"rater": "who"})


def test_options_are_judged_at_once():
    with pytest.raises(VotesError, match="no votes format is called 'xml'; there are rankings"):
        Options(format="xml")
    with pytest.raises(VotesError, match="no column of a vote is called 'modell'"):
        Options(columns={"modell": "x"})
    with pytest.raises(VotesError, match="the outcome 'left' is said to be 'won'; say a, b or tie"):
        Options(outcomes={"left": "won"})


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_that_the_file_does_not_have_is_no_vote(name, tmp_path):
    path = tmp_path / "notes"
    path.write_text("Dear diary,\ntoday nothing.\n")
    with pytest.raises(VotesError, match="notes"):
        read_votes([path], format=name).require()


def test_raters_stand_nowhere_in_plain_text_under_a_salt(read_text):
    header = "model_a,model_b,outcome,user_id,created_at"
    text = f"{header}\nm,n,a,alice,soon\nm,n,alice\nm,n,?,alice,\nm,n,b,alice,\n"
    plain = read_text(text)
    hashed, other = (read_text(text, salt=salt) for salt in ("secret", "other"))
    for table in (hashed.votes, hashed.rejected, hashed.doubts):
        assert "alice" not in table.write_json()
    assert hashed.votes["rater"].n_unique() == 1
    assert set(hashed.votes["rater"]).isdisjoint(other.votes["rater"])
    # An id that hashed the rater's name could be guessed back to it.
    assert set(hashed.votes["vote_id"]).isdisjoint(plain.votes["vote_id"])


def test_images_beside_the_file_become_whole_paths_and_urls_stay(tmp_path, read_text):
    (tmp_path / "1.png").write_bytes(b"")
    text = "model_a,model_b,outcome,image_a,image_b\nm,n,a,1.png,https://example.org/2.png\n"
    assert read_text(text).votes["image_a"].item() == "1.png"
    votes = read_text(text, images="resolved").votes
    assert votes["image_a"].item() == str((tmp_path / "1.png").resolve())
    assert votes["image_b"].item() == "https://example.org/2.png"
    near = read_text(text, images="resolved", images_from=tmp_path.resolve()).votes
    assert near["image_a"].item() == "1.png"
