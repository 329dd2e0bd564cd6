"""Sequential TrueSkill against the `trueskill` package, and where the package gives up."""

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import trueskill
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri

from arena.ratings.comparisons import Comparisons
from arena.ratings.table import Ratings, estimator
from arena.ratings.trueskill import TrueSkill, draw_margin, update

DATA = Path(__file__).parents[3] / ".." / "shared" / "data"
NAMES = ["model_a", "model_b", "outcome"]


# What the package's scipy backend calls, (norm.cdf, norm.pdf, norm.ppf), without the checks that
# scipy.stats makes of every argument: the same numbers in a quarter of the time.
SCIPY = (ndtr, lambda x: math.exp(-(x**2) / 2.0) / math.sqrt(2.0 * math.pi), ndtri)


def votes_of(rows):
    return pl.DataFrame(rows, schema=NAMES, orient="row")


def by_package(votes, backend=SCIPY, **parameters):
    """Return {model: (mu, sigma)} by the package, one vote after another in the given order."""
    env = trueskill.TrueSkill(backend=backend, **parameters)
    rating = {}
    for a, b, outcome in votes.select(NAMES).iter_rows():
        if a == b:
            continue
        w, l = (b, a) if outcome == "b" else (a, b)
        old = rating.get(w) or env.create_rating(), rating.get(l) or env.create_rating()
        rating[w], rating[l] = trueskill.rate_1vs1(*old, outcome == "tie", env=env)
    return {name: (one.mu, one.sigma) for name, one in rating.items()}


def assert_equal(ratings, expected, rel=1e-9):
    assert set(ratings.table["model"]) == set(expected)
    for name, mu, sigma in ratings.table.select("model", "mu", "sigma").iter_rows():
        assert (mu, sigma) == pytest.approx(expected[name], rel=rel, abs=1e-12)


def random_votes(seed, models, n):
    rng = np.random.default_rng(seed)
    skill = rng.normal(25.0, 6.0, models)
    a = rng.integers(0, models, n)
    b = (a + rng.integers(1, models, n)) % models
    d = skill[a] - skill[b] + rng.normal(0.0, 6.0, n)
    outcome = np.where(np.abs(d) < 2.0, "tie", np.where(d > 0, "a", "b"))
    return votes_of([(f"m{i}", f"m{j}", o) for i, j, o in zip(a, b, outcome, strict=True)])


@pytest.mark.skipif(not DATA.exists(), reason="../shared/data is not here")
def test_genai_arena_votes_give_the_packages_ratings():
    """GenAI-Arena (TIGER-AI-Lab, Apache-2.0): 1,978 text-to-image votes, "both bad" a tie."""
    battles = json.loads((DATA / "genai_arena" / "clean_battle_20240220.json").read_text())
    outcome = {"model_a": "a", "model_b": "b", "tie": "tie", "tie (bothbad)": "tie"}
    votes = votes_of(
        [
            (x["model_a"], x["model_b"], outcome[x["winner"]])
            for x in sorted(battles, key=lambda x: x["tstamp"])
            if x["model_a"].endswith("_generation")
        ]
    )
    assert votes.height == 1978
    assert_equal(TrueSkill().fit(votes), by_package(votes, backend="scipy"))
    votes = votes.filter(pl.col("model_a") != pl.col("model_b"))
    rate = (votes["outcome"] == "tie").mean()
    assert_equal(
        TrueSkill(draw_probability="auto").fit(votes), by_package(votes, draw_probability=rate)
    )


@pytest.mark.slow
@pytest.mark.skipif(not DATA.exists(), reason="../shared/data is not here")
def test_a_century_of_football_gives_the_packages_ratings():
    """International results 1872-2026 (CC0): 49,520 matches in order of date, 22.7% draws."""
    results = pl.read_csv(DATA / "football" / "results.csv", null_values="NA")
    home, away = pl.col("home_score"), pl.col("away_score")
    votes = results.sort("date", maintain_order=True).select(
        model_a="home_team",
        model_b="away_team",
        outcome=pl.when(home > away)
        .then(pl.lit("a"))
        .when(home < away)
        .then(pl.lit("b"))
        .otherwise(pl.lit("tie")),
    )
    assert votes.height == 49_520
    assert_equal(TrueSkill(tau=0.2).fit(votes), by_package(votes, tau=0.2))


