"""Sequential TrueSkill against the `trueskill` package, and where the package gives up."""

import json
import math
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import trueskill
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri

from arena.ratings.comparisons import Comparisons
from arena.ratings.gaussian import draw_margin
from arena.ratings.leaderboards import DRAW_PROBABILITY
from arena.ratings.table import Ratings, estimator
from arena.ratings.trueskill import TrueSkill, order_note, update

SHARED = Path(__file__).parents[3] / ".." / "shared"
DATA, CASES = SHARED / "data", SHARED / "cases" / "votes"
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
    assert_equal(TrueSkill(draw_probability=0.10).fit(votes), by_package(votes, backend="scipy"))
    auto = TrueSkill().fit(votes)
    assert_equal(auto, by_package(votes, draw_probability=auto.parameters["draw_probability"]))


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
    assert_equal(TrueSkill(tau=0.2, draw_probability=0.1).fit(votes), by_package(votes, tau=0.2))


@pytest.mark.slow
def test_a_hundred_thousand_random_votes_give_the_packages_ratings():
    votes = random_votes(0, 60, 100_000)
    assert 0.1 < (votes["outcome"] == "tie").mean() < 0.3
    assert_equal(TrueSkill(draw_probability=0.1).fit(votes), by_package(votes))


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


def test_going_on_is_with_the_ratings_own_parameters():
    votes = random_votes(3, 5, 200)
    earlier = TrueSkill(beta=3.0, tau=0.0, draw_probability=0.2).fit(votes.head(90))
    with pytest.raises(ValueError, match=r"were made with beta 3, not 4\.16667"):
        TrueSkill().fit(votes.tail(110), prior=earlier)
    expected = TrueSkill(beta=3.0, tau=0.0, draw_probability=0.2).fit(votes)
    assert earlier.estimate_as().fit(votes.tail(110), prior=earlier).table.equals(expected.table)
    assert earlier.with_votes(votes.tail(110)).table.equals(expected.table)


def test_ratings_without_an_order_of_time_are_not_gone_on_from():
    votes = random_votes(3, 5, 200)
    for name in ("thurstone", "bradley_terry"):
        with pytest.raises(ValueError, match=f"by {name}, which has no order of time"):
            TrueSkill().fit(votes, prior=estimator(name).fit(votes))


