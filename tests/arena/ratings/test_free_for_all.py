"""K-wise votes against the `trueskill` package's `rate` at its tightest, and in the estimator."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import trueskill
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from arena.ratings.comparisons import Comparisons, checked_pairs
from arena.ratings.free_for_all import free_for_all
from arena.ratings.gaussian import draw_margin
from arena.ratings.table import Ratings, estimator
from arena.ratings.trueskill import TrueSkill, update

CASES = Path(__file__).parents[3] / ".." / "shared" / "cases" / "votes"
BETA = 25.0 / 6.0
EPSILON = draw_margin(0.1, BETA)
TIGHTEST = 1e-300  # the package then makes all of the ten sweeps that it allows itself


def ours(mu, sigma, ranks, tau=25.0 / 300.0, epsilon=EPSILON):
    """Return (mu, sigma) after one vote, in the order given."""
    order = np.argsort(ranks, kind="stable")
    mean, var = np.array(mu)[order], np.array(sigma)[order] ** 2 + tau**2
    _, size = np.unique(np.array(ranks)[order], return_counts=True)
    free_for_all(mean, var, size, BETA**2, epsilon)
    back = np.argsort(order)
    return mean[back], np.sqrt(var)[back]


def by_package(mu, sigma, ranks):
    env = trueskill.TrueSkill(backend="scipy")
    teams = [(env.create_rating(m, s),) for m, s in zip(mu, sigma, strict=True)]
    rated = env.rate(teams, ranks=list(ranks), min_delta=TIGHTEST)
    return np.array([r.mu for (r,) in rated]), np.array([r.sigma for (r,) in rated])


def table(rows, **columns):
    return pl.DataFrame(rows, schema=["models", "ranks"], orient="row").with_columns(**columns)


def votes_of(rows, **columns):
    names = ["model_a", "model_b", "outcome"]
    return pl.DataFrame(rows, schema=names, orient="row").with_columns(**columns)


def at(*minutes):
    return pl.Series(
        [None if m is None else datetime(2024, 1, 1, 0, m, tzinfo=UTC) for m in minutes]
    )


@pytest.mark.parametrize("k", [2, 3, 4, 5, 9, 16])
@pytest.mark.parametrize("spread", [1.0, 8.0])
def test_update_is_the_packages_at_its_tightest(k, spread):
    rng = np.random.default_rng(k)
    for _ in range(8):
        mu, sigma = rng.normal(25.0, spread, k), rng.uniform(0.5, 8.4, k)
        ranks = rng.permutation(k)
        found, expected = ours(mu, sigma, ranks), by_package(mu, sigma, ranks)
        assert found[0] == pytest.approx(expected[0], abs=1e-6, rel=1e-9)
        assert found[1] == pytest.approx(expected[1], abs=1e-6, rel=1e-9)


def test_two_players_are_the_pairwise_update():
    for tied in (False, True):
        mean, var = np.array([24.0, 28.0]), np.array([9.0, 2.0])
        free_for_all(mean, var, np.array([2] if tied else [1, 1]), BETA**2, EPSILON)
        expected = update(24.0, 9.0, 28.0, 2.0, BETA**2, EPSILON, tied)
        assert (mean[0], var[0], mean[1], var[1]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("sizes", [(1, 4), (4,), (1, 3, 1), (2, 1), (2, 2), (1, 2, 1, 3)])
@pytest.mark.parametrize("p_draw", [0.1, 0.5])
def test_ties_do_not_depend_on_who_is_listed_first(sizes, p_draw):
    rng = np.random.default_rng(0)
    ranks = np.repeat(np.arange(len(sizes)), sizes)
    mu, sigma = rng.normal(25.0, 8.0, len(ranks)), rng.uniform(0.7, 8.4, len(ranks))
    epsilon = draw_margin(p_draw, BETA)
    first = ours(mu, sigma, ranks, epsilon=epsilon)
    for _ in range(3):
        turn = rng.permutation(len(ranks))
        found = ours(mu[turn], sigma[turn], ranks[turn], epsilon=epsilon)
        assert found[0] == pytest.approx(first[0][turn], abs=1e-9)
        assert found[1] == pytest.approx(first[1][turn], abs=1e-9)


@pytest.mark.parametrize(
    ("ranks", "p_draw"), [((1, 0, 0), 0.1), ((0, 1, 1), 0.6), ((0, 0, 0), 0.3)]
)
def test_a_tied_group_has_the_moments_of_the_truncated_performances(ranks, p_draw):
    """Two tied players by quadrature over their mean and difference, the third one in between."""
    mu, sigma = np.array([27.0, 24.0, 20.0]), np.array([5.0, 3.0, 7.0])
    epsilon = draw_margin(p_draw, BETA)
    sd = np.sqrt(sigma**2 + BETA**2)
    node, weight = np.polynomial.legendre.leggauss(20)
    apart = epsilon * np.concatenate([(node - 1) / 2, (node + 1) / 2])
    middle = np.linspace(-40.0, 90.0, 4001)[:, None]
    one, two = middle + apart / 2, middle - apart / 2
    low, high = np.minimum(one, two), np.maximum(one, two)
    third = {
        (1, 0, 0): (-np.inf, low - epsilon),
        (0, 1, 1): (high + epsilon, np.inf),
        (0, 0, 0): (high - epsilon, low + epsilon),
    }[ranks]
    start, stop = ((edge - mu[0]) / sd[0] * np.ones_like(one) for edge in third)
    mass = norm.pdf(one, mu[1], sd[1]) * norm.pdf(two, mu[2], sd[2]) * np.tile(weight, 2)
    share = norm.cdf(stop) - norm.cdf(start)
    mass *= share
    mass /= mass.sum()
    mass[share < 1e-9] = 0.0
    share = np.maximum(share, 1e-9)
    inside = (norm.pdf(start) - norm.pdf(stop)) / share
    ends = [np.where(np.isfinite(x), x, 0.0) * norm.pdf(x) for x in (start, stop)]
    around = 1.0 + (ends[0] - ends[1]) / share - inside**2
    first = np.stack([mu[0] + sd[0] * inside, one, two])
    mean = (mass * first).sum((1, 2))
    square = (mass * (first - mean[:, None, None]) ** 2).sum((1, 2))
    square[0] += (mass * around).sum() * sd[0] ** 2
    learnt = sigma**2 / sd**2
    found = ours(mu, sigma, ranks, tau=0.0, epsilon=epsilon)
    assert found[0] == pytest.approx(mu + learnt * (mean - mu), abs=1e-7)
    expected = np.sqrt(sigma**2 * (1 - learnt) + learnt**2 * square)
    assert found[1] == pytest.approx(expected, abs=1e-7)


@pytest.mark.skipif(not CASES.exists(), reason="../shared/cases is not here")
def test_published_ties_have_the_counted_ratings():
    """shared/cases/votes/kwise_ties: importance sampling, in any order of the list.

    The means of five equals before the vote stay the same on average, so A's 30.741 and 23.5648 of
    the others, by a double integral, are exact.
    """
    for name in ("trueskill15.jsonl", "trueskill15_other_order.jsonl"):
        ratings = TrueSkill().fit(rankings=pl.read_ndjson(CASES / "kwise_ties" / name))
        best, *others = ratings.table.select("model", "mu", "sigma").rows()
        assert (best[0], best[1]) == ("A", pytest.approx(30.739, abs=0.003))
        assert best[1] == pytest.approx(30.74095045, abs=1e-8)
        for _, mu, sigma in others:
            assert mu == pytest.approx(23.561, abs=0.004)
            assert mu == pytest.approx(25.0 - 5.74095045 / 4.0, abs=1e-8)
            assert sigma == pytest.approx(5.097, abs=1e-3)
    ratings = TrueSkill().fit(pl.read_csv(CASES / "kwise_ties" / "trueskill63.csv"))
    assert ratings.table["model"].to_list() == ["bob", "alice"]
    assert ratings.table["mu"].to_list() == pytest.approx([26.643, 23.357], abs=1e-3)
    assert ratings.table["sigma"].to_list() == pytest.approx([6.040, 6.040], abs=1e-3)


@pytest.mark.filterwarnings("error")
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_ranking_makes_a_rating_that_is_none(data):
    k = data.draw(st.integers(2, 7))
    mu = data.draw(st.lists(st.floats(-250, 250), min_size=k, max_size=k))
    sigma = data.draw(st.lists(st.floats(0.05, 20), min_size=k, max_size=k))
    ranks = data.draw(st.lists(st.integers(0, k), min_size=k, max_size=k))
    mean, after = ours(mu, sigma, ranks, tau=0.0)
    assert np.isfinite(mean).all()
    assert (after > 0.0).all()
    assert (after <= np.array(sigma) * (1 + 1e-9)).all()


def test_a_ranking_of_equals_upside_down_is_its_mirror():
    mean, sd = ours([25.0] * 4, [8.0] * 4, [1, 2, 3, 4])
    assert mean[0] - 25.0 == pytest.approx(25.0 - mean[3])
    assert mean[1] - 25.0 == pytest.approx(25.0 - mean[2])
    assert sd[0] == pytest.approx(sd[3])
    assert sd[1] < sd[0]  # the middle is held from both sides
    assert (np.diff(mean) < 0).all()


def test_rankings_alone_are_rated_one_after_another_as_the_package_does():
    rng = np.random.default_rng(0)
    names = [f"m{k}" for k in range(9)]
    rows = []
    for _ in range(150):
        models = rng.choice(9, 4, replace=False)
        score = 2.0 * models + rng.normal(0.0, 6.0, 4)
        ranks = np.argsort(np.argsort(-score)) + 1
        rows.append(([names[m] for m in models], ranks.tolist()))
    env = trueskill.TrueSkill(backend="scipy")
    expected = {name: env.create_rating() for name in names}
    for models, ranks in rows:
        rated = env.rate([(expected[m],) for m in models], ranks=ranks, min_delta=TIGHTEST)
        expected.update({m: r for m, (r,) in zip(models, rated, strict=True)})
    ratings = TrueSkill(draw_probability=0.1).fit(rankings=table(rows))
    for name, mu, sigma in ratings.table.select("model", "mu", "sigma").iter_rows():
        assert mu == pytest.approx(expected[name].mu, abs=1e-6)
        assert sigma == pytest.approx(expected[name].sigma, abs=1e-6)
    assert ratings.table["votes"].sum() == 150 * 12  # four models, each with three others


def test_a_ranking_of_two_is_a_pairwise_vote():
    pairs = [("x", "y", "a"), ("z", "y", "tie"), ("x", "z", "b")]
    ranked = [(["x", "y"], [1, 2]), (["z", "y"], [3, 3]), (["x", "z"], [2, 1])]
    one, other = TrueSkill().fit(votes_of(pairs)), TrueSkill().fit(rankings=table(ranked))
    assert one.table.drop("mu", "sigma").equals(other.table.drop("mu", "sigma"))
    for name in ("mu", "sigma"):
        assert other.table[name].to_numpy() == pytest.approx(one.table[name].to_numpy(), rel=1e-12)


def test_rankings_take_their_turn_in_time_among_the_pairwise_votes():
    votes = votes_of(
        [("x", "y", "a"), ("y", "z", "b"), ("z", "x", "tie")], created_at=at(5, 1, None)
    )
    rankings = table(
        [(["z", "y", "x"], [1, 2, 2]), (["x", "w", "y"], [1, 2, 3])], created_at=at(5, 3)
    )
    fit = TrueSkill().fit
    step = fit(votes[1])
    step = fit(prior=step, rankings=rankings[1])
    step = fit(votes[0], prior=step)  # of one time: the pairwise vote first
    step = fit(prior=step, rankings=rankings[0])
    step = fit(votes[2], prior=step)
    assert fit(votes, rankings=rankings).table.equals(step.table)
    assert step.table["group"].to_list() == [0] * 4


def test_going_on_with_rankings_is_one_pass_to_the_bit(tmp_path):
    rng = np.random.default_rng(3)
    names = np.array([f"m{k}" for k in range(6)])
    rows = [(names[rng.choice(6, 4, replace=False)].tolist(), [1, 2, 2, 3]) for _ in range(40)]
    TrueSkill().fit(rankings=table(rows[:25])).write(tmp_path / "r.parquet")
    earlier = Ratings.read(tmp_path / "r.parquet")
    p = earlier.parameters["draw_probability"]
    assert 0.1 < p < 0.3  # of six pairs one ties
    went_on = TrueSkill().fit(prior=earlier, rankings=table(rows[25:]))
    assert went_on.table.equals(TrueSkill(draw_probability=p).fit(rankings=table(rows)).table)


def test_images_of_one_model_stand_at_their_mean_rank():
    twice = table([(["x", "y", "x", "z"], [1, 2, 4, 3])])  # x at 2.5: between y and z
    once = table([(["y", "x", "z"], [1, 2, 3])])
    columns = ["model", "mu", "sigma"]
    found = TrueSkill().fit(rankings=twice).table.select(columns)
    assert found.equals(TrueSkill().fit(rankings=once).table.select(columns))
    alone = TrueSkill().fit(rankings=table([(["x", "x"], [1, 2]), (["x", "y"], [1, 2])]))
    assert alone.table.equals(TrueSkill().fit(rankings=table([(["x", "y"], [1, 2])])).table)


def test_pairs_of_a_ranking_count_ties_across_every_equal_rank():
    pairs = Comparisons.of(rankings=table([(["d", "a", "b", "c"], [3, 1, 1, 1])]))
    assert pairs.models == ["a", "b", "c", "d"]
    wins, ties = pairs.counts()
    assert wins.tolist() == [[0, 0, 0, 1]] * 3 + [[0] * 4]
    assert ties.sum() == 6


@pytest.mark.parametrize("name", ["trueskill", "thurstone", "bradley_terry"])
def test_k_wise_votes_are_rated_one_way_however_they_are_given(name):
    """As rankings, as the pairs that a reader made of them, and as both."""
    rng = np.random.default_rng(4)
    names = np.array([f"m{k}" for k in range(6)])
    rows = [(names[rng.choice(6, 4, replace=False)].tolist(), [1, 2, 2, 3]) for _ in range(12)]
    rankings = table(rows, vote_id=pl.Series([f"r{k}" for k in range(12)]))
    others = votes_of([("m0", "m1", "a"), ("m2", "m1", "tie")])
    pairs = pl.concat([others, checked_pairs(rankings)], how="diagonal")
    fit = estimator(name).fit
    expected = fit(others, rankings=rankings).table
    assert expected["votes"].sum() == 2 * (2 + 12 * 6)
    for found in (fit(pairs), fit(pairs, rankings=rankings), fit(Comparisons.of(pairs))):
        assert found.table.equals(expected)
    # The pairs stand where the first of them does, also where others came in between.
    mixed = pl.concat([pairs[:5], others[:1], pairs[5:]], how="diagonal")
    assert np.array_equal(np.diff(np.flatnonzero(Comparisons.of(mixed).ranking == 1)), [1] * 5)


def test_what_cannot_be_rated_is_said():
    votes = votes_of([("x", "y", "a")])
    ranked = table([(["x", "y"], [1, 2]), (["x", "y", "z"], [1, 2])])
    with pytest.raises(ValueError, match="K-wise vote 2: 3 models but 2 ranks; give one each"):
        TrueSkill().fit(votes, rankings=ranked)
    with pytest.raises(ValueError, match="draw_probability must be above 0, or auto"):
        TrueSkill(draw_probability=0.0).fit(rankings=table([(["x", "y"], [1, 1])]))
    with pytest.raises(ValueError, match="give the votes as a table"):
        TrueSkill().fit(Comparisons.of(votes), rankings=ranked.head(1))
    with pytest.raises(ValueError, match="K-wise vote 1: a model or a rank is null"):
        TrueSkill().fit(rankings=table([(["x", "y"], [1, None])]))
    with pytest.raises(ValueError, match="K-wise votes have no column ranks"):
        TrueSkill().fit(rankings=ranked.drop("ranks"))


def test_the_command_rates_a_file_of_rankings_beside_one_of_pairs(tmp_path, capsys):
    """A K-wise vote through `python -m arena fit` is one update, not its pairs."""
    from arena.__main__ import main

    votes = votes_of([("x", "y", "a"), ("y", "z", "b")], created_at=at(1, 9))
    rankings = table([(["z", "y", "x"], [1, 2, 2]), (["x", "z", "y"], [1, 2, 3])])
    rankings = rankings.with_columns(created_at=at(5, 3))
    votes.write_parquet(tmp_path / "votes.parquet")
    rankings.with_columns(prompt=pl.lit("a cat")).write_parquet(tmp_path / "kwise.parquet")
    files = [str(tmp_path / name) for name in ("votes.parquet", "kwise.parquet")]
    assert main(["fit", *files, "--out", str(tmp_path / "ratings.parquet")]) == 0
    found = Ratings.read(tmp_path / "ratings.parquet")
    assert found.table.equals(TrueSkill().fit(votes, rankings=rankings).table)
    assert "3 models, 8 votes" in capsys.readouterr().out
