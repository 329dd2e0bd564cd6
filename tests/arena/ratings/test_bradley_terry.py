"""Bradley-Terry against the published leaderboard, a general optimiser and simulated arenas."""

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from arena_simulation import simulated_arena
from scipy.optimize import minimize

from arena.ratings.batch import BradleyTerry, maximum_likelihood

GENAI_ARENA = Path(__file__).parents[3] / ".." / "shared" / "data" / "genai_arena"


NAMES = ["model_a", "model_b", "outcome"]
CASES = GENAI_ARENA.parents[1] / "cases" / "votes"


def table(rows):
    return pl.DataFrame(rows, schema=NAMES, orient="row")


def genai_arena(anonymous):
    battles = json.loads((GENAI_ARENA / "clean_battle_20240220.json").read_text())
    outcome = {"model_a": "a", "model_b": "b", "tie": "tie", "tie (bothbad)": "tie"}
    return table(
        [
            (x["model_a"].split("_")[1], x["model_b"].split("_")[1], outcome[x["winner"]])
            for x in battles
            if (x["anony"] or not anonymous) and x["model_a"].endswith("_generation")
        ]
    )


@pytest.mark.skipif(not GENAI_ARENA.exists(), reason="../shared/data/genai_arena is not here")
def test_published_genai_arena_ratings_are_met():
    """GenAI-Arena (TIGER-AI-Lab, Apache-2.0): the 1,451 anonymous text-to-image votes."""
    votes = genai_arena(anonymous=True)
    assert votes.height == 1451
    published = pl.read_csv(GENAI_ARENA / "t2i_generation_leaderboard.csv")
    ratings = BradleyTerry().fit(votes).table.join(published, left_on="model", right_on="key")
    assert ratings.height == 6
    difference = ratings["elo"] - ratings["Arena Elo rating (anony)"]
    assert np.abs(difference.to_numpy()).max() < 0.2
    elo = [1151.3, 1078.4, 1027.2, 972.1, 921.3, 849.6]  # shared/cases
    assert ratings["elo"].to_list() == pytest.approx(elo, abs=0.2)
    # Below 0 would be no interval, above 60 points no rating.
    assert (ratings["elo_sd"].to_numpy() > 5).all()
    assert (ratings["elo_sd"].to_numpy() < 30).all()


@pytest.mark.skipif(not GENAI_ARENA.exists(), reason="../shared/data/genai_arena is not here")
def test_all_votes_have_the_counted_elo_and_places_by_interval_in_any_order():
    """shared/cases: Elo of the 1,977 votes, and 1 + how many are surely above."""
    votes = genai_arena(anonymous=False)
    expected = [1150.971, 1069.822, 1035.389, 969.456, 906.243, 868.119]
    for some in (votes, votes.sample(fraction=1.0, shuffle=True, seed=1)):
        ratings = BradleyTerry().fit(some)
        assert ratings.table["elo"].to_list() == pytest.approx(expected, abs=0.01)
        assert ratings.places().to_list() == [1, 2, 2, 4, 5, 5]


def test_two_models_have_the_textbook_rating():
    votes = table([("x", "y", "a")] * 3 + [("x", "y", "b")])
    ratings = BradleyTerry().fit(votes).table
    theta = math.log(3.0) / 2.0
    assert ratings["elo"].to_list() == pytest.approx(
        [1000 + theta * 400 / math.log(10), 1000 - theta * 400 / math.log(10)], abs=0.05
    )
    # The variance of a log odds of 3 : 1 is 1/3 + 1/1; each model has a half of the difference.
    assert ratings["elo_sd"][0] == pytest.approx(
        400 / math.log(10) * math.sqrt(1 / 3 + 1) / 2, rel=1e-3
    )


def test_maximum_is_that_of_a_general_optimiser():
    wins, ties, _ = simulated_arena(np.random.default_rng(1), 6, 600, 0.0, 1.0, 1.0, 0.4)
    score = wins + ties / 2.0
    theta, _ = maximum_likelihood(wins, ties, 1e-4)

    def loss(t):
        return (score * np.log1p(np.exp(t[None, :] - t[:, None]))).sum() + t.sum() ** 2

    found = minimize(loss, np.zeros(6), method="BFGS", options={"gtol": 1e-8})
    assert theta == pytest.approx(found.x, abs=1e-4)
    assert theta.sum() == pytest.approx(0.0, abs=1e-9)


