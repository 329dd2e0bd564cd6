"""Ratings that go on from before equal those of one pass, and say when they could not go on."""

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from arena.continuing import fit_or_continue, state_of
from arena.ratings.comparisons import Comparisons
from arena.ratings.table import Ratings
from arena.ratings.thurstone import Thurstone
from arena.ratings.trueskill import TrueSkill


def votes(n, models=6, seed=0):
    random = np.random.default_rng(seed)
    a, b = random.integers(0, models, (2, n))
    return pl.DataFrame(
        {
            "model_a": [f"m{i}" for i in a],
            "model_b": [f"m{i}" for i in b],
            "outcome": random.choice(["a", "b", "tie"], n),
            "created_at": np.arange(n),
        }
    )


@pytest.fixture
def rate(tmp_path):
    """Return a function that rates votes, going on from its last call where it can."""
    path = tmp_path / "ratings" / "ratings.parquet"

    def once(table, chosen=TrueSkill()):  # noqa: B008
        fitted, said = fit_or_continue(chosen, Comparisons.of(table), path)
        assert_frame_equal(fitted.table, Ratings.read(path).table)
        return fitted.table, said

    once.path = path
    return once


def test_later_votes_go_on_from_the_ratings_of_before_to_the_bit(rate):
    table = pl.concat([votes(300, models=4), votes(200, models=6, seed=1)])
    table = table.with_columns(created_at=pl.int_range(pl.len()))
    assert rate(table[:300])[1].startswith("fitted")
    found, said = rate(table)
    assert said == "continued: 200 votes after the 300 that were rated before"
    assert_frame_equal(found, TrueSkill().fit(table).table, check_exact=True)
    again, said = rate(table)
    assert said.startswith("continued: 0 votes")
    assert_frame_equal(again, found, check_exact=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: pl.concat([t, t[:1].with_columns(created_at=pl.lit(-1, pl.Int64))]),
        lambda t: t[1:],
        lambda t: t.with_columns(outcome=pl.lit("a")),
        lambda t: t.with_columns(model_a=pl.col("model_a").replace("m1", "m9")),
    ],
    ids=["an earlier vote", "a vote is gone", "another outcome", "another name"],
)
def test_votes_that_are_not_only_later_are_refitted(rate, change):
    table = votes(300)
    rate(table)
    changed = change(table)
    found, said = rate(changed)
    assert said.startswith("refitted: votes came, changed or went")
    assert_frame_equal(found, TrueSkill().fit(changed).table, check_exact=True)


@pytest.mark.parametrize(
    ("chosen", "why"),
    [
        (TrueSkill(beta=3.0), "parameters"),
        (TrueSkill(draw_probability="auto"), "parameters"),
        (Thurstone(), "all votes at once"),
    ],
)
def test_another_estimator_does_not_go_on(rate, chosen, why):
    rate(votes(100))
    assert why in rate(votes(200), chosen)[1]


def test_a_draw_probability_of_all_votes_is_estimated_again(rate):
    chosen = TrueSkill(draw_probability="auto")
    rate(votes(100), chosen)
    found, said = rate(votes(200), chosen)
    assert "auto" in said
    assert_frame_equal(found, chosen.fit(votes(200)).table, check_exact=True)


def test_ratings_that_are_not_the_state_s_are_fitted_anew(rate):
    rate(votes(100))
    TrueSkill(mu=0.0).fit(votes(50)).write(rate.path)
    assert rate(votes(200))[1].startswith("fitted")
    state_of(rate.path).unlink()
    assert rate(votes(200))[1].startswith("fitted")
