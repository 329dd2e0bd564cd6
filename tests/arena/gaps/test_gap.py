"""The pairwise gap against high-precision quadrature, and its table against its formula."""

import math

import mpmath as mp
import numpy as np
import polars as pl
import pytest
from entered import entered
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri

import arena
from arena.gaps.pairwise import (
    UnratedModelError,
    capability_gaps,
    pairwise_gaps,
    strict_gap,
    tie_gap,
)
from arena.gaps.table import write_gaps
from arena.ratings.table import Ratings
from arena.ratings.trueskill import TrueSkill
from arena.schema import GAPS

Z = [-40.0, -38.5, -25.0, -8.0, -4.0001, -3.9999, -1.0, -1e-7, 0.0, 0.3, 2.0, 8.0, 25.0, 40.0]


def integrals(z, low, high, power):
    """Return (log mass, mean, variance) of power(d), d ~ N(z, 1) within [low, high].

    By Gauss-Legendre in 40 digits, divided where the density peaks and falls off.
    """
    with mp.workdps(40):
        z, low, high = mp.mpf(z), mp.mpf(low), mp.mpf(high)
        peak = min(max(z, low), high)
        scale = min(mp.mpf(1), 1 / (1 + abs(peak - z)), high - low)
        steps = [peak + k * scale for k in (-40, -12, -4, -1, 0, 1, 4, 12, 40)]
        points = [low, *(x for x in steps if low < x < high), high]
        points = [x for x in points if abs(x - peak) <= 41 * scale]

        def density(d):
            return mp.exp(-((d - z) ** 2 - (peak - z) ** 2) / 2)

        def integral(function):
            return mp.quad(function, sorted({*points, mp.mpf(0)} if low < 0 < high else points))

        mass = integral(density)
        mean = integral(lambda d: power(d) * density(d)) / mass
        variance = integral(lambda d: (power(d) - mean) ** 2 * density(d)) / mass
        log_mass = mp.log(mass / mp.sqrt(2 * mp.pi)) - (peak - z) ** 2 / 2
        return log_mass, mean, variance


def assert_gap(found, s, exact):
    log_mass, mean, variance = exact
    assert found[0] == pytest.approx(float(s * mean), rel=1e-10, abs=1e-25)
    assert found[1] ** 2 == pytest.approx(float(s**2 * variance), rel=1e-10)
    with mp.workdps(40):
        assert found[2] == pytest.approx(float(mp.exp(log_mass)), rel=1e-10, abs=1e-307)


def rated(models, epsilon=0.74, beta=4.0):
    """Return Ratings of {model: (mu, sigma)}."""
    table = pl.DataFrame(
        [(name, mu, sigma, 0, 0, 0, 0, 0) for name, (mu, sigma) in models.items()],
        schema=["model", "mu", "sigma", "votes", "wins", "losses", "ties", "group"],
        orient="row",
    )
    return Ratings(table, "trueskill", {"beta": beta, "epsilon": epsilon})


def votes_of(rows):
    votes = pl.DataFrame(rows, schema=["model_a", "model_b", "outcome"], orient="row")
    return votes.with_row_index("vote_id").with_columns(pl.col("vote_id").cast(pl.String))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("s", [0.02, 1.0, 13.0])
@pytest.mark.parametrize("z", Z)
def test_strict_gap_is_the_integral_from_sure_winners_to_upsets_of_forty_sigma(z, s):
    exact = integrals(z, 0, max(z, 0) + 41, lambda d: d)
    assert_gap(strict_gap(z * s, s), s, exact)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("e", [1e-4, 0.1, 1.0, 6.0, 50.0])
@pytest.mark.parametrize("z", Z)
def test_tie_gap_is_the_integral_signed_and_absolute(z, e):
    s = 1.7
    if z == 0.0:
        assert tie_gap(0.0, s, e * s, True)[0] == 0.0
    assert_gap(tie_gap(z * s, s, e * s, True), s, integrals(z, -e, e, lambda d: d))
    assert_gap(tie_gap(z * s, s, e * s, False), s, integrals(z, -e, e, abs))


