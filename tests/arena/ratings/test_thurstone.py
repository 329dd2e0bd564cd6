"""The batch estimator against a general optimiser, exact integration and simulated arenas."""

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from arena_simulation import simulated_arena
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime, minimize
from scipy.stats import norm

from arena.ratings.batch import Thurstone, likelihood, likely_draw_probability, mode
from arena.ratings.comparisons import Comparisons
from arena.ratings.gaussian import above
from arena.ratings.table import Ratings, estimator

SHARED = Path(__file__).parents[3] / ".." / "shared"
DATA, CASES = SHARED / "data" / "genai_arena", SHARED / "cases" / "votes"
NAMES = ["model_a", "model_b", "outcome"]
MU, SIGMA, BETA = 25.0, 25.0 / 3.0, 25.0 / 6.0


def posterior(wins, ties):
    """Return mode, covariance and the estimated margin on the scale of mu."""
    c = math.sqrt(2.0) * BETA
    x, epsilon, within, level = mode(wins, ties, (c / SIGMA) ** 2, None)
    return MU + c * x, c * c * (within + level), c * epsilon


def plain_log_posterior(x, wins, ties):
    """The formulas of the module's docstring, written with scipy and nothing else."""
    mu, epsilon, c = x[:-1], x[-1], math.sqrt(2.0) * BETA
    d = mu[:, None] - mu[None, :]
    won = norm.logcdf((d - epsilon) / c)
    tied = np.log(norm.cdf((epsilon - d) / c) - norm.cdf((-epsilon - d) / c))
    prior = norm.logpdf(mu, MU, SIGMA).sum()
    return (wins * won).sum() + (np.triu(ties, 1) * tied).sum() + prior


def counted(wins, ties):
    """Return one row per pair of models with its counts."""
    i, j = np.triu_indices(len(wins), 1)
    return pl.DataFrame(
        {
            "model_a": [f"m{k}" for k in i],
            "model_b": [f"m{k}" for k in j],
            "outcome": ["tie"] * len(i),
            "votes_a": wins[i, j],
            "votes_b": wins[j, i],
            "votes_tie": ties[i, j],
        }
    )


def counts(seed, models=6, votes=500):
    rng = np.random.default_rng(seed)
    return simulated_arena(rng, models, votes, MU, SIGMA, BETA, epsilon=2.0)[:2]


@pytest.mark.parametrize("seed", range(3))
def test_mode_is_that_of_a_general_optimiser(seed):
    wins, ties = counts(seed)
    found_mode, _, epsilon = posterior(wins, ties)
    found = minimize(
        lambda x: -plain_log_posterior(x, wins, ties),
        np.append(np.full(len(wins), MU), 1.0),
        method="BFGS",
        jac="3-point",
        options={"gtol": 1e-7},
    )
    assert np.append(found_mode, epsilon) == pytest.approx(found.x, rel=1e-6)


def test_covariance_is_the_inverse_of_the_numerical_hessian():
    wins, ties = counts(7)
    at_mode, covariance, epsilon = posterior(wins, ties)
    x = np.append(at_mode, epsilon)

    def gradient(x):
        return approx_fprime(x, plain_log_posterior, 1e-5, wins, ties)

    hessian = np.array([(gradient(x + h) - gradient(x - h)) / 2e-3 for h in 1e-3 * np.eye(len(x))])
    assert covariance == pytest.approx(np.linalg.inv(-hessian)[:-1, :-1], rel=2e-3, abs=1e-4)


@pytest.mark.parametrize("logistic", [False, True])
def test_covariance_of_groups_that_never_met_is_the_inverse_of_the_hessian(logistic):
    """Two groups and a model alone: their levels are the prior's, told apart from the votes'."""
    wins, ties = np.zeros((6, 6)), np.zeros((6, 6))
    wins[0, 1], wins[1, 0], wins[1, 2], wins[3, 4], wins[4, 3] = 7, 3, 5, 2, 6
    ties[0, 2] = ties[2, 0] = 0 if logistic else 4
    x, epsilon, within, level = mode(wins, ties, 0.3, 0.0 if logistic else 0.2, logistic)
    hessian = likelihood(wins, ties, x, epsilon, logistic)[2][:6, :6] - 0.3 * np.eye(6)
    # The Hessian of the last step but one, where the promised gain was 1e-11.
    assert within + level == pytest.approx(np.linalg.inv(-hessian), rel=1e-4, abs=1e-9)
    assert within.sum(1) == pytest.approx(np.zeros(6), abs=1e-12)
    assert np.diag(level) * 0.3 == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1 / 2, 1 / 2, 1])


