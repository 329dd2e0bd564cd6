"""The tables of the arena, column by column.

Every reader of `arena.votes` ends in `VOTES`, every estimator in `RATINGS`, every gap in `GAPS`.
Nothing is read or checked here: `votes` does that.
"""

import polars as pl

TIME = pl.Datetime("us", "UTC")

OUTCOMES = ("a", "b", "tie")

VOTES: dict[str, pl.DataType | type[pl.DataType]] = {
    "vote_id": pl.String,  # given, or a hash of the row's content and position
    "source": pl.String,  # given, or the file's name
    "model_a": pl.String,
    "model_b": pl.String,
    "outcome": pl.String,  # "a", "b" or "tie"
    "prompt_id": pl.String,
    "prompt": pl.String,
    "image_a": pl.String,  # a path, a URL or an id
    "image_b": pl.String,
    "rater": pl.String,
    "created_at": TIME,
    "split": pl.String,
    "dimension": pl.String,  # what was asked, where a file asks several things
    # Where a row is the sum of several raters: how many chose each image, and how many neither.
    "votes_a": pl.Int64,
    "votes_b": pl.Int64,
    "votes_tie": pl.Int64,
    "anonymous": pl.Boolean,  # whether the models' names were hidden from the rater
    "ranking": pl.String,  # the vote_id of the K-wise vote that implies this pair, else null
}

REQUIRED = ("model_a", "model_b", "outcome")

# The name of a model that the file does not tell: all such images share one prior.
UNNAMED = "(unnamed)"

RANKINGS: dict[str, pl.DataType | type[pl.DataType]] = {
    "vote_id": pl.String,  # given, or a hash of the row's content and position
    "source": pl.String,
    "prompt_id": pl.String,
    "prompt": pl.String,
    "models": pl.List(pl.String),  # K names; UNNAMED where the file names none
    "images": pl.List(pl.String),  # K paths, URLs or ids, or null
    "ranks": pl.List(pl.Int64),  # K, from 1 = best without gaps; equal ranks tie
    "rater": pl.String,
    "created_at": TIME,
    "rows": pl.Int64,  # how many rows of the file it was gathered from
}

REJECTED: dict[str, pl.DataType | type[pl.DataType]] = {
    "file": pl.String,
    "row": pl.Int64,  # the first data row is 1
    "column": pl.String,
    "reason": pl.String,
    "value": pl.String,
}

RATINGS: dict[str, pl.DataType | type[pl.DataType]] = {
    "model": pl.String,
    "mu": pl.Float64,
    "sigma": pl.Float64,
    "votes": pl.Int64,  # comparisons with another model; votes = wins + losses + ties
    "wins": pl.Int64,
    "losses": pl.Int64,
    "ties": pl.Int64,
    "group": pl.Int64,  # connected component of the comparison graph; 0 has the most votes
}

GAPS: dict[str, pl.DataType | type[pl.DataType]] = {
    "vote_id": pl.String,
    "winner": pl.String,  # for a tie: model_a
    "loser": pl.String,  # for a tie: model_b
    "outcome": pl.String,
    "gap": pl.Float64,  # on the scale of mu
    "gap_sd": pl.Float64,
    "probability": pl.Float64,  # of the outcome that was observed
}

PAIRS: dict[str, pl.DataType | type[pl.DataType]] = {
    "model_a": pl.String,  # model_a < model_b; a model met by itself is left out
    "model_b": pl.String,
    "wins_a": pl.Int64,
    "wins_b": pl.Int64,
    "ties": pl.Int64,
}
