"""The evidence against plain formulas, and the parameters that it finds against planted ones."""

import math
import shlex

import numpy as np
import pytest
import trueskill
from scipy.integrate import dblquad
from scipy.stats import norm

from arena.prediction.calibration import log_evidence, predict_online
from arena.prediction.tune import (
    BOUNDS,
    Tuned,
    laplace_evidence,
    later_votes,
    sequential_evidence,
    tune,
)
from arena.ratings.batch import mode
from arena.ratings.comparisons import A_WINS, B_WINS, TIE, Comparisons
from arena.ratings.gaussian import draw_margin
from arena.ratings.trueskill import TrueSkill

SIGMA = 25.0 / 3.0


def drifting(seed, votes, models, beta, tau, margin):
    """Votes by the sequential model itself: each model moves by tau before each of its votes."""
    rng = np.random.default_rng(seed)
    skill = rng.normal(25.0, SIGMA, models)
    a = rng.integers(0, models, votes)
    b = (a + rng.integers(1, models, votes)) % models
    outcome = np.empty(votes, np.int8)
    for k, (i, j) in enumerate(zip(a, b, strict=True)):
        skill[i] += tau * rng.normal()
        skill[j] += tau * rng.normal()
        d = skill[i] - skill[j] + math.sqrt(2.0) * beta * rng.normal()
        outcome[k] = TIE if abs(d) <= margin else A_WINS if d > 0 else B_WINS
    names = [f"m{k:03}" for k in range(models)]
    return Comparisons(names, a.astype(np.int32), b.astype(np.int32), outcome)


def by_the_package(votes, beta, tau, p):
    """Log p(votes), each predicted by scipy from the `trueskill` package's ratings before it."""
    env = trueskill.TrueSkill(25.0, SIGMA, beta, tau, p, backend="scipy")
    rating = [env.create_rating() for _ in votes.models]
    margin, total = draw_margin(p, beta), 0.0
    for i, j, outcome in zip(votes.a, votes.b, votes.outcome, strict=True):
        x, y = rating[i], rating[j]
        c = math.sqrt(2 * beta**2 + x.sigma**2 + y.sigma**2 + 2 * tau**2)
        delta = (x.mu - y.mu) / c
        e = margin / c
        if outcome == TIE:
            total += math.log(norm.cdf(e - delta) - norm.cdf(-e - delta))
        else:
            total += norm.logcdf((delta if outcome == A_WINS else -delta) - e)
        if outcome == B_WINS:
            rating[j], rating[i] = trueskill.rate_1vs1(y, x, env=env)
        else:
            rating[i], rating[j] = trueskill.rate_1vs1(x, y, drawn=outcome == TIE, env=env)
    return total


@pytest.mark.parametrize(("beta", "tau", "p"), [(25 / 6, 25 / 300, 0.1), (2.0, 0.7, 0.3)])
def test_evidence_is_the_sum_of_what_the_trueskill_package_would_have_predicted(beta, tau, p):
    votes = drifting(0, 300, 6, beta=4.0, tau=0.3, margin=1.5)
    found = log_evidence(votes, SIGMA, beta, tau, draw_margin(p, beta))
    assert found == pytest.approx(by_the_package(votes, beta, tau, p), rel=1e-9)


def test_evidence_is_the_sum_of_the_sequential_predictions_and_skips_a_model_that_met_itself():
    votes = drifting(1, 500, 6, beta=4.0, tau=0.3, margin=1.5)
    p = predict_online(votes, SIGMA, 3.0, 0.2, 1.0)
    assert p.sum(1) == pytest.approx(np.ones(500))
    expected = np.log(p[np.arange(500), votes.outcome]).sum()
    assert log_evidence(votes, SIGMA, 3.0, 0.2, 1.0) == pytest.approx(expected)
    doubled = Comparisons(
        votes.models,
        np.repeat(votes.a, 2),
        np.stack([votes.b, votes.a], 1).ravel(),
        np.repeat(votes.outcome, 2),
    )
    assert log_evidence(doubled, SIGMA, 3.0, 0.2, 1.0) == pytest.approx(expected)


def test_evidence_of_an_impossible_upset_is_finite():
    # x beats y two hundred times without any noise to speak of, and then y beats x.
    a, b = np.zeros(201, np.int32), np.ones(201, np.int32)
    outcome = np.append(np.full(200, A_WINS), B_WINS).astype(np.int8)
    assert math.isfinite(
        log_evidence(Comparisons(["x", "y"], a, b, outcome), SIGMA, 0.01, 0.0, 0.0)
    )


def test_only_ratios_to_sigma_count():
    votes = drifting(2, 500, 6, beta=4.0, tau=0.3, margin=1.5)
    one, ten = log_evidence(votes, 2.0, 1.0, 0.1, 0.4), log_evidence(votes, 20.0, 10.0, 1.0, 4.0)
    assert one == pytest.approx(ten, rel=1e-12)


@pytest.fixture(scope="module")
def planted() -> tuple[Comparisons, Tuned]:
    votes = drifting(3, 40_000, 60, beta=6.0, tau=0.25, margin=draw_margin(0.25, 6.0))
    return votes, tune(votes)


def test_planted_parameters_are_recovered(planted):
    _, found = planted
    made = found.estimator
    assert (made.mu, made.sigma, found.votes) == (25.0, SIGMA, 40_000)
    # sigma is one draw of 60 capabilities, which moves every ratio to it by 1 / sqrt(120).
    assert made.beta == pytest.approx(6.0, rel=0.2)
    assert made.tau / made.beta == pytest.approx(0.25 / 6.0, rel=0.15)
    assert made.draw_probability == pytest.approx(0.25, abs=0.015)
    low, high = found.interval["draw_probability"]
    assert low < made.draw_probability < high
    assert high - low < 0.03
    low, high = found.interval["beta"]
    assert low < 6.0 < high