def test_standard_deviation_is_the_spread_over_repeated_arenas():
    """Ties vary less than coins do, so the Hessian alone would say a wider interval."""
    rng = np.random.default_rng(2)
    truth = np.array([0.8, 0.2, 0.0, -1.0])
    estimates, said, centre = [], [], np.eye(4) - 0.25
    for _ in range(400):
        a = rng.integers(0, 4, 300)
        b = (a + rng.integers(1, 4, 300)) % 4
        d = truth[a] - truth[b] + rng.logistic(size=300)
        wins, ties = np.zeros((2, 4, 4))
        np.add.at(wins, (a[d > 0.7], b[d > 0.7]), 1)
        np.add.at(wins, (b[d < -0.7], a[d < -0.7]), 1)
        tied = np.abs(d) <= 0.7
        np.add.at(ties, (a[tied], b[tied]), 1)
        np.add.at(ties, (b[tied], a[tied]), 1)
        theta, covariance = maximum_likelihood(wins, ties, 1e-4)
        estimates.append(theta)
        said.append(np.sqrt(np.diag(centre @ covariance @ centre)))
    assert np.mean(said, 0) == pytest.approx(np.std(estimates, 0), rel=0.12)


def test_a_model_that_never_lost_is_far_up_with_a_wide_interval():
    """No maximum without the ridge (Ford, 1957); x is never named instead of the right models."""
    votes = table([("x", "y", "a")] * 10 + [("y", "z", "tie"), ("y", "z", "a"), ("y", "z", "b")])
    ratings = BradleyTerry().fit(votes)
    best = ratings.table.row(0, named=True)
    assert best["model"] == "x"
    assert np.isfinite(ratings.table["elo"].to_numpy()).all()
    (delta,), (variance,) = ratings.difference(np.array([0]), np.array([1]))
    assert 1.96 * math.sqrt(variance) > delta / 2 > 5.0
    assert ratings.win_probability("x", "y") > 0.7
    # y and z are compared by their own votes only.
    pair = BradleyTerry().fit(votes.filter(pl.col("model_b") == "z"))
    a, b = ratings._row("y"), ratings._row("z")
    (delta,), (variance,) = ratings.difference(np.array([a]), np.array([b]))
    (alone,), (own,) = pair.difference(np.array([0]), np.array([1]))
    assert (abs(delta), variance) == pytest.approx((abs(alone), own), abs=0.05)


def test_a_model_that_met_no_other_is_rated_by_the_ridge_alone():
    ratings = BradleyTerry().fit(table([("x", "y", "a"), ("x", "y", "b"), ("z", "z", "a")]))
    lone = ratings.table.filter(pl.col("model") == "z").row(0, named=True)
    assert lone["mu"] == 25.0
    assert lone["sigma"] == pytest.approx(ratings.parameters["sigma"])
    assert ratings.win_probability("z", "x") == pytest.approx(0.5, abs=0.01)


@pytest.mark.skipif(not CASES.exists(), reason="../shared/cases is not here")
def test_a_cycle_has_the_counted_elo_and_one_place_for_all():
    """shared/cases/votes/cycle: A > B > C > A."""
    ratings = BradleyTerry().fit(pl.read_csv(CASES / "cycle" / "cycle.csv"))
    assert ratings.table["elo"].to_list() == pytest.approx([1042.795, 1002.984, 954.221], abs=2e-3)
    assert ratings.places().to_list() == [1, 1, 1]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (  # shared/cases/votes/hpd_v3: choice_dist of four pairs
            [
                ("flux", "sdxl", "a", 17, 2),
                ("flux", "kolors", "a", 12, 7),
                ("kolors", "sdxl", "a", 10, 9),
                ("sdxl", "flux", "a", 13, 6),
            ],
            {"flux": 1053.36, "kolors": 975.19, "sdxl": 971.45},
        ),
        (  # shared/cases/votes/rapidata/train_0001.parquet: votes_image1, votes_image2
            [
                ("dalle-3", "flux", "b", 9, 17),
                ("dalle-3", "sd3", "a", 20, 6),
                ("flux", "midjourney", "tie", 13, 13),
                ("sd3", "midjourney", "b", 4, 22),
            ],
            {"flux": 1104.73, "midjourney": 1100.42, "dalle-3": 998.99, "sd3": 795.86},
        ),
    ],
)
def test_a_row_that_sums_several_raters_is_that_many_votes(rows, expected):
    counted = pl.DataFrame(rows, [*NAMES, "votes_a", "votes_b"], orient="row")
    ratings = BradleyTerry().fit(counted).table
    assert ratings["votes"].sum() == 2 * sum(sum(row[3:]) for row in rows)
    elo = dict(ratings.select("model", "elo").iter_rows())
    assert elo == pytest.approx(expected, abs=0.01)
    each = [(a, b, o) for a, b, _, n, m in rows for o in "a" * n + "b" * m]
    assert BradleyTerry().fit(table(each)).table.equals(ratings)


def test_groups_that_never_met_have_each_their_own_middle():
    votes = table(
        [("p", "q", "a"), ("p", "q", "a"), ("p", "q", "b"), ("x", "y", "a"), ("x", "y", "b")]
    )
    ratings = BradleyTerry().fit(votes).table
    means = ratings.group_by("group").agg(pl.col("elo").mean())
    assert means["elo"].to_numpy() == pytest.approx([1000.0, 1000.0])
    assert set(ratings["group"]) == {0, 1}
