"""From votes and gaps to training pairs, and what is left out or refused on the way."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from training.building import build_pairs
from training.pairs import PairsError, index_pairs, open_pairs, write_pairs

VOTES = {
    "vote_id": ["1", "2", "3", "4", "5", "6"],
    "prompt": ["a cat", "a cat", "a dog", None, "a dog", "a fox"],
    "image_a": ["i1", "i2", "i3", "i4", None, "i6"],
    "image_b": ["i2", "i3", "i4", "i5", "i6", "i6"],
    "model_a": ["A", "B", "C", "A", "B", "C"],
    "model_b": ["B", "C", "A", "B", "C", "A"],
    "outcome": ["a", "b", "tie", "a", "b", "a"],
}
GAPS = {
    "vote_id": ["6", "5", "4", "3", "2", "1"],  # any order: they are joined by id
    "gap": [6.0, 5.0, 4.0, 3.0, 2.0, 1.0],
    "gap_sd": [0.5] * 6,
    "probability": [0.6] * 6,
}


def many_votes(n: int, **gaps: object) -> tuple[pa.Table, pa.Table]:
    ids = [f"v{i}" for i in range(n)]
    votes = pa.table(
        {
            "vote_id": ids,
            "prompt": [f"prompt {i % (n // 4)}" for i in range(n)],
            "image_a": [f"a{i}" for i in range(n)],
            "image_b": [f"b{i % 7}" for i in range(n)],
            "model_a": ["A"] * n,
            "model_b": ["B"] * n,
            "outcome": ["a", "b"] * (n // 2),
        }
    )
    columns = {"gap": np.linspace(1, 3, n), "gap_sd": [1.0] * n, "probability": [0.5] * n}
    return votes, pa.table({"vote_id": ids, **columns, **gaps})


def test_winner_loser_and_gap_come_from_the_outcome_and_the_vote_id():
    pairs = build_pairs(pa.table(VOTES), pa.table(GAPS), 0.0, 0)
    assert pairs.select(["vote_id", "image_winner", "image_loser", "gap"]).to_pylist() == [
        {"vote_id": "1", "image_winner": "i1", "image_loser": "i2", "gap": 1.0},
        {"vote_id": "2", "image_winner": "i3", "image_loser": "i2", "gap": 2.0},
    ]
    assert pairs["model_winner"].to_pylist() == ["A", "C"]
    assert pairs["model_loser"].to_pylist() == ["B", "B"]


def test_what_is_left_out_is_counted_once_each():
    pairs = build_pairs(pa.table(VOTES), pa.table(GAPS), 0.0, 0, broken=["i3"])
    left_out = json.loads(pairs.schema.metadata[b"left_out"])
    once_each = ("tie", "no prompt", "no image", "same image", "broken image")
    assert left_out == dict.fromkeys(once_each, 1)
    assert pairs.num_rows + sum(left_out.values()) == 6


def test_a_prompt_is_held_out_whole_and_for_ever():
    votes, gaps = many_votes(2000)
    pairs = build_pairs(votes, gaps, 0.2, 0)
    of = {s: set(pairs.filter(pa.compute.equal(pairs["split"], s))["prompt"].to_pylist())
          for s in ("train", "held_out")}  # fmt: skip
    assert not of["train"] & of["held_out"]
    assert 0.14 < len(of["held_out"]) / 500 < 0.26
    fewer = build_pairs(votes.slice(1000), gaps, 0.2, 0)
    again = fewer.filter(pa.compute.equal(fewer["split"], "held_out"))["prompt"].to_pylist()
    assert set(again) <= of["held_out"]


def test_gaps_are_divided_by_the_mean_of_the_training_split(tmp_path):
    votes, gaps = many_votes(400)
    table = build_pairs(votes, gaps, 0.25, 1)
    write_pairs(table, tmp_path / "deep" / "pairs.parquet")
    found = open_pairs(tmp_path / "deep" / "pairs.parquet")
    assert found.train.gap.mean() == pytest.approx(1.0, rel=1e-6)
    rows = pa.compute.equal(table["split"], "train").to_numpy(zero_copy_only=False)
    mean = table["gap"].to_numpy()[rows].mean()
    np.testing.assert_allclose(found.held_out.gap, table["gap"].to_numpy()[~rows] / mean, rtol=1e-6)
    assert len(found.train) + len(found.held_out) == 400
    assert [found.images[i] for i in found.train.winner[:3]] == table.filter(pa.array(rows))[
        "image_winner"
    ].to_pylist()[:3]
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["pairs.parquet"]


def test_shuffled_gaps_are_the_same_ones_on_other_pairs():
    votes, gaps = many_votes(400, probability=pa.array(np.linspace(0.1, 0.9, 400)))
    train = index_pairs(build_pairs(votes, gaps, 0.0, 0), "").train
    shuffled = train.shuffled_gaps(3)
    assert sorted(shuffled.gap) == sorted(train.gap)
    assert abs(np.corrcoef(shuffled.gap, train.gap)[0, 1]) < 0.2
    assert np.corrcoef(shuffled.gap, shuffled.probability)[0, 1] > 0.99  # a gap keeps its own
    assert (shuffled.winner == train.winner).all()
    assert (train.shuffled_gaps(3).gap == shuffled.gap).all()
    assert (train.shuffled_gaps(4).gap != shuffled.gap).any()


def test_spread_gaps_keep_order_and_mean_and_get_the_deviation_asked_for():
    votes, gaps = many_votes(400)
    both = index_pairs(build_pairs(votes, gaps, 0.25, 0), "")
    train = both.train.spread_gaps(3.0, both.train)
    assert train.gap.mean() == pytest.approx(1.0, abs=1e-5)
    assert train.gap.std() == pytest.approx(3.0, rel=1e-5)
    assert (np.argsort(train.gap) == np.argsort(both.train.gap)).all()
    assert (train.winner == both.train.winner).all()
    # Held-out pairs are scaled as the training pairs were, not by their own mean and deviation.
    slope = (train.gap[1] - train.gap[0]) / (both.train.gap[1] - both.train.gap[0])
    held_out = both.held_out.spread_gaps(3.0, both.train)
    expected = train.gap[0] + slope * (both.held_out.gap - both.train.gap[0])
    assert held_out.gap == pytest.approx(expected, abs=1e-2)


def test_gaps_that_are_all_the_same_cannot_be_spread():
    votes, gaps = many_votes(40, gap=[2.0] * 40)
    train = index_pairs(build_pairs(votes, gaps, 0.0, 0), "").train
    with pytest.raises(PairsError, match=r"margin_spread = 3: all 40 gaps are the same.*leave it"):
        train.spread_gaps(3.0, train)


@pytest.mark.parametrize("bad", [float("nan"), -0.1, 1.5, None])
def test_a_probability_that_is_none_is_refused_where_it_is_needed(bad):
    votes, gaps = many_votes(4, probability=pa.array([0.5, bad, 0.5, 0.5], pa.float64()))
    train = index_pairs(build_pairs(votes, gaps, 0.0, 0), "").train
    with pytest.raises(PairsError, match=r"1 votes have no probability from 0 to 1.*: v1"):
        train.require_probabilities()


def test_the_digest_moves_with_the_content_alone():
    votes, gaps = many_votes(40)
    table = build_pairs(votes, gaps, 0.25, 0)
    same = build_pairs(votes, gaps.take(pa.array(range(39, -1, -1))), 0.25, 0)
    other = build_pairs(votes, gaps.set_column(1, "gap", pa.array(np.full(40, 2.0))), 0.25, 0)
    assert index_pairs(table, "").digest == index_pairs(same, "").digest
    assert index_pairs(table, "").digest != index_pairs(other, "").digest
    assert index_pairs(table, "").content == index_pairs(other, "").content  # gaps aside


def test_winners_of_many_votes_are_one_example_for_sft():
    votes = pa.table({**VOTES, "outcome": ["b", "a", "a", "a", "a", "a"]})
    train = index_pairs(build_pairs(votes, pa.table(GAPS), 0.0, 0), "").train
    assert len(train) == 3  # i2 won twice for the cat, i3 once for the dog
    assert train.unique_winners().vote_id.tolist() == ["1", "3"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None])
def test_a_gap_that_is_no_number_is_refused_with_its_votes(bad):
    votes, gaps = many_votes(8, gap=pa.array([1.0, 2.0, bad, 1.0, 1.0, bad, 1.0, 1.0]))
    with pytest.raises(PairsError, match="2 gaps are not finite numbers, of votes v2, v5"):
        build_pairs(votes, gaps, 0.0, 0)


def test_votes_without_a_gap_or_with_equal_ids_are_refused():
    votes, gaps = many_votes(8)
    with pytest.raises(PairsError, match="2 votes have no gap: v6, v7"):
        build_pairs(votes, gaps.slice(0, 6), 0.0, 0)
    with pytest.raises(PairsError, match="occur twice: v1"):
        build_pairs(pa.concat_tables([votes, votes.slice(1, 1)]), gaps, 0.0, 0)


def test_an_unusable_file_is_named(tmp_path):
    path = tmp_path / "pairs.parquet"
    path.write_bytes(b"not parquet")
    with pytest.raises(PairsError, match=r"pairs.parquet"):
        open_pairs(path)
    votes, gaps = many_votes(8)
    table = build_pairs(votes, gaps, 0.0, 0)
    write_pairs(table.drop_columns(["gap"]), path)
    with pytest.raises(PairsError, match="has no column 'gap'; needs vote_id, prompt"):
        open_pairs(path)
    write_pairs(table.slice(0, 0), path)
    with pytest.raises(PairsError, match="no pair is left to train on"):
        open_pairs(path)
    write_pairs(table.set_column(6, "gap", pa.array(np.zeros(8))), path)
    with pytest.raises(PairsError, match="mean gap is 0"):
        open_pairs(path)


def test_a_policys_own_gap_estimator_has_its_own_column(tmp_path):
    gaps = pa.table(GAPS)
    double = pc.multiply(gaps["gap"], pa.array(np.arange(1.0, len(gaps) + 1)))
    gaps = gaps.append_column("joint_gap", double).append_column("joint_gap_sd", gaps["gap_sd"])
    gaps = gaps.append_column("joint_probability", pc.divide(gaps["probability"], 2.0))
    table = build_pairs(pa.table(VOTES), gaps, 0.0, 0)
    write_pairs(table, tmp_path / "pairs.parquet")
    plain, joint = (open_pairs(tmp_path / "pairs.parquet", gap) for gap in ("gap", "joint_gap"))
    assert joint.train.gap.mean() == pytest.approx(1.0)
    assert not np.allclose(plain.train.gap, joint.train.gap)
    assert joint.train.probability == pytest.approx(plain.train.probability / 2)
    assert plain.digest != joint.digest
    assert plain.content == joint.content
    write_pairs(table.drop(["joint_gap"]), tmp_path / "pairs.parquet")
    with pytest.raises(PairsError, match="has no column 'joint_gap'"):
        open_pairs(tmp_path / "pairs.parquet", "joint_gap")
