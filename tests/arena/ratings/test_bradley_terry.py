"""Bradley-Terry against the published leaderboard, a general optimiser and simulated arenas."""

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from arena_simulation import simulated_arena
from scipy.optimize import minimize

from arena.ratings.bradley_terry import BradleyTerry, maximum_likelihood

GENAI_ARENA = Path(__file__).parents[3] / ".." / "shared" / "data" / "genai_arena"


def table(rows):
    return pl.DataFrame(rows, schema=["model_a", "model_b", "outcome"], orient="row")


@pytest.mark.skipif(not GENAI_ARENA.exists(), reason="../shared/data/genai_arena is not here")
def test_published_genai_arena_ratings_are_met():
    """GenAI-Arena (TIGER-AI-Lab, Apache-2.0): the 1,451 anonymous text-to-image votes."""
    battles = json.loads((GENAI_ARENA / "clean_battle_20240220.json").read_text())
    outcome = {"model_a": "a", "model_b": "b", "tie": "tie", "tie (bothbad)": "tie"}
    votes = table(
        [
            (x["model_a"].split("_")[1], x["model_b"].split("_")[1], outcome[x["winner"]])
            for x in battles
            if x["anony"] and x["model_a"].endswith("_generation")
        ]
    )
    assert votes.height == 1451
    published = pl.read_csv(GENAI_ARENA / "t2i_generation_leaderboard.csv")
    ratings = BradleyTerry().fit(votes).table.join(published, left_on="model", right_on="key")
    assert ratings.height == 6
    difference = ratings["elo"] - ratings["Arena Elo rating (anony)"]
    assert np.abs(difference.to_numpy()).max() < 0.2
    # Below 0 would be no interval, above 60 points no rating.
    assert (ratings["elo_sd"].to_numpy() > 5).all()
    assert (ratings["elo_sd"].to_numpy() < 30).all()


def test_two_models_have_the_textbook_rating():
    votes = table([("x", "y", "a")] * 3 + [("x", "y", "b")])
    ratings = BradleyTerry().fit(votes).table
    theta = math.log(3.0) / 2.0
    assert ratings["elo"].to_list() == pytest.approx(
        [1000 + theta * 400 / math.log(10), 1000 - theta * 400 / math.log(10)]
    )
    # The variance of a log odds of 3 : 1 is 1/3 + 1/1; each model has a half of the difference.
    assert ratings["elo_sd"][0] == pytest.approx(
        400 / math.log(10) * math.sqrt(1 / 3 + 1) / 2, rel=1e-6
    )


def test_maximum_is_that_of_a_general_optimiser():
    wins, ties, _ = simulated_arena(np.random.default_rng(1), 6, 600, 0.0, 1.0, 1.0, 0.4)
    score = wins + ties / 2.0
    theta, _ = maximum_likelihood(wins, ties, np.zeros(6, np.int64))

    def loss(t):
        return (score * np.log1p(np.exp(t[None, :] - t[:, None]))).sum() + t.sum() ** 2

    found = minimize(loss, np.zeros(6), method="BFGS", options={"gtol": 1e-8})
    assert theta == pytest.approx(found.x, abs=1e-5)
    assert theta.sum() == pytest.approx(0.0, abs=1e-9)


def test_standard_deviation_is_the_spread_over_repeated_arenas():
    """Ties vary less than coins do, so the Hessian alone would say a wider interval."""
    rng = np.random.default_rng(2)
    truth = np.array([0.8, 0.2, 0.0, -1.0])
    estimates, said = [], []
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
        theta, covariance = maximum_likelihood(wins, ties, np.zeros(4, np.int64))
        estimates.append(theta)
        said.append(np.sqrt(np.diag(covariance)))
    assert np.mean(said, 0) == pytest.approx(np.std(estimates, 0), rel=0.12)


@pytest.mark.parametrize(
    ("votes", "name"),
    [
        ([("x", "y", "a"), ("y", "z", "tie")], "'x'"),
        ([("x", "y", "tie"), ("y", "z", "b"), ("x", "z", "b")], "'z'"),
    ],
)
def test_a_model_that_never_lost_is_refused_by_name(votes, name):
    with pytest.raises(ValueError, match=f"no finite rating for {name}.*use thurstone"):
        BradleyTerry().fit(table(votes))


def test_a_model_that_met_no_other_is_refused_by_name():
    with pytest.raises(ValueError, match="cannot rate 'z': it met no other model"):
        BradleyTerry().fit(table([("x", "y", "a"), ("x", "y", "b"), ("z", "z", "a")]))


def test_groups_that_never_met_have_each_their_own_middle():
    votes = table(
        [("p", "q", "a"), ("p", "q", "a"), ("p", "q", "b"), ("x", "y", "a"), ("x", "y", "b")]
    )
    ratings = BradleyTerry().fit(votes).table
    means = ratings.group_by("group").agg(pl.col("elo").mean())
    assert means["elo"].to_numpy() == pytest.approx([1000.0, 1000.0])
    assert set(ratings["group"]) == {0, 1}