def test_no_neighbour_has_more_evidence(planted):
    votes, found = planted
    best, made = found.evidence["tuned"], found.estimator
    assert best == pytest.approx(sequential_evidence(votes, made))
    assert best > found.evidence["default"] > found.evidence["authors' draws, 0.10"]
    for beta in (0.97, 1.0, 1.03):
        for tau in (0.97, 1.0, 1.03):
            for p in (0.99, 1.0, 1.01):
                near = TrueSkill(
                    beta=made.beta * beta,
                    tau=made.tau * tau,
                    draw_probability=made.draw_probability * p,
                )
                assert sequential_evidence(votes, near) <= best + 1e-3


def test_it_says_the_command_that_uses_the_values(planted):
    _, found = planted
    text = str(found)
    assert "evidence of 40,000 votes" in text
    assert f"{found.evidence['tuned']:,.1f} nats" in text
    options = shlex.split(found.options)
    given = dict(zip(options[::2], options[1::2], strict=True))
    assert given["--estimator"] == "trueskill"
    assert float(given["--beta"]) == found.estimator.beta
    assert float(given["--tau"]) == found.estimator.tau
    assert float(given["--draw-probability"]) == found.estimator.draw_probability


def test_models_that_never_change_have_no_tau_worth_the_name():
    votes = drifting(4, 10_000, 20, beta=5.0, tau=0.0, margin=1.0)
    found = tune(votes)
    assert found.estimator.tau < 0.02
    assert found.evidence["tuned"] >= sequential_evidence(
        votes,
        TrueSkill(
            beta=found.estimator.beta,
            tau=0.0,
            draw_probability=found.estimator.draw_probability,
        ),
    ) - 1e-3  # fmt: skip


def test_votes_without_ties_give_ties_no_probability():
    votes = drifting(5, 2_000, 10, beta=4.0, tau=0.0, margin=0.0)
    assert tune(votes).estimator.draw_probability == 0.0


def test_votes_that_all_tie_have_finite_evidence():
    a, b = np.zeros(40, np.int32), np.ones(40, np.int32)
    votes = Comparisons(["x", "y"], a, b, np.full(40, TIE, np.int8))
    for name in ("trueskill", "thurstone"):
        assert all(math.isfinite(value) for value in tune(votes, name).evidence.values())


def test_what_the_votes_do_not_determine_is_said():
    # Everyone wins as often as not: no beta is too large, and none is believed.
    rng = np.random.default_rng(6)
    a = rng.integers(0, 4, 400)
    b = (a + rng.integers(1, 4, 400)) % 4
    coin = np.tile([A_WINS, B_WINS], 200).astype(np.int8)
    found = tune(Comparisons(list("abcd"), a.astype(np.int32), b.astype(np.int32), coin))
    assert found.estimator.beta > 5.0 * SIGMA
    assert "the votes do not determine it" in str(found)
    assert found.estimator.beta <= BOUNDS["beta"][1] * SIGMA * 1.001


def test_too_few_votes_and_an_estimator_without_parameters_are_refused():
    few = drifting(7, 19, 4, beta=4.0, tau=0.0, margin=1.0)
    with pytest.raises(ValueError, match=r"19 votes .* too few .* at least 20"):
        tune(few)
    with pytest.raises(ValueError, match="bradley_terry has nothing to tune"):
        tune(few, "bradley_terry")


def test_later_votes_agree_with_the_evidence(planted):
    votes, _ = planted
    table = later_votes(votes).overall()
    online = dict(table.filter(prediction="online").select("method", "log_loss").iter_rows())
    assert online["trueskill, tuned"] < online["trueskill, default"]
    assert online["trueskill, tuned"] < min(online["constant"], online["elo, K=24"])


def test_laplace_evidence_is_near_the_integral_over_two_models():
    wins = np.array([[0, 30], [12, 0]])
    ties = np.array([[0, 9], [9, 0]])
    beta = 4.0
    c = math.sqrt(2.0) * beta
    found = laplace_evidence(wins, ties, SIGMA, beta)
    # The margin stays at its mode; the integral is over the two capabilities alone.
    x, epsilon, *_ = mode(wins, ties, (c / SIGMA) ** 2, None)
    delta0, epsilon = c * (x[0] - x[1]), c * epsilon

    def log_p(delta):
        won, lost = norm.logcdf((delta - epsilon) / c), norm.logcdf((-delta - epsilon) / c)
        tied = np.log(norm.cdf((epsilon - delta) / c) - norm.cdf((-epsilon - delta) / c))
        return 30 * won + 12 * lost + 9 * tied

    top = log_p(delta0)
    integral, _ = dblquad(
        lambda y, x: math.exp(log_p(x - y) - top) * norm.pdf(x, 0, SIGMA) * norm.pdf(y, 0, SIGMA),
        -4 * SIGMA,
        4 * SIGMA,
        lambda x: max(-4 * SIGMA, x - delta0 - 8.0),
        lambda x: min(4 * SIGMA, x - delta0 + 8.0),
        epsabs=1e-8,
    )
    assert found == pytest.approx(top + math.log(integral), abs=0.02)


def test_thurstone_recovers_a_planted_beta():
    votes = drifting(8, 20_000, 60, beta=6.0, tau=0.0, margin=2.0)
    found = tune(votes, "thurstone")
    low, high = found.interval["beta"]
    assert low < 6.0 < high
    assert high < 1.6 * low
    assert found.evidence["tuned"] >= found.evidence["default"]
    assert (
        found.options
        == f"--estimator thurstone --beta {found.estimator.beta:.6g} --draw-probability auto"
    )
