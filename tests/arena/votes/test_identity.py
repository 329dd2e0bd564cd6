import numpy as np
import polars as pl

from arena.votes.identity import vote_ids


def ids(votes, start=0):
    return vote_ids(votes, np.arange(start, start + votes.height))


def test_ids_are_the_same_for_ever():
    # Gaps are joined to votes by these: a change here orphans every gap that was written.
    plain = pl.DataFrame({"model_a": ["x", "x"], "model_b": ["y", "y"], "outcome": ["a", "a"]})
    assert ids(plain).to_list() == ["a1c701d265ef3e61", "5e352be1a4140cae"]


def test_every_column_and_the_position_make_a_vote_itself(votes_of):
    votes = votes_of(1)
    made = {ids(votes).item(), ids(votes, 1).item()}
    for name in ("model_a", "model_b", "outcome", "prompt", "image_a", "rater", "prompt_id"):
        made.add(ids(votes.with_columns(pl.lit("other").alias(name))).item())
        made.add(ids(votes.with_columns(pl.lit(None, pl.String).alias(name))).item())
    made.add(ids(votes.with_columns(pl.col("created_at").dt.offset_by("1us"))).item())
    assert len(made) == 2 + 14 + 1


def test_neither_the_source_nor_how_the_frame_is_cut_changes_an_id(votes_of):
    votes = votes_of(6)
    renamed = votes.with_columns(source=pl.lit("elsewhere"))
    assert ids(renamed).to_list() == ids(votes).to_list()
    assert ids(votes[2:5], start=2).to_list() == ids(votes).to_list()[2:5]


def test_a_missing_column_and_one_of_nulls_are_the_same(votes_of):
    votes = votes_of(3)
    nulls = votes.with_columns(rater=pl.lit(None, pl.String))
    assert ids(votes.drop("rater")).to_list() == ids(nulls).to_list()
