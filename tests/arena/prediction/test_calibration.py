"""Predictions of unseen votes: their scores by hand, no look into the future, fair baselines."""

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import norm

from arena.prediction.calibration import (
    FLOOR,
    log_losses,
    predict,
    predict_online,
    reliability,
    score,
)
from arena.prediction.held_out import (
    BASELINES,
    block_edges,
    constant,
    constant_online,
    elo,
    elo_online,
    evaluate,
)
from arena.ratings.batch import BradleyTerry
from arena.ratings.comparisons import A_WINS, B_WINS, TIE, Comparisons
from arena.ratings.gaussian import draw_margin
from arena.ratings.table import Ratings, estimator
from arena.ratings.trueskill import TrueSkill
from arena.schema import RATINGS
from arena.votes.read import read_votes

GENAI = Path(__file__).parents[3] / ".." / "shared" / "data" / "genai_arena"
BATTLES = GENAI / "clean_battle_20240220.json"


def votes_of(*rows):
    """Comparisons from ("x>y", "x=y", ...)."""
    names = sorted({name for row in rows for name in row.replace("=", ">").split(">")})
    pairs = [row.replace("=", ">").split(">") for row in rows]
    return Comparisons(
        names,
        np.array([names.index(a) for a, _ in pairs], np.int32),
        np.array([names.index(b) for _, b in pairs], np.int32),
        np.array([TIE if "=" in row else A_WINS for row in rows], np.int8),
    )


def simulated(seed=0, models=8, votes=3_000, sides=0.5):
    """Votes of the method's own likelihood; sides: how often the better model stands on side a."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(25.0, 25.0 / 3.0, models)
    a = rng.integers(0, models, votes)
    b = (a + rng.integers(1, models, votes)) % models
    turn = (truth[a] > truth[b]) != (rng.random(votes) < sides)
    a, b = np.where(turn, b, a), np.where(turn, a, b)
    d = truth[a] - truth[b] + rng.normal(0.0, math.sqrt(2.0) * 25.0 / 6.0, votes)
    outcome = np.where(np.abs(d) <= 2.0, TIE, np.where(d > 0, A_WINS, B_WINS)).astype(np.int8)
    names = [f"m{k}" for k in range(models)]
    return Comparisons(names, a.astype(np.int32), b.astype(np.int32), outcome)


def ratings_of(estimator_name, parameters, **models):
    rows = [(name, mu, sigma, 1, 1, 0, 0, group) for name, (mu, sigma, group) in models.items()]
    table = pl.DataFrame(rows, RATINGS, orient="row").sort("mu", descending=True)
    return Ratings(table, estimator_name, parameters)


def test_probabilities_are_those_of_the_two_performances():
    parameters = {"mu": 25.0, "sigma": 8.0, "beta": 4.0, "epsilon": 1.5}
    ratings = ratings_of("trueskill", parameters, x=(27.0, 2.0, 0), y=(24.0, 1.0, 0))
    c = math.sqrt(2 * 16.0 + 4.0 + 1.0)
    won, lost = norm.sf(1.5, 3.0, c), norm.cdf(-1.5, 3.0, c)
    assert predict(ratings, votes_of("x>y"))[0] == pytest.approx([won, lost, 1 - won - lost])
    # Seen from the other side it is the same vote.
    assert predict(ratings, votes_of("y>x"))[0] == pytest.approx([lost, won, 1 - won - lost])


def test_a_model_never_seen_has_the_prior():
    known = {"x": (27.0, 2.0, 0), "y": (24.0, 1.0, 0), "z": (25.0, 1.0, 1)}
    parameters = {"mu": 25.0, "sigma": 8.0, "beta": 4.0, "epsilon": 1.5}
    prior = ratings_of("trueskill", parameters, **known, new=(25.0, 8.0, 2))
    asked = votes_of("x>new", "new>y", "x>z")
    without = ratings_of("trueskill", parameters, **known)
    assert predict(without, asked) == pytest.approx(predict(prior, asked))
    # Bradley-Terry's ridge is a prior so wide that it says nothing.
    ratings = BradleyTerry().fit(votes_of("x>y", "y>x", "x>y"))
    assert predict(ratings, votes_of("x>new"))[0, :2] == pytest.approx([0.5, 0.5], abs=0.01)


def test_a_batch_fit_predicts_by_the_variance_of_the_difference():
    """10,000 votes 6 to 4 say 0.600; the two marginals, which hold the board's level, 0.55."""
    ratings = estimator("thurstone").fit(votes_of(*["x>y"] * 6_000, *["y>x"] * 4_000))
    assert predict(ratings, votes_of("x>y"))[0, A_WINS] == pytest.approx(0.6, abs=1e-3)
    assert ratings.win_probability("x", "y") == pytest.approx(0.6, abs=1e-3)


