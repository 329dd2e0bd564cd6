"""Predictions of unseen votes: their scores by hand, no look into the future, fair baselines."""

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from arena.prediction.baselines import constant, constant_online, elo, elo_online
from arena.prediction.calibration import (
    FLOOR,
    foretell,
    held_out,
    log_losses,
    predict,
    reliability,
    score,
)
from arena.prediction.evidence import foresee
from arena.prediction.held_out import BASELINES, block_edges, evaluate
from arena.ratings.bradley_terry import BradleyTerry, with_maximum
from arena.ratings.comparisons import A_WINS, B_WINS, TIE, Comparisons
from arena.ratings.table import Ratings, estimator
from arena.ratings.trueskill import TrueSkill, draw_margin
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


def test_a_model_never_seen_has_the_prior_where_there_is_one():
    known = {"x": (27.0, 2.0, 0), "y": (24.0, 1.0, 0), "z": (25.0, 1.0, 1)}
    parameters = {"mu": 25.0, "sigma": 8.0, "beta": 4.0, "epsilon": 1.5}
    prior = ratings_of("trueskill", parameters, **known, new=(25.0, 8.0, 2))
    asked = votes_of("x>new", "new>y", "x>z")
    without = ratings_of("trueskill", parameters, **known)
    assert predict(without, asked) == pytest.approx(predict(prior, asked))
    likelihood = ratings_of("bradley_terry", {"mu": 25.0, "beta": 4.0, "epsilon": 1.5}, **known)
    said = predict(likelihood, votes_of("x>new", "x>z", "x>y"))
    assert np.isnan(said).all(1).tolist() == [True, True, False]


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
    assert constant(votes, 2) == pytest.approx(np.array([[4, 1, 2], [4, 1, 2]]) / 7)
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
    assert constant_online(votes, 2_000)[0] == pytest.approx(constant(past, 1)[0])


@pytest.mark.parametrize(
    "made",
    [TrueSkill(draw_probability="auto"), estimator("thurstone"), BradleyTerry()],
    ids=["trueskill", "thurstone", "bradley_terry"],
)
def test_every_estimator_beats_the_baselines_where_its_model_is_true(made):
    result = held_out(simulated(), made, share=0.3)
    assert result.votes == 900
    assert result.probability.sum(1) == pytest.approx(np.ones(900))
    assert result.log_loss < result.baseline_log_loss
    assert result.score.calibration_error < 0.05


def test_an_estimator_that_learns_nothing_does_not_beat_the_constant():
    # Everyone stays where the prior is, so only the share of ties could be right.
    nothing = TrueSkill(sigma=1e-6, tau=0.0, draw_probability="auto")
    result = held_out(simulated(sides=0.7), nothing)
    assert result.log_loss > result.baselines["constant"].log_loss


def test_the_future_changes_no_prediction():
    votes = simulated()
    turned = votes.outcome.copy()
    turned[2_400:] = (turned[2_400:] + 1) % 3
    other = Comparisons(votes.models, votes.a, votes.b, turned)
    for chosen in (TrueSkill(draw_probability="auto"), BradleyTerry()):
        assert np.array_equal(
            held_out(votes, chosen).probability, held_out(other, chosen).probability
        )
    one, two = (evaluate(v, {"t": TrueSkill(draw_probability="auto")}) for v in (votes, other))
    for key, p in one.probability.items():
        assert np.array_equal(p[:900], two.probability[key][:900]), key


def test_a_vote_between_a_model_and_itself_is_not_predicted():
    votes = simulated()
    same = Comparisons(
        votes.models, votes.a, np.where(votes.a < 3, votes.a, votes.b), votes.outcome
    )
    kept = int((same.a != same.b).sum())
    assert held_out(same, TrueSkill()).votes == kept - round(kept * 0.8)


def test_too_few_votes_are_refused_with_their_number():
    with pytest.raises(ValueError, match="1 votes between different models cannot be split at 20%"):
        held_out(votes_of("x>y", "x>x"), TrueSkill())
    with pytest.raises(ValueError, match=r"3 votes .* too few to predict 5 blocks"):
        evaluate(votes_of("x>y", "x>y", "x>y"), {})


def test_bradley_terry_predicts_what_it_can_rate_and_the_shares_elsewhere():
    # x, y, z beat each other in a circle; `best` never lost; `new` is met later only.
    past = votes_of("x>y", "y>z", "z>x", "best>x", "best>y", "x=y")
    future = votes_of("x>y", "best>x", "new>y", "x>z")
    with pytest.raises(ValueError, match="no finite rating for 'best'"):
        BradleyTerry().fit(past)
    probability, unrated = foretell(BradleyTerry(), past, future)
    assert unrated.tolist() == [False, True, True, False]
    assert probability[1:3] == pytest.approx(constant(past, 2))
    kept = votes_of("x>y", "y>z", "z>x", "x=y")
    assert probability[0] == pytest.approx(predict(BradleyTerry().fit(kept), future)[0])
    nobody, unrated = foretell(BradleyTerry(), votes_of("x>y", "y>z"), future)
    assert unrated.all()
    assert nobody == pytest.approx(constant(votes_of("x>y", "y>z"), 4))


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 5), st.sampled_from([A_WINS, B_WINS, TIE])),
        max_size=25,
    )
)
def test_votes_with_a_maximum_are_never_refused(rows):
    a, b, outcome = (
        (np.array(column, np.int8) for column in zip(*rows, strict=True))
        if rows
        else [np.zeros(0, np.int8)] * 3
    )
    kept = with_maximum(Comparisons(list("abcdef"), a, b, outcome))
    if len(kept):
        assert BradleyTerry().fit(kept).table["mu"].is_finite().all()
        assert set(kept.a) | set(kept.b) == set(range(len(kept.models)))


def test_sequential_predictions_are_those_of_ratings_fitted_to_the_votes_before():
    votes = simulated(votes=60)
    chosen = TrueSkill(beta=3.0, tau=0.5, draw_probability=0.2)
    margin = draw_margin(0.2, 3.0)
    found = foresee(votes, chosen.sigma, 3.0, 0.5, margin)
    for k in range(len(votes)):
        before = chosen.fit(votes.part(0, k))
        # The dynamics act before the vote: tau^2 more variance on each side.
        moved = before.table.with_columns((pl.col("sigma") ** 2 + 0.25).sqrt())
        ratings = Ratings(moved, "trueskill", before.parameters)
        assert found[k] == pytest.approx(predict(ratings, votes.part(k, k + 1))[0], rel=1e-9)


def test_time_splits_score_every_method_on_the_same_votes_block_by_block():
    votes = simulated()
    found = evaluate(votes, {"t": TrueSkill(draw_probability="auto"), "b": BradleyTerry()})
    edges = block_edges(3_000)
    assert edges.tolist() == [1500, 1800, 2100, 2400, 2700, 3000]
    table = found.table
    assert set(table.select("method", "prediction").unique().iter_rows()) == {
        *((name, kind) for name in (*BASELINES, "t") for kind in ("frozen", "online")),
        ("b", "frozen"),
    }
    third = TrueSkill(draw_probability="auto").fit(votes.part(0, 2100))
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
    made = {
        "trueskill": TrueSkill(draw_probability="auto"),
        "thurstone": estimator("thurstone"),
        "bradley_terry": BradleyTerry(),
    }
    table = evaluate(votes, made).overall()
    ours = table.filter(pl.col("method").is_in(list(made)))
    assert ours.height == 4
    assert (ours["gain"] > 0).all()
