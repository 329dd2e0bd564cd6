import numpy as np
import polars as pl

from arena.ratings.comparisons import A_WINS, B_WINS, TIE, Comparisons, pairs_table
from arena.ratings.table import groups


def votes(rows, times=None):
    table = pl.DataFrame(rows, schema=["model_a", "model_b", "outcome"], orient="row")
    return table if times is None else table.with_columns(created_at=pl.Series(times))


def test_votes_become_codes_in_time_order_with_unknown_times_last():
    rows = [("y", "x", "a"), ("x", "z", "tie"), ("z", "y", "b"), ("x", "y", "a")]
    found = Comparisons.of(votes(rows, [None, 5, 2, 5]))
    assert found.models == ["x", "y", "z"]
    assert found.a.tolist() == [2, 0, 0, 1]
    assert found.b.tolist() == [1, 2, 1, 0]
    assert found.outcome.tolist() == [B_WINS, TIE, A_WINS, A_WINS]
    assert len(found.part(1, 3)) == 2


def test_counts_agree_with_counting_by_hand_whatever_the_side():
    found = Comparisons.of(
        votes([("x", "y", "a"), ("y", "x", "b"), ("y", "x", "a"), ("x", "y", "tie")])
    )
    wins, ties = found.counts()
    assert wins.tolist() == [[0, 2], [1, 0]]
    assert ties.tolist() == [[0, 1], [1, 0]]


def test_a_model_that_meets_itself_tells_nothing():
    found = Comparisons.of(votes([("x", "x", "a"), ("x", "x", "tie")]))
    assert len(found) == 2
    assert found.counts()[0].sum() == 0


def test_groups_are_the_connected_components_the_busiest_first():
    compared = np.zeros((5, 5))
    compared[0, 3] = 1
    compared[1, 2] = compared[2, 4] = 7
    assert groups(compared).tolist() == [1, 0, 0, 1, 0]
    assert groups(np.zeros((0, 0))).tolist() == []


def test_the_pairs_table_counts_every_vote_between_two_models_once():
    random = np.random.default_rng(0)
    names = np.array(["x", "y", "z", "w"])
    a, b = names[random.integers(0, 4, (2, 500))]
    table = votes(list(zip(a, b, random.choice(["a", "b", "tie"], 500), strict=True)))
    pairs = pairs_table(table)
    assert (pairs["model_a"] < pairs["model_b"]).all()
    total = pairs.select(pl.sum_horizontal("wins_a", "wins_b", "ties").sum()).item()
    assert total == table.filter(pl.col("model_a") != pl.col("model_b")).height
