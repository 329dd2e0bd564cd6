"""The content tells the format; a study may settle it."""

import gzip
import json

import pyarrow as pa
import pytest

from arena.votes.faults import VotesError
from arena.votes.formats import READERS, format_of
from arena.votes.read import read_votes


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("packing", ["gzip", "zstd"])
def test_packed_tables_are_read_whatever_they_are_called(
    kind, packing, votes_of, write_votes, tmp_path
):
    plain = write_votes(kind, votes_of())
    path = tmp_path / "votes"
    with pa.CompressedOutputStream(path, packing) as stream:
        stream.write(plain.read_bytes())
    packed = read_votes([path])
    assert packed.votes.drop("source").equals(read_votes([plain]).votes.drop("source"))
    assert list(packed.formats.values()) == [kind]


def test_a_packed_battles_file(tmp_path):
    battle = {"model_a": "m", "model_b": "n", "winner": "tie", "tstamp": 1.5}
    path = tmp_path / "battles.json.gz"
    path.write_bytes(gzip.compress(json.dumps([battle]).encode()))
    assert read_votes([path]).votes["outcome"].to_list() == ["tie"]


def test_a_packed_file_that_is_cut_off_or_a_bomb_says_so(tmp_path):
    path = tmp_path / "votes.csv.gz"
    content = gzip.compress(b"model_a,model_b,outcome\n" + b"x,y,a\n" * 100_000)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(VotesError, match=r"votes\.csv\.gz: .*cut off"):
        read_votes([path])
    path.write_bytes(gzip.compress(b"model_a,model_b,outcome\n" + b" " * (300 << 20), 1))
    with pytest.raises(VotesError, match=r"votes\.csv\.gz: unpacks to more than"):
        read_votes([path])


def test_a_json_list_of_votes_is_a_table(write_json):
    rows = [{"model_a": "x", "model_b": "y", "outcome": "a"}] * 2
    assert read_votes([write_json(rows)]).accepted == 2


def test_the_format_can_be_settled(write_json):
    path = write_json([{"model_a": "x", "model_b": "y", "outcome": "a", "winner": "model_b"}])
    assert format_of(path) == "jsonl"
    assert read_votes([path], format="battles").votes["outcome"].item() == "b"
    assert read_votes([path], format="jsonl").votes["outcome"].item() == "a"
    with pytest.raises(VotesError, match="no votes format is called 'xml'; there are parquet"):
        read_votes([path], format="xml")


@pytest.mark.parametrize("kind", list(READERS))
def test_a_format_that_the_file_does_not_have_ends_in_a_sentence(kind, tmp_path):
    path = tmp_path / "notes"
    path.write_text("Dear diary,\ntoday nothing.\n")
    with pytest.raises(VotesError, match="notes"):
        read_votes([path], format=kind)
