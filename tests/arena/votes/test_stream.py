"""Streaming accepts, rejects, orders and names the same votes as opening the files whole."""

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from arena.ratings.comparisons import Comparisons
from arena.votes import stream
from arena.votes.read import read_votes


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(stream, "BATCH", 7)


def same(paths):
    reading = read_votes(paths)
    found, rejected = stream.read_comparisons(paths)
    expected = Comparisons.of(reading.votes)
    assert rejected == reading.rejected.height
    assert found.models == expected.models
    for name in ("a", "b", "outcome"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    streamed = pl.concat(stream.votes_in_batches(paths))
    assert_frame_equal(streamed, reading.votes.select("vote_id", "model_a", "model_b", "outcome"))


@pytest.mark.parametrize("given", ["vote_id", None])
@pytest.mark.parametrize("times", ["sorted", "shuffled", "some", None])
def test_stream_equals_open(given, times, votes_of, write_votes):
    votes = votes_of(40)
    if given is None:
        votes = votes.drop("vote_id")
    if times == "shuffled":
        votes = votes.sample(fraction=1.0, shuffle=True, seed=0)
    elif times == "some":
        kept = pl.int_range(pl.len()) % 3 == 0
        votes = votes.with_columns(created_at=pl.when(kept).then("created_at"))
    elif times is None:
        votes = votes.drop("created_at")
    first = write_votes("parquet", votes[:25], "1.parquet")
    second = write_votes("parquet", votes[25:], "2.parquet")
    same([first, second])


def test_rejected_rows_are_the_same(votes_of, write_votes):
    votes = votes_of(40).with_columns(
        outcome=pl.when(pl.int_range(pl.len()) % 5 == 0).then(pl.lit("?")).otherwise("outcome"),
        model_a=pl.when(pl.int_range(pl.len()) % 7 == 0).then(pl.lit(" ")).otherwise("model_a"),
        model_b=pl.when(pl.int_range(pl.len()) % 11 != 0).then("model_b"),
        confidence=pl.when(pl.int_range(pl.len()) % 3 == 0).then(2.0).otherwise("confidence"),
    )
    same([write_votes("parquet", votes.drop("vote_id"))])


def test_repeated_ids_and_other_formats_go_the_whole_way(votes_of, write_votes):
    votes = votes_of(20)
    same([write_votes("parquet", pl.concat([votes, votes[3:5]]))])
    same([write_votes("csv", votes.drop("vote_id")), write_votes("parquet", votes[:3])])