@settings(max_examples=40, deadline=None)
@given(
    mu=st.lists(st.floats(-30, 30), min_size=3, max_size=3),
    epsilon=st.floats(0.01, 5.0),
    seed=st.integers(0, 1000),
    logistic=st.booleans(),
)
def test_slopes_are_those_of_the_likelihood(mu, epsilon, seed, logistic):
    rng = np.random.default_rng(seed)
    wins = rng.integers(0, 4, (3, 3)) * (1.0 - np.eye(3))
    ties = np.triu(rng.integers(0, 4, (3, 3)), 1) * (0.0 if logistic else 1.0)
    x = np.append(mu, epsilon)

    def at(x):
        return likelihood(wins, ties + ties.T, x[:3].copy(), x[3], logistic)

    value, gradient, hessian = at(x)
    scale = 1e-6 * max(1.0, abs(value))
    for k, h in enumerate(1e-5 * np.eye(4)):
        plus, minus = at(x + h), at(x - h)
        assert gradient[k] == pytest.approx((plus[0] - minus[0]) / 2e-5, rel=1e-4, abs=scale)
        assert hessian[k] == pytest.approx((plus[1] - minus[1]) / 2e-5, rel=1e-3, abs=1e-3)


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(200):
        wins, ties, truth = simulated_arena(rng, 8, 400, MU, SIGMA, BETA, epsilon=2.0)
        found, covariance, _ = posterior(wins, ties)
        inside.append(np.abs(found - truth) < 1.96 * np.sqrt(np.diag(covariance)))
    # 1,600 intervals, of one arena not independent: docs/evidence/joint_gap.md has 1,000 arenas.
    assert 0.93 < np.mean(inside) < 0.97


def test_intervals_of_differences_cover_the_truth_as_often_as_they_say():
    """Of ratings as they are read back: 28 pairs of 8 models in each of 120 arenas."""
    rng = np.random.default_rng(1)
    i, j = np.triu_indices(8, 1)
    inside, too_wide = [], []
    for _ in range(120):
        wins, ties, truth = simulated_arena(rng, 8, 400, MU, SIGMA, BETA, epsilon=2.0)
        ratings = Thurstone().fit(counted(wins, ties))
        row = np.array([ratings._row(f"m{k}") for k in range(8)])
        mean, variance = ratings.difference(row[i], row[j])
        off = np.abs(mean - (truth[i] - truth[j]))
        inside.append(off < 1.96 * np.sqrt(variance))
        # The marginals hold the unknown level of the whole board: adding them is no interval.
        own = np.diag(ratings.covariance)[row]
        too_wide.append(off < 1.96 * np.sqrt(own[i] + own[j]))
        group = ratings.table["sigma"].to_numpy()
        assert (group < 0.8 * np.sqrt(np.diag(ratings.covariance))).all()
    assert 0.93 < np.mean(inside) < 0.97
    assert np.mean(too_wide) > 0.99


@pytest.mark.skipif(not CASES.exists(), reason="../shared/cases is not here")
@pytest.mark.parametrize(
    ("n", "sd", "gaps"), [(10_000, 0.0747, (1.4929, 0.0037)), (100, None, (1.5328, 0.2752))]
)
def test_two_models_with_6_to_4_have_the_counted_difference(n, sd, gaps, tmp_path):
    """shared/cases/votes/thurstone: by quadrature, Laplace's Gaussian is 0.004 off at 100 votes."""
    votes = pl.read_parquet(CASES / "thurstone" / f"two_{n}.parquet")
    Thurstone().fit(votes).write(tmp_path / "ratings.parquet")
    ratings = Ratings.read(tmp_path / "ratings.parquet")
    assert ratings.win_probability("A", "B") == pytest.approx(0.600, abs=2e-3)
    (delta,), (variance,) = ratings.difference(np.array([0]), np.array([1]))
    s = math.sqrt(variance)
    assert sd is None or s == pytest.approx(sd, abs=1e-4)
    assert s * above(delta / s)[0] == pytest.approx(gaps[0], abs=0.4 / n + 5e-4)
    assert s * above(-delta / s)[0] == pytest.approx(gaps[1], abs=0.4 / n + 5e-4)
    # What is printed is relative to the mean of the two: half of the difference's.
    assert ratings.table["sigma"].to_list() == pytest.approx([s / 2, s / 2])