def test_each_spread_is_what_it_says():
    """The example of method.md: mu 24 beats mu 28 with sigma 0.8."""
    ratings = rated({"strong": (28.0, 0.8), "weak": (24.0, 0.8)}, beta=25 / 6)
    votes = votes_of([("weak", "strong", "a")])
    posterior = pairwise_gaps(votes, ratings)
    predictive = pairwise_gaps(votes, ratings, "predictive")
    assert posterior["gap"][0] == pytest.approx(0.28, abs=0.01)
    assert predictive["gap"][0] == pytest.approx(3.59, abs=0.01)
    s = math.sqrt(2 * (0.8**2 + (25 / 6) ** 2))
    assert_gap(predictive.row(0)[4:], s, integrals(-4 / s, 0, 45, lambda d: d))


def test_two_images_of_one_model_differ_by_0_798_s():
    votes = votes_of([("x", "x", "a"), ("x", "x", "b"), ("x", "x", "tie")])
    found = pairwise_gaps(votes, rated({"x": (25.0, 2.0)}), signed=True)
    s = 2.0 * math.sqrt(2.0)
    assert found["gap"].to_list() == pytest.approx([math.sqrt(2 / math.pi) * s] * 2 + [0.0])
    assert found["gap_sd"][0] == pytest.approx(s * math.sqrt(1 - 2 / math.pi))
    assert found["probability"].to_list()[:2] == [0.5, 0.5]


def test_each_vote_has_the_gap_of_its_models_and_its_outcome_in_input_order():
    ratings = rated({"x": (27.0, 1.0), "y": (25.0, 2.0), "z": (20.0, 1.5)})
    votes = votes_of(
        [("y", "x", "a"), ("x", "y", "a"), ("y", "x", "b"), ("z", "y", "tie"), ("z", "y", "a")]
    )
    gaps = pairwise_gaps(votes, ratings)
    assert gaps.schema == GAPS
    assert gaps.select("vote_id", "winner", "loser", "outcome").rows() == [
        ("0", "y", "x", "a"),
        ("1", "x", "y", "a"),
        ("2", "x", "y", "b"),
        ("3", "z", "y", "tie"),
        ("4", "z", "y", "a"),
    ]
    s, s2 = math.sqrt(5.0), math.sqrt(2.25 + 4.0)
    assert gaps.row(0)[4:] == strict_gap(-2.0, s)
    assert gaps.row(1)[4:] == gaps.row(2)[4:] == strict_gap(2.0, s)
    assert gaps.row(3)[4:] == tie_gap(-5.0, s2, 0.74, False)
    assert gaps.row(4)[4:] == strict_gap(-5.0, s2)
    signed = pairwise_gaps(votes, ratings, signed=True)
    assert signed.row(3)[4:] == tie_gap(-5.0, s2, 0.74, True)
    assert signed["gap"][3] < 0.0
    assert signed.row(4) == gaps.row(4)


def with_covariance(mu, covariance, **parameters):
    """Return Ratings of models A, B, ... whose capabilities were estimated together."""
    models = {chr(65 + k): (m, math.sqrt(covariance[k][k])) for k, m in enumerate(mu)}
    table = rated(models).table
    return Ratings(table, "thurstone", parameters, np.array(covariance))