def test_scores_by_hand():
    probability = np.array([[0.5, 0.3, 0.2], [0.1, 0.7, 0.2], [1.0, 0.0, 0.0]])
    found = score(probability, np.array([0, 2, 1]))
    losses = -np.log([0.5, 0.2, FLOOR / (1 + 2 * FLOOR)])
    assert found.log_loss == pytest.approx(losses.mean())
    brier = [0.25 + 0.09 + 0.04, 0.01 + 0.49 + 0.64, 2.0]
    assert found.brier == pytest.approx(np.mean(brier), rel=1e-5)
    assert found.accuracy == pytest.approx(1 / 3)


def test_reliability_finds_true_rates_inside_its_intervals_and_false_ones_outside():
    rng = np.random.default_rng(5)
    p = rng.uniform(0.02, 0.98, 40_000)
    outcome = np.where(rng.random(p.size) < p, A_WINS, B_WINS)
    right = np.stack([p, 1 - p, np.zeros_like(p)], 1)
    points = reliability(right, outcome)
    assert sum(n for *_, n in points) == p.size
    assert sum(abs(x - y) <= half for x, y, half, _ in points) >= 8
    assert all(x >= 0.5 for x, *_ in points)
    assert score(right, outcome).calibration_error < 0.01
    sure = np.stack([q := p**2 / (p**2 + (1 - p) ** 2), 1 - q, np.zeros_like(p)], 1)
    assert score(sure, outcome).calibration_error > 0.05
    # Ties are no one's win: they change nothing.
    tied = np.append(outcome, [TIE] * 100)
    assert reliability(np.append(right, right[:100], axis=0), tied) == points


def test_baselines_by_hand():
    votes = votes_of("x>y", "x=y", "y>x", "x>y")
    assert constant(votes, votes.part(0, 2)) == pytest.approx(np.array([[4, 1, 2], [4, 1, 2]]) / 7)
    before = np.array([[1, 1, 1], [2, 1, 1], [2, 1, 2], [3, 1, 2]])
    before = before / before.sum(1, keepdims=True)
    assert constant_online(votes, 0) == pytest.approx(before)
    # Elo: +-12 after the first win, then the expected score of 24 points, tied, and so on.
    expected = [0.5, 1 / (1 + 10 ** (-24 / 400))]
    after = 24 + 48 * (0.5 - expected[1])
    expected.append(1 / (1 + 10 ** (after / 400)))  # now y stands on side a
    tie = before[:3, TIE]
    assert elo_online(votes, 0)[:3, A_WINS] == pytest.approx((1 - tie) * expected)


def test_frozen_and_online_baselines_agree_on_the_very_next_vote():
    votes = simulated()
    past, next_vote = votes.part(0, 2_000), votes.part(2_000, 2_001)
    assert elo_online(votes, 2_000)[0] == pytest.approx(elo(past, next_vote)[0])
    assert constant_online(votes, 2_000)[0] == pytest.approx(constant(past, next_vote)[0])


MADE = {
    "trueskill": TrueSkill(),
    "thurstone": estimator("thurstone"),
    "bradley_terry": BradleyTerry(),
}


def test_every_estimator_beats_the_baselines_where_its_model_is_true():
    table = evaluate(simulated(), MADE, blocks=1, first=0.7).overall()
    ours = table.filter(pl.col("method").is_in(list(MADE)))
    assert ours["votes"].to_list() == [900] * 4
    assert (ours["gain"] > 0.0).all()
    assert (ours["calibration_error"] < 0.06).all()


def test_an_estimator_that_learns_nothing_does_not_beat_the_constant():
    # Everyone stays where the prior is, so only the share of ties could be right.
    nothing = TrueSkill(sigma=1e-6, tau=0.0)
    table = evaluate(simulated(sides=0.7), {"nothing": nothing}, blocks=1, first=0.8).overall()
    loss = dict(table.filter(prediction="frozen").select("method", "log_loss").iter_rows())
    assert loss["nothing"] > loss["constant"]


def test_the_future_changes_no_prediction():
    votes = simulated()
    turned = votes.outcome.copy()
    turned[2_400:] = (turned[2_400:] + 1) % 3
    other = Comparisons(votes.models, votes.a, votes.b, turned)
    one, two = (evaluate(v, MADE) for v in (votes, other))
    for key, p in one.probability.items():
        assert p.sum(1) == pytest.approx(np.ones(1500))
        assert np.array_equal(p[:900], two.probability[key][:900]), key


def test_a_vote_between_a_model_and_itself_is_not_predicted():
    votes = simulated()
    same = Comparisons(
        votes.models, votes.a, np.where(votes.a < 3, votes.a, votes.b), votes.outcome
    )
    kept = int((same.a != same.b).sum())
    found = evaluate(same, {}, blocks=1, first=0.8)
    assert len(found.outcome) == kept - round(kept * 0.8)


def test_too_few_votes_are_refused_with_their_number():
    with pytest.raises(ValueError, match=r"3 votes .* too few to predict 5 blocks"):
        evaluate(votes_of("x>y", "x>y", "x>y"), {})


def test_votes_of_a_model_that_the_past_never_saw_are_counted():
    past, future = ["x>y", "y>z", "z>x", "x=y"] * 3, ["x>y", "new>y", "x>new", "z=x"] * 3
    table = evaluate(votes_of(*past, *future), MADE, blocks=1).overall()
    unrated = dict(table.filter(prediction="frozen").select("method", "unrated").iter_rows())
    assert unrated == {**dict.fromkeys(MADE, 6), **dict.fromkeys(BASELINES, 0)}