@pytest.mark.slow
def test_a_hundred_thousand_random_votes_give_the_packages_ratings():
    votes = random_votes(0, 60, 100_000)
    assert 0.1 < (votes["outcome"] == "tie").mean() < 0.3
    assert_equal(TrueSkill().fit(votes), by_package(votes))


def test_parameters_other_than_the_defaults_give_the_packages_ratings():
    votes = random_votes(1, 9, 1500)
    parameters = {"mu": 1500.0, "sigma": 400.0, "beta": 90.0, "tau": 0.0, "draw_probability": 0.35}
    assert_equal(TrueSkill(**parameters).fit(votes), by_package(votes, **parameters))
    ratings = TrueSkill(**parameters).fit(votes)
    assert {key: ratings.parameters[key] for key in parameters} == parameters
    assert ratings.parameters["epsilon"] == draw_margin(0.35, 90.0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("sigmas", [0.5, 5.0, 10.0, 20.0, 40.0])
def test_an_upset_of_forty_sigma_is_finite(sigmas, tie):
    """The package divides by zero or raises from about eight."""
    beta, sigma = 25.0 / 6.0, 25.0 / 3.0
    c = math.sqrt(2.0 * beta**2 + 2.0 * sigma**2)
    found = update(0.0, sigma**2, sigmas * c, sigma**2, beta**2, draw_margin(0.1, beta), tie)
    mu_w, var_w, mu_l, var_l = found
    assert np.isfinite(found).all()
    assert 0.0 < var_w < sigma**2
    assert var_w == var_l
    # The winner rises as much as the loser falls, and after one vote they have not yet met.
    assert 0.0 < mu_w == pytest.approx(sigmas * c - mu_l)
    assert mu_w < mu_l or sigmas < 5.0


@given(
    st.floats(-300, 300),
    st.floats(0.01, 30),
    st.floats(-300, 300),
    st.floats(0.01, 30),
    st.floats(1e-3, 50),
    st.booleans(),
)
def test_no_vote_makes_a_rating_that_is_none(mu_w, s_w, mu_l, s_l, beta, tie):
    found = update(mu_w, s_w**2, mu_l, s_l**2, beta**2, draw_margin(0.1, beta), tie)
    assert np.isfinite(found).all()
    assert 0.0 < found[1] <= s_w**2
    assert 0.0 < found[3] <= s_l**2
    if not tie:
        assert found[0] >= mu_w
        assert found[2] <= mu_l


@pytest.mark.parametrize("draw_probability", [0.15, "auto"])
@pytest.mark.parametrize("cut", [1, 500, 1999])
def test_going_on_with_new_votes_is_one_pass_over_all_to_the_bit(cut, draw_probability, tmp_path):
    votes = random_votes(2, 12, 2000)
    fit = TrueSkill(draw_probability=draw_probability).fit
    fit(votes.head(cut)).write(tmp_path / "ratings.parquet")
    earlier = Ratings.read(tmp_path / "ratings.parquet")
    kept = earlier.parameters["draw_probability"]
    if kept == 0.0:  # the first vote alone was no tie: then auto has nothing to keep for the others
        with pytest.raises(ValueError, match="draw_probability must be above 0"):
            fit(votes.tail(-cut), prior=earlier)
        return
    went_on = fit(votes.tail(-cut), prior=earlier)
    assert went_on.table.equals(TrueSkill(draw_probability=kept).fit(votes).table)
    assert went_on.parameters["draw_probability"] == kept


def test_going_on_keeps_models_without_new_votes_and_meets_new_ones():
    earlier = TrueSkill().fit(votes_of([("x", "y", "a"), ("p", "q", "b")]))
    table = TrueSkill().fit(votes_of([("x", "new", "tie"), ("q", "y", "a")]), prior=earlier).table
    assert set(table["model"]) == {"x", "y", "p", "q", "new"}
    assert dict(table.select("model", "votes").iter_rows()) == {
        "x": 2, "y": 2, "p": 1, "q": 2, "new": 1,
    }  # fmt: skip
    assert table["group"].to_list() == [0] * 5  # the new vote joined the two groups


def test_a_table_of_ratings_alone_can_be_gone_on_from():
    votes = random_votes(3, 5, 200)
    earlier = TrueSkill().fit(votes.head(90))
    assert (
        TrueSkill()
        .fit(votes.tail(110), prior=earlier.table)
        .table.equals(TrueSkill().fit(votes).table)
    )
    with pytest.raises(ValueError, match="does not say its draw probability"):
        TrueSkill(draw_probability="auto").fit(votes, prior=earlier.table)


def test_votes_are_taken_by_time_and_unknown_times_come_last():
    votes = random_votes(4, 5, 300).with_columns(
        created_at=pl.datetime_range(
            pl.datetime(2024, 1, 1), pl.datetime(2024, 1, 1, 4, 59), "1m", eager=True
        )
    )
    expected = TrueSkill().fit(votes).table
    late = votes.with_columns(
        created_at=pl.when(pl.int_range(pl.len()) < 280).then("created_at").otherwise(None)
    )
    head = late.head(280).sample(fraction=1.0, shuffle=True, seed=1)
    # The votes without a time stand first in the table and keep their order among themselves.
    assert TrueSkill().fit(pl.concat([late.tail(20), head])).table.equals(expected)


def test_auto_is_the_share_of_ties_and_finite_even_where_all_are():
    votes = votes_of([("x", "y", "tie"), ("y", "x", "a"), ("x", "y", "a"), ("x", "x", "tie")])
    auto = TrueSkill(draw_probability="auto").fit(votes)
    assert auto.parameters["draw_probability"] == pytest.approx(1 / 3)
    ties = TrueSkill(draw_probability="auto").fit(votes_of([("x", "y", "tie")] * 9))
    assert ties.parameters["draw_probability"] == pytest.approx(0.9)
    assert np.isfinite(ties.table["mu"].to_numpy()).all()
    none = TrueSkill(draw_probability="auto").fit(votes_of([("x", "y", "a")]))
    assert none.parameters["epsilon"] == 0.0


def test_tallies_count_each_vote_once_a_side_and_a_model_against_itself_never():
    votes = votes_of(
        [("x", "y", "a"), ("y", "x", "a"), ("x", "z", "tie"), ("x", "y", "a"), ("x", "x", "a")]
    )
    table = TrueSkill().fit(votes).table
    tallies = {row[0]: row[1:] for row in table.select("model", "votes", "wins", "losses", "ties")
               .iter_rows()}  # fmt: skip
    assert tallies == {"x": (4, 2, 1, 1), "y": (3, 1, 2, 0), "z": (1, 0, 0, 1)}
    assert table["mu"].is_sorted(descending=True)
    assert_equal(TrueSkill().fit(votes), by_package(votes))


def test_without_votes_there_are_no_ratings_and_a_prior_stays_as_it_is():
    nothing = pl.DataFrame(schema=dict.fromkeys(NAMES, pl.String))
    assert TrueSkill().fit(nothing).table.is_empty()
    earlier = TrueSkill().fit(random_votes(5, 4, 50))
    assert TrueSkill().fit(nothing, prior=earlier).table.equals(earlier.table)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"mu": math.nan}, "mu must be a number"),
        ({"sigma": 0.0}, "sigma must be above 0"),
        ({"beta": -1.0}, "beta must be above 0"),
        ({"beta": math.inf}, "beta must be above 0"),
        ({"tau": -0.1}, "tau must be 0 or above"),
        ({"draw_probability": 1.0}, "draw_probability must be from 0 up to 1, or auto, not 1.0"),
        ({"draw_probability": "some"}, "or auto, not some"),
    ],
)
def test_a_parameter_out_of_range_is_named(parameters, said):
    with pytest.raises(ValueError, match=said):
        TrueSkill(**parameters).fit(votes_of([("x", "y", "a")]))


def test_ties_without_a_probability_and_unknown_names_are_errors():
    with pytest.raises(ValueError, match="draw_probability must be above 0, or auto"):
        TrueSkill(draw_probability=0.0).fit(votes_of([("x", "y", "tie")]))
    with pytest.raises(ValueError, match="no estimator is called 'glicko'; choose from trueskill"):
        estimator("glicko")
    with pytest.raises(ValueError, match="trueskill has no parameter k; it has mu, sigma, beta"):
        estimator("trueskill", k=3)


def test_comparisons_are_taken_as_they_are():
    votes = random_votes(6, 5, 100)
    coded = Comparisons.of(votes)
    assert estimator("trueskill").fit(coded).table.equals(TrueSkill().fit(votes).table)