@pytest.mark.parametrize(
    ("delta", "sd", "won", "lost"),
    [
        # The closed form of shared/cases (thurstone/two_10000): A won 6,000 of 10,000.
        (1.492869, 0.0746547, 1.4929, 0.0037),
        # shared/cases, GenAI-Arena: PlayGroundV2 beat PixArtAlpha, with sd 0.3620.
        (1.8353, 0.3620, 1.8353, None),
    ],
)
def test_models_that_were_estimated_together_differ_by_less_than_they_vary(delta, sd, won, lost):
    level = 34.0  # the variance of the whole board's level, which no vote tells
    covariance = [[level + sd**2 / 2, level], [level, level + sd**2 / 2]]
    ratings = with_covariance([delta, 0.0], covariance, beta=25 / 6, epsilon=0.0)
    votes = votes_of([("A", "B", "a"), ("A", "B", "b")])
    gaps = pairwise_gaps(votes, ratings)
    assert gaps["gap"][0] == pytest.approx(won, abs=1e-4)
    if lost is not None:
        assert gaps["gap"][1] == pytest.approx(lost, abs=1e-4)
    assert gaps.row(0)[4:] == pytest.approx(strict_gap(delta, sd), rel=1e-6)
    assert capability_gaps(votes, ratings)["gap_sd"][0] == pytest.approx(sd, rel=1e-6)
    predictive = pairwise_gaps(votes, ratings, "predictive")
    s = math.sqrt(sd**2 + 2 * (25 / 6) ** 2)
    assert predictive.row(0)[4:] == pytest.approx(strict_gap(delta, s), rel=1e-6)


def test_thurstones_gaps_of_two_models_are_those_of_the_cases():
    """shared/cases, two_10000: Laplace by hand of 6,000 wins of 10,000, without a prior."""
    beta, share = 25 / 6, 0.6
    scale = math.sqrt(2.0) * beta
    x = ndtri(share)
    density = math.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    variance = scale**2 * share * (1 - share) / (10_000 * density**2)  # of the difference
    level, each = (25 / 3) ** 2 / 2, variance / 4
    covariance = [[level + each, level - each], [level - each, level + each]]
    ratings = with_covariance([scale * x, 0.0], covariance, beta=beta, epsilon=0.0)
    gaps = pairwise_gaps(votes_of([("A", "B", "a"), ("A", "B", "b")]), ratings)
    assert gaps["gap"].to_list() == pytest.approx([1.4929, 0.0037], abs=6e-5)


def test_frames_of_either_kind_come_back_as_they_came_with_numbers_for_ids():
    ratings = rated({"x": (27.0, 1.0), "y": (25.0, 2.0)})
    votes = votes_of([("x", "y", "a"), ("y", "x", "tie")]).drop("vote_id")
    polars = pairwise_gaps(votes, ratings)
    assert polars["vote_id"].to_list() == ["0", "1"]
    pandas = pairwise_gaps(votes.to_pandas(), ratings)
    assert pl.from_pandas(pandas).equals(polars)


def test_a_leaderboard_alone_has_trueskills_own_scale():
    models = {"x": (27.0, 1.0), "y": (25.0, 2.0)}
    bare = Ratings(rated(models).table.select("model", "mu", "sigma"), "given")
    whole = rated(models, beta=25 / 6, epsilon=0.7404666)  # Herbrich et al. (2006), p_draw 0.1
    votes = votes_of([("x", "y", "a"), ("y", "x", "tie")])
    for spread in ("posterior", "predictive"):
        found, known = (pairwise_gaps(votes, one, spread)["gap"].to_list() for one in (bare, whole))
        assert found == pytest.approx(known, rel=1e-6)


def test_models_without_a_rating_are_named():
    ratings = rated({"x": (25.0, 1.0)})
    with pytest.raises(UnratedModelError, match="model 'new' has no rating; fit the ratings on"):
        pairwise_gaps(votes_of([("x", "new", "a")]), ratings)
    many = votes_of([("x", name, "a") for name in "abcdefg"])
    with pytest.raises(UnratedModelError, match="models 'a', 'b', 'c', 'd', 'e' and 2 more have"):
        pairwise_gaps(many, ratings)


