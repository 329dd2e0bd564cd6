"""Which votes a gap is inferred from, and that more of them end at the gap of arena.gaps.joint."""

import numpy as np
import polars as pl
import pytest

from arena.gaps.joint import joint_gaps
from arena.ratings.table import estimator
from studies.graph import SCOPES, gaps_by_scope, in_scope
from studies.world import WORLDS, Arena, hold_arena


def votes(*images: tuple[str, str]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "vote_id": [f"v{i}" for i in range(len(images))],
            "model_a": ["A"] * len(images),
            "model_b": ["B"] * len(images),
            "image_a": [a for a, _ in images],
            "image_b": [b for _, b in images],
            "outcome": ["a"] * len(images),
        }
    )


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("own vote", [[0], [1], [2], [3]]),
        ("own pair", [[0, 3], [1], [2], [3, 0]]),
        ("own images", [[0, 1, 3], [1, 0, 2, 3], [2, 1], [3, 0, 1]]),
    ],
)
def test_a_scope_holds_the_votes_it_says_each_in_a_graph_of_its_own(
    scope: str, expected: list[list[int]]
) -> None:
    # i-j, j-k, k-l, and i-j once more the other way round
    given = votes(("i", "j"), ("j", "k"), ("k", "l"), ("j", "i"))
    scoped, own = in_scope(given, scope)
    sides = given.select("image_a", "image_b").rows()
    named = [
        (f"{focus}/{sides[vote][0]}", f"{focus}/{sides[vote][1]}")
        for focus, seen in enumerate(expected)
        for vote in seen
    ]
    assert scoped.select("image_a", "image_b").rows() == named
    assert own.tolist() == np.cumsum([0, *map(len, expected[:-1])]).tolist()
    assert scoped["vote_id"].n_unique() == len(named)


def test_scopes_end_at_the_joint_gap_and_each_sees_more() -> None:
    arena = hold_arena(WORLDS["close-3"], 0, prompts=12)
    found = gaps_by_scope(arena)
    assert tuple(found) == SCOPES
    ratings = estimator("trueskill", draw_probability=0.0).fit(arena.votes)
    joint, _ = joint_gaps(arena.votes, ratings, signed=True)
    beta = ratings.parameters["beta"]
    assert beta * found["all"] == pytest.approx(joint["gap"].to_numpy(), abs=1e-3)
    assert (found["own vote"] > 0).all()  # nothing else could say that it was a slip
    assert (found["own images"] < 0).any()


def test_an_image_that_met_nobody_else_has_the_same_gap_in_every_scope() -> None:
    apart = hold_arena(WORLDS["close-3"], 0, prompts=12)
    lone = apart.votes.head(1).with_columns(
        vote_id=pl.lit("lone"), image_a=pl.lit("x"), image_b=pl.lit("y")
    )
    arena = Arena(pl.concat([apart.votes, lone]), apart.quality)
    found = gaps_by_scope(arena)
    last = [found[scope][-1] for scope in SCOPES[:4]]
    assert last == pytest.approx([last[0]] * 4, abs=1e-3)
