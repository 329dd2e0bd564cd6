"""Worlds: what raters see, how often, and that nothing of the truth reaches the votes."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from arena.schema import VOTES
from replication.gaps import GAPS, all_gaps
from replication.world import CLOSE, FEW, WORLDS, World, hold_arena


@pytest.mark.parametrize("votes", [1.0, 6.0])
def test_an_image_is_shown_as_often_as_the_world_says(votes: float) -> None:
    arena = hold_arena(World("w", votes, models=FEW), seed=0, prompts=30)
    images = 30 * 5  # inkwell-0.9 drew one a prompt, the other two models two each
    assert 2 * arena.votes.height / images == pytest.approx(votes, rel=0.01)


def test_votes_hold_nothing_that_the_arena_does_not_know() -> None:
    arena = hold_arena(WORLDS["close-1"], seed=0, prompts=20)
    assert set(arena.votes.columns) <= set(VOTES)
    assert set(arena.votes["model_a"]) | set(arena.votes["model_b"]) <= set(CLOSE)


def test_a_noisier_rater_is_wrong_more_often() -> None:
    right = [
        (hold_arena(replace(WORLDS["far-3"], noise=noise), 0, 40).difference() > 0).mean()
        for noise in (0.0, 0.5, 1.5)
    ]
    assert right[0] == 1.0
    assert right[1] > right[2] > 0.5


def test_two_images_of_one_model_meet_only_where_the_world_says_so() -> None:
    def mirror(world: str) -> int:
        votes = hold_arena(WORLDS[world], 0, 40).votes
        return votes.filter(pl.col("model_a") == pl.col("model_b")).height

    assert mirror("few-models") == 0
    assert mirror("same-model-pairs") > 0


def test_an_image_renamed_keeps_its_quality_and_its_name_says_nothing() -> None:
    plain, renamed = (hold_arena(WORLDS[w], 0, 120) for w in ("far-3", "all-renamed"))
    assert renamed.quality == plain.quality
    apart = [float(np.std(arena.model_difference())) for arena in (plain, renamed)]
    assert apart[1] < 0.3 * apart[0]


def test_the_difference_of_models_is_that_of_their_mean_qualities_signed_as_the_vote() -> None:
    arena = hold_arena(WORLDS["few-models"], 0, 20)
    for vote, found in zip(arena.votes.rows(named=True), arena.model_difference(), strict=True):
        better = max(vote["model_a"], vote["model_b"], key=FEW.index)  # in the order of their means
        won = vote["model_a" if vote["outcome"] == "a" else "model_b"]
        assert (found > 0) == (won == better)


def test_a_seed_gives_the_same_world_again_and_another_seed_another() -> None:
    first, again, other = (hold_arena(WORLDS["close-3"], seed, 20).votes for seed in (0, 0, 1))
    assert first.equals(again)
    assert not first.equals(other)


def test_the_oracle_gap_is_the_latent_difference_of_winner_and_loser() -> None:
    arena = hold_arena(WORLDS["close-3"], seed=0, prompts=20)
    gaps = all_gaps(arena)
    for row, vote in zip(gaps.rows(named=True), arena.votes.rows(named=True), strict=True):
        winner, loser = ("image_a", "image_b") if vote["outcome"] == "a" else ("image_b", "image_a")
        expected = arena.quality[vote[winner]] - arena.quality[vote[loser]]
        assert row["oracle_gap"] == pytest.approx(expected)


def test_every_gap_knows_something_and_the_joint_one_is_the_signed_one_cut_at_zero() -> None:
    arena = hold_arena(WORLDS["far-6"], seed=0, prompts=30)
    gaps, truth = all_gaps(arena), arena.difference()
    for name in GAPS:
        assert np.corrcoef(gaps[f"{name}_gap"].to_numpy(), truth)[0, 1] > 0.3, name
    signed = gaps["signed_gap"].to_numpy()
    assert (signed < 0).any()
    np.testing.assert_array_equal(gaps["joint_gap"].to_numpy(), np.maximum(signed, 0))
    of_models, half = (gaps[f"{name}_gap"].to_numpy() for name in ("capability", "estimate-50"))
    np.testing.assert_allclose(half, (of_models + signed) / 2)
