"""Which pair comes next: what a vote tells, by other means, and what is asked first."""

import math

import numpy as np
import polars as pl
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from arena.ratings.leaderboards import BETA
from arena.ratings.table import as_ratings
from voting.catalogue import Catalogue, Item
from voting.choice import Chooser, information, rated


def by_integration(mean, sd, beta, epsilon):
    """I(o; d) = sum over o of the integral of p(d) p(o | d) log(p(o | d) / p(o))."""
    c = math.sqrt(2.0) * beta
    given = [
        lambda d: norm.cdf((d - epsilon) / c),
        lambda d: norm.cdf((-d - epsilon) / c),
        lambda d: norm.cdf((epsilon - d) / c) - norm.cdf((-epsilon - d) / c),
    ]
    total = 0.0
    for p in given:
        low, high = mean - 9 * sd, mean + 9 * sd
        points = sorted({min(max(x, low), high) for x in (mean, 0.0, epsilon, -epsilon)})
        whole = quad(lambda d, p=p: p(d) * norm.pdf(d, mean, sd), low, high, points=points)[0]

        def told(d, p=p, whole=whole):
            own = p(d)
            return norm.pdf(d, mean, sd) * own * math.log(own / whole) if own > 0 else 0.0

        if whole > 1e-12:
            total += quad(told, low, high, points=points, limit=400)[0]
    return total


@pytest.mark.parametrize("mean", [0.0, 3.0, -12.0])
@pytest.mark.parametrize("sd", [0.3, 4.0, 11.8])
@pytest.mark.parametrize("epsilon", [0.0, 0.74, 5.0])
def test_information_is_the_integral_of_its_definition(mean, sd, epsilon):
    found = information(np.array(mean), np.array(sd**2), BETA, epsilon)
    assert found == pytest.approx(by_integration(mean, sd, BETA, epsilon), rel=2e-3, abs=1e-7)


def test_a_vote_without_noise_tells_which_of_two_equals_is_better():
    # beta -> 0: o is the sign of d, so I = H(1/2) = ln 2.
    found = information(np.array(0.0), np.array(100.0), 1e-6, 0.0)
    assert found == pytest.approx(math.log(2.0), rel=1e-6)


def test_what_is_known_tells_nothing():
    assert information(np.array(5.0), np.array(0.0), BETA, 0.7) == pytest.approx(0.0, abs=1e-12)
    assert information(np.array(300.0), np.array(4.0), BETA, 0.7) == pytest.approx(0.0, abs=1e-9)


def catalogue(models, prompts, policies=(), baseline=None, counts=None):
    items = [
        Item(f"{model}/{p}", f"prompt {p}", None, model, f"{model}-{p}.png")
        for model in models
        for p in range(prompts)
    ]
    none = as_ratings(
        pl.DataFrame(schema={"model": pl.String, "mu": pl.Float64, "sigma": pl.Float64})
    )
    return Catalogue({i.id: i for i in items}, set(policies), baseline, none, counts or {})


def ratings(**known):
    rows = [(model, mu, sigma) for model, (mu, sigma) in known.items()]
    return as_ratings(pl.DataFrame(rows, schema=["model", "mu", "sigma"], orient="row"))


def chosen(chooser, n, seen=None):
    seen = set() if seen is None else seen
    found = []
    for _ in range(n):
        pair = chooser.pair(seen)
        seen.add(frozenset(item.id for item in pair))
        found.append(pair)
    return found


def test_the_least_known_and_the_closest_are_asked_first():
    known = ratings(a=(30.0, 0.5), b=(29.0, 0.5), c=(10.0, 0.5), new=(25.0, 8.0))
    chooser = Chooser(catalogue(["a", "b", "c", "new"], 3), known, seed=1)
    first, _ = (item.model for item in chosen(chooser, 1)[0])
    pairs = [frozenset(item.model for item in pair) for pair in chosen(chooser, 4)]
    assert "new" in pairs[0]
    assert frozenset("ac") not in pairs
    assert first in known.table["model"]


def test_a_policy_against_the_one_that_stands_goes_first():
    models = ["a", "b", "base@1", "dpo@1", "arenapo@2"]
    equal = ratings(**dict.fromkeys(models, (25.0, 3.0)))
    own = catalogue(models, 30, {"base@1", "dpo@1", "arenapo@2"}, "base@1")
    pairs = [frozenset(item.model for item in pair) for pair in chosen(Chooser(own, equal, 0), 4)]
    base, among = pairs[:2], pairs[2:]
    assert set(base) == {frozenset({"base@1", "dpo@1"}), frozenset({"base@1", "arenapo@2"})}
    assert frozenset({"dpo@1", "arenapo@2"}) in among  # while those two are under way
    assert frozenset("ab") not in pairs


def test_raters_at_once_get_different_pairs():
    models = [f"m{k}" for k in range(6)]
    equal = ratings(**dict.fromkeys(models, (25.0, 5.0)))
    found = chosen(Chooser(catalogue(models, 50), equal, 0), 15)
    assert len({frozenset(item.model for item in pair) for pair in found}) == 15


def test_prompts_with_few_votes_go_first():
    equal = ratings(a=(25.0, 5.0), b=(25.0, 5.0))
    counts = {f"prompt {p}": 10 * (p != 7) for p in range(30)}
    chooser = Chooser(catalogue(["a", "b"], 30, counts=counts), equal, 0)
    assert chosen(chooser, 1)[0][0].prompt == "prompt 7"


def test_every_pair_of_images_comes_once_and_then_none():
    equal = ratings(a=(25.0, 5.0), b=(25.0, 5.0), c=(25.0, 5.0))
    seen = set()
    chosen(chooser := Chooser(catalogue("abc", 100), equal, 0), 300, seen)
    assert len(seen) == 300
    assert chooser.pair(seen) is None


def test_four_models_of_one_prompt():
    models = [f"m{k}" for k in range(6)]
    equal = ratings(**dict.fromkeys(models, (25.0, 5.0)))
    four = Chooser(catalogue(models, 3), equal, 0).four(set())
    assert len({item.model for item in four}) == 4
    assert len({item.prompt for item in four}) == 1
    assert Chooser(catalogue(models[:3], 3), equal, 0).four(set()) is None


def test_known_pairs_have_a_sure_favourite():
    known = ratings(a=(40.0, 0.5), b=(10.0, 0.5), c=(39.0, 0.5))
    chooser = Chooser(catalogue("abc", 5), known, 0)
    for _ in range(10):
        assert {item.model for item in chooser.known_pair(set())} in ({"a", "b"}, {"b", "c"})


def test_votes_go_on_from_the_lakes_ratings_as_trueskill_does():
    base = ratings(a=(25.0, 25 / 3), b=(25.0, 25 / 3))
    one = pl.DataFrame({"model_a": ["a"], "model_b": ["b"], "outcome": ["a"]})
    after = rated(base, ["a", "b", "new"], one, None).table
    # Herbrich et al.'s update of one win between two new players, tau 25/300, draws 10%
    # (trueskill.org's calculator: 29.396, 20.604, sigma 7.171).
    found = {r["model"]: (r["mu"], r["sigma"]) for r in after.iter_rows(named=True)}
    assert found["a"] == pytest.approx((29.396, 7.171), abs=2e-3)
    assert found["b"] == pytest.approx((20.604, 7.171), abs=2e-3)
    assert found["new"] == pytest.approx((25.0, 25 / 3))