@pytest.mark.skipif(not DATA.exists(), reason="../shared/data/genai_arena is not here")
def test_genai_arena_has_the_counted_differences():
    battles = json.loads((DATA / "clean_battle_20240220.json").read_text())
    outcome = {"model_a": "a", "model_b": "b", "tie": "tie", "tie (bothbad)": "tie"}
    rows = [
        (x["model_a"].split("_")[1], x["model_b"].split("_")[1], outcome[x["winner"]])
        for x in battles
        if x["model_a"].endswith("_generation")
    ]
    ratings = Thurstone().fit(pl.DataFrame(rows, NAMES, orient="row"))
    found = {}
    for pair in (("PlayGroundV2", "PixArtAlpha"), ("LCM", "PlayGroundV2")):
        (delta,), (variance,) = ratings.difference(*([ratings._row(name)] for name in pair))
        found[pair[0]] = (
            math.sqrt(variance),
            math.sqrt(variance) * above(delta / math.sqrt(variance))[0],
        )
    assert found["PlayGroundV2"] == pytest.approx((0.3620, 1.8353), abs=1e-4)
    assert found["LCM"][1] == pytest.approx(0.0204, abs=1e-4)
    assert ratings.places().to_list() == [1, 2, 2, 4, 5, 5]


def test_a_model_that_always_won_has_a_finite_rating():
    votes = pl.DataFrame(
        {"model_a": ["x"] * 50, "model_b": ["y"] * 25 + ["z"] * 25, "outcome": ["a"] * 50}
    )
    ratings = Thurstone().fit(votes)
    assert ratings.table["model"][0] == "x"
    assert np.isfinite(ratings.table["mu"].to_numpy()).all()
    assert (ratings.table["sigma"].to_numpy() < SIGMA).all()
    assert ratings.parameters["epsilon"] == 0.0


def test_order_and_side_do_not_matter():
    rng = np.random.default_rng(3)
    votes = pl.DataFrame(
        {
            "model_a": rng.choice(["p", "q", "r"], 300),
            "model_b": rng.choice(["p", "q", "r"], 300),
            "outcome": rng.choice(["a", "b", "tie"], 300),
        }
    )
    mirrored = votes.select(
        model_a="model_b",
        model_b="model_a",
        outcome=pl.col("outcome").replace({"a": "b", "b": "a"}),
    )
    one = Thurstone().fit(votes).table
    other = Thurstone().fit(mirrored.reverse()).table
    assert one["model"].to_list() == other["model"].to_list()
    assert one["mu"].to_numpy() == pytest.approx(other["mu"].to_numpy(), abs=1e-9)


def test_a_given_draw_probability_is_kept_and_without_votes_the_prior_is():
    ratings = estimator("thurstone", draw_probability=0.3).fit(
        Comparisons(["x", "y"], *(np.zeros(0, np.int32),) * 2, np.zeros(0, np.int8))
    )
    assert ratings.parameters["draw_probability"] == pytest.approx(0.3)
    assert ratings.table["mu"].to_list() == [MU, MU]
    assert ratings.table["sigma"].to_numpy() == pytest.approx([SIGMA, SIGMA])


def test_ties_without_a_probability_are_an_error():
    votes = pl.DataFrame({"model_a": ["x"], "model_b": ["y"], "outcome": ["tie"]})
    with pytest.raises(ValueError, match="draw_probability must be above 0, or auto"):
        Thurstone(draw_probability=0.0).fit(votes)


def test_without_a_tie_the_draw_probability_is_a_plain_number():
    wins, ties = np.array([[0, 9], [10, 0]]), np.zeros((2, 2))
    found = likely_draw_probability(wins, ties, 25 / 3, 25 / 6)
    assert type(found) is float  # Dagster's metadata takes no number of numpy's
    assert found == 0.5 / 20