def test_an_outcome_that_is_none_and_a_missing_column_are_errors():
    ratings = rated({"x": (25.0, 1.0), "y": (26.0, 1.0)})
    votes = votes_of([("x", "y", "a"), ("x", "y", None)])
    with pytest.raises(ValueError, match="vote 2: outcome is null; leave such votes out"):
        pairwise_gaps(votes, ratings)
    with pytest.raises(ValueError, match="vote 1: outcome 'left' is none of a, b, tie"):
        pairwise_gaps(votes_of([("x", "y", "left")]), ratings)
    with pytest.raises(ValueError, match="no column model_b"):
        pairwise_gaps(votes.drop("model_b"), ratings)


def test_a_tie_without_a_margin_and_an_unknown_spread_are_errors():
    ratings = rated({"x": (25.0, 1.0), "y": (26.0, 1.0)}, epsilon=0.0)
    with pytest.raises(ValueError, match="give a tie no probability: fit them with a draw"):
        pairwise_gaps(votes_of([("x", "y", "tie")]), ratings)
    assert pairwise_gaps(votes_of([("x", "y", "b")]), ratings)["gap"][0] > 0.0
    with pytest.raises(ValueError, match="spread must be posterior or predictive, not 'wide'"):
        pairwise_gaps(votes_of([("x", "y", "a")]), ratings, "wide")


@given(st.floats(-200, 200), st.floats(1e-3, 50), st.floats(1e-4, 20), st.booleans())
def test_gaps_are_positive_finite_and_no_surer_than_they_can_be(delta, s, epsilon, signed):
    mean, sd, probability = strict_gap(delta, s)
    assert 0.0 < mean < math.inf
    assert 0.0 < sd <= s * (1 + 1e-12)
    assert mean >= delta - 1e-12 * abs(delta)
    assert 0.0 <= probability <= 1.0
    mean, sd, probability = tie_gap(delta, s, epsilon, signed)
    assert abs(mean) <= epsilon * (1 + 1e-12)
    assert 0.0 < sd <= epsilon * (1 + 1e-12)
    assert signed or mean > 0.0
    assert 0.0 <= probability <= 1.0 + 1e-12


def test_gaps_written_in_slices_are_those_in_memory(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    names = [f"m{k}" for k in range(7)]
    votes = pl.DataFrame(
        {
            "vote_id": [f"v{k}" for k in range(5000)],
            "model_a": rng.choice(names, 5000),
            "model_b": rng.choice(names, 5000),
            "outcome": rng.choice(["a", "b", "tie"], 5000),
        }
    )
    ratings = TrueSkill(draw_probability="auto").fit(votes)
    monkeypatch.setattr("arena.gaps.table.SLICE", 900)
    said, _ = write_gaps(votes, ratings, tmp_path / "gaps.parquet", signed=True)
    expected = pairwise_gaps(votes, ratings, signed=True)
    assert pl.read_parquet(tmp_path / "gaps.parquet").equals(expected)
    strict = expected.filter(pl.col("outcome") != "tie")
    assert f"{len(strict):,} strict votes" in said
    assert f"; {5000 - len(strict):,} ties" in said
    least, most = expected["gap"].min(), expected["gap"].max()
    assert said.startswith(f"5,000 gaps from {least:.4g} to {most:.4g}; ")
    upsets = (strict["probability"] < 0.5).mean()
    assert f"the weaker model won {upsets:.1%}" in said
    mean, sd = strict["gap"].mean(), strict["gap"].std(ddof=0)
    assert f"mean {mean:.4g} and standard deviation {sd:.4g}" in said


def test_a_vote_takes_twenty_of_our_functions_from_the_table_to_its_gap():
    votes = pl.DataFrame(
        [("v", "x", "y", "a"), ("w", "y", "z", "b"), ("u", "x", "z", "tie")],
        ["vote_id", "model_a", "model_b", "outcome"],
        orient="row",
    )
    pairwise_gaps(votes, TrueSkill().fit(votes))  # what is compiled once is compiled now
    way = entered(arena, lambda: pairwise_gaps(votes, TrueSkill().fit(votes)))
    assert 10 < len(way) <= 20, sorted(way)