@pytest.mark.parametrize("n", [300, 30_000])
def test_votes_that_the_ratings_already_have_are_noticed(n, tmp_path):
    votes = random_votes(8, 5, n).with_columns(vote_id=pl.format("v{}", pl.int_range(pl.len())))
    TrueSkill().fit(votes.head(n // 2)).write(tmp_path / "r.parquet")
    earlier = Ratings.read(tmp_path / "r.parquet")
    # A thousandth of all votes is enough, wherever they stand.
    for start in (0, n // 4, n // 2 - n // 100):
        with pytest.raises(ValueError, match="already have vote 'v"):
            TrueSkill().fit(votes.slice(start, n // 100), prior=earlier)
    later = TrueSkill().fit(votes.tail(n // 2), prior=earlier)
    with pytest.raises(ValueError, match="already have vote 'v"):
        TrueSkill().fit(votes.slice(n // 4, n // 50), prior=later)
    assert (tmp_path / "r.parquet").stat().st_size < 40_000
    assert len(later.ids) <= 1000


def test_one_vote_more_is_the_same_as_one_pass(tmp_path):
    votes = random_votes(3, 5, 200)
    ratings = TrueSkill(draw_probability=0.1).fit(votes.head(199))
    assert ratings.with_vote(*votes.row(199)).table.equals(
        TrueSkill(draw_probability=0.1).fit(votes).table
    )


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


def test_auto_finds_the_draw_probability_of_equals_which_is_not_the_share_of_ties():
    rng = np.random.default_rng(9)
    skill = rng.normal(25.0, 25.0 / 3.0, 30)
    a = rng.integers(0, 30, 20_000)
    b = (a + rng.integers(1, 30, 20_000)) % 30
    d = skill[a] - skill[b] + rng.normal(0.0, math.sqrt(2.0) * 25.0 / 6.0, 20_000)
    margin = draw_margin(0.4, 25.0 / 6.0)
    outcome = np.where(np.abs(d) < margin, "tie", np.where(d > 0, "a", "b"))
    votes = votes_of([(f"m{i}", f"m{j}", o) for i, j, o in zip(a, b, outcome, strict=True)])
    assert (outcome == "tie").mean() < 0.26
    found = TrueSkill().fit(votes).parameters["draw_probability"]
    assert found == pytest.approx(0.4, abs=0.015)


def test_auto_is_the_authors_with_few_votes_and_never_0_or_1():
    few = TrueSkill().fit(votes_of([("x", "y", "a")] * 19))
    assert few.parameters["draw_probability"] == DRAW_PROBABILITY == 0.1
    for outcome in ("a", "tie"):
        one = TrueSkill().fit(votes_of([("x", "y", outcome)] * 40))
        assert 0.0 < one.parameters["draw_probability"] < 1.0
        assert np.isfinite(one.table["mu"].to_numpy()).all()
        assert one.with_vote("x", "y", "tie").table["ties"].sum() == 2 + 80 * (outcome == "tie")


@pytest.mark.skipif(not CASES.exists(), reason="../shared/cases is not here")
def test_upsets_of_126_sigma_have_the_mpmath_ratings():
    """shared/cases: closed form in mpmath, from a hand-made leaderboard as prior."""
    first = pl.DataFrame({"model": ["a", "b"], "mu": [-323.263, -48.441], "sigma": [2.965, 2.190]})
    second = pl.DataFrame(
        {
            "model": ["a", "b"],
            "mu": [1253.199676483443, 2038.349704507679],
            "sigma": [1.315432946114797, 1.136131282892949],
        }
    )
    cases = [
        ("a_beats_b", first, (-273.0599022, 2.682781498), (-75.84757718, 2.079892978)),
        ("a_ties_b", first, (-273.3294204, 2.68278058), (-75.70044341, 2.079892626)),
        ("a_beats_b", second, (1289.362713, 1.287390842), (2011.336552, 1.119436218)),
    ]
    for name, prior, *expected in cases:
        votes = pl.read_csv(CASES / "extremes" / f"{name}.csv")
        ratings = TrueSkill().fit(votes, prior=prior).table.sort("model")
        for row, (mu, sigma) in zip(ratings.iter_rows(named=True), expected, strict=True):
            assert row["mu"] == pytest.approx(mu, rel=1e-9)
            assert row["sigma"] == pytest.approx(sigma, rel=1e-9)


def test_votes_without_times_are_said_to_depend_on_their_order():
    votes = random_votes(10, 6, 300)
    said = order_note(votes, TrueSkill())
    assert "in 20 other orders of the votes the ranking changed" in said
    assert "thurstone and bradley_terry do not depend on the order" in said
    timed = votes.with_columns(created_at=pl.int_range(pl.len()))
    assert order_note(timed, TrueSkill()) == ""
    partly = timed.with_columns(pl.when(pl.col("created_at") > 5).then("created_at"))
    assert "without a time" in order_note(partly, TrueSkill())


@pytest.mark.skipif(not DATA.exists(), reason="../shared/data is not here")
def test_genai_arena_in_other_orders_changes_places_and_means_as_much_as_counted():
    """shared/cases: 4 of 20 shuffles change the ranking."""
    battles = json.loads((DATA / "genai_arena" / "clean_battle_20240220.json").read_text())
    outcome = {"model_a": "a", "model_b": "b", "tie": "tie", "tie (bothbad)": "tie"}
    rows = [
        (x["model_a"], x["model_b"], outcome[x["winner"]])
        for x in battles
        if x["model_a"].endswith("_generation")
    ]
    said = order_note(votes_of(rows), TrueSkill(draw_probability=0.1))
    changed, moved = re.search(r"changed (\d+) times .* up to (\d+)%", said).groups()
    assert 1 <= int(changed) <= 8
    assert 30 <= int(moved) <= 120


def test_tallies_count_each_vote_once_a_side_and_a_model_against_itself_never():
    votes = votes_of(
        [("x", "y", "a"), ("y", "x", "a"), ("x", "z", "tie"), ("x", "y", "a"), ("x", "x", "a")]
    )
    table = TrueSkill().fit(votes).table
    tallies = {row[0]: row[1:] for row in table.select("model", "votes", "wins", "losses", "ties")
               .iter_rows()}  # fmt: skip
    assert tallies == {"x": (4, 2, 1, 1), "y": (3, 1, 2, 0), "z": (1, 0, 0, 1)}
    assert table["mu"].is_sorted(descending=True)
    assert_equal(TrueSkill(draw_probability=0.1).fit(votes), by_package(votes))


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
        ({"counts": "all"}, "counts must be majority or each, not all"),
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