def test_every_rater_of_a_row_is_scored_and_a_k_wise_vote_is_never_split():
    counted = pl.DataFrame(
        [("x", "y", "a", 3, 1), ("x", "z", "b", 0, 2)] * 20,
        ["model_a", "model_b", "outcome", "votes_a", "votes_b"],
        orient="row",
    )
    found = evaluate(counted, {"each": TrueSkill(counts="each"), "most": TrueSkill()}, 1)
    assert found.outcome.tolist() == [0, 0, 1, 0, 1, 1] * 10
    assert all(len(p) == len(found.outcome) == 60 for p in found.probability.values())
    ranked = pl.DataFrame({"models": [["x", "y", "z"]] * 20, "ranks": [[1, 2, 2]] * 20})
    edges = block_edges(Comparisons.of(rankings=ranked), 3, 0.5)
    assert (edges % 3 == 0).all()
    online = evaluate(Comparisons.of(rankings=ranked), {"t": TrueSkill()}, 3)
    p = online.probability["t", "online"].reshape(-1, 3, 3)
    before = TrueSkill().fit(rankings=ranked.head(10))
    moved = before.table.with_columns((pl.col("sigma") ** 2 + TrueSkill().tau ** 2).sqrt())
    ahead = predict(Ratings(moved, "trueskill", before.parameters), votes_of("x>y", "x>z", "y=z"))
    # The draw margin is that of the votes before the first block, so the same here.
    assert p[0] == pytest.approx(ahead, abs=1e-9)


def test_sequential_predictions_are_those_of_ratings_fitted_to_the_votes_before():
    votes = simulated(votes=60)
    chosen = TrueSkill(beta=3.0, tau=0.5, draw_probability=0.2)
    margin = draw_margin(0.2, 3.0)
    found = predict_online(votes, chosen.sigma, 3.0, 0.5, margin)
    for k in range(len(votes)):
        before = chosen.fit(votes.part(0, k))
        # The dynamics act before the vote: tau^2 more variance on each side.
        moved = before.table.with_columns((pl.col("sigma") ** 2 + 0.25).sqrt())
        ratings = Ratings(moved, "trueskill", before.parameters)
        assert found[k] == pytest.approx(predict(ratings, votes.part(k, k + 1))[0], rel=1e-9)


def test_time_splits_score_every_method_on_the_same_votes_block_by_block():
    votes = simulated()
    found = evaluate(votes, {"t": TrueSkill(), "b": BradleyTerry()})
    edges = block_edges(votes)
    assert edges.tolist() == [1500, 1800, 2100, 2400, 2700, 3000]
    table = found.table
    assert set(table.select("method", "prediction").unique().iter_rows()) == {
        *((name, kind) for name in (*BASELINES, "t") for kind in ("frozen", "online")),
        ("b", "frozen"),
    }
    third = TrueSkill().fit(votes.part(0, 2100))
    by_hand = predict(third, votes.part(2100, 2400))
    assert found.probability["t", "frozen"][600:900] == pytest.approx(by_hand)
    for (method, kind), rows in table.group_by("method", "prediction"):
        parts, whole = rows.drop_nulls("block"), rows.filter(pl.col("block").is_null())
        assert parts["votes"].sum() == whole["votes"].item() == 1500
        assert parts["log_loss"].mean() == pytest.approx(whole["log_loss"].item()), (method, kind)
    overall = found.overall()
    assert overall["log_loss"].is_sorted()
    ours, constant_, elo_ = (
        log_losses(found.probability[name, "frozen"], found.outcome) for name in ("t", *BASELINES)
    )
    better = min(constant_, elo_, key=np.mean)
    row = overall.filter((pl.col("method") == "t") & (pl.col("prediction") == "frozen"))
    assert row["gain"].item() == pytest.approx((better - ours).mean())
    half = 1.96 * (better - ours).std() / math.sqrt(1500)
    assert row["gain_half"].item() == pytest.approx(half)


@pytest.mark.skipif(not BATTLES.exists(), reason="no GenAI-Arena votes beside the project")
def test_real_votes_are_predicted_better_than_by_the_baselines():
    votes = Comparisons.of(read_votes([BATTLES]).votes)
    table = evaluate(votes, MADE).overall()
    ours = table.filter(pl.col("method").is_in(list(MADE)))
    assert ours.height == 4
    assert (ours["gain"] > 0).all()
    loss = {row[:2]: row[2] for row in table.select("method", "prediction", "log_loss").iter_rows()}
    # As counted before: a constant 1.09, the default with the authors' draws 1.15.
    assert loss["constant", "frozen"] == pytest.approx(1.09, abs=0.005)
    assert loss["trueskill", "frozen"] < 1.005
    fixed = evaluate(votes, {"fixed": TrueSkill(draw_probability=0.10)}).overall()
    assert fixed.filter(method="fixed", prediction="frozen")["log_loss"][0] == pytest.approx(
        1.15, abs=0.005
    )
