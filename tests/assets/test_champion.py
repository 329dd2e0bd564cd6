"""The rule of the champion, a function of frames: scores in, a decision out."""

import numpy as np
import polars as pl
import pytest

from arena.ratings.table import Ratings
from arena.schema import RATINGS
from assets.champion import STANDING, decide, decide_by_votes
from assets.verdict import BETTER, NOT_TOLD_APART, TOO_FEW, WORSE, by_votes, compared, verdict


def scores(**quality):
    """Return scores of policies around these qualities, the same noise for all."""
    noise = np.random.default_rng(0).normal(scale=0.1, size=(len(quality), 40))
    return pl.concat(
        pl.DataFrame(
            {
                "policy": STANDING if name == "standing" else name,
                "prompt_id": [str(i) for i in range(40)],
                "prompt": [f"prompt {i}" for i in range(40)],
                "seed": 0,
                "quality": mean + noise[number],
                "other": noise[number],
            }
        )
        for number, (name, mean) in enumerate(quality.items())
    )


def challengers(*names):
    return pl.DataFrame({"policy": names, "version": [str(i + 1) for i in range(len(names))]})


@pytest.mark.parametrize(
    ("quality", "version", "said"),
    [
        ({"a": 0.7, "b": 0.9}, "2", "b is champion: it wins"),
        ({"a": 0.9, "b": 0.9}, None, None),  # whoever wins more prompts
        ({"a": 0.5, "b": 0.52}, None, "no policy is shown to be better than the champion"),
        ({"a": 0.3, "b": 0.2}, None, "no policy is shown to be better than the champion"),
    ],
)
def test_the_best_of_those_that_are_better_follows(quality, version, said):
    table = scores(standing=0.5, **quality)
    found = decide(challengers("a", "b"), table, "quality", ["quality"], "champion")
    if said is None:
        best = found.table.sort("win_rate", "policy", descending=[True, False])["policy"][0]
        assert found.version == {"a": "1", "b": "2"}[best]
    else:
        assert found.version == version
        assert found.said.startswith(said)


def test_one_whose_scores_are_not_over_the_same_prompts_is_not_crowned():
    table = scores(standing=0.5, a=0.9).filter(
        ~((pl.col("policy") == "a") & (pl.col("prompt_id") == "3"))
    )
    found = decide(challengers("a"), table, "quality", ["quality"], "champion")
    assert found.version is None
    assert found.table["better"].to_list() == [False]


def test_the_verdict_is_corrected_over_all_that_is_shown_together():
    table = scores(standing=0.5, a=0.9, b=0.1, c=0.5)
    found = compared(table, STANDING, "quality", ["quality", "other"])
    words = {name: verdict(row) for name, row in found.items()}
    assert words == {STANDING: "the baseline", "a": BETTER, "b": WORSE, "c": NOT_TOLD_APART}
    alone = compared(
        table.filter(pl.col("policy").is_in([STANDING, "c"])), STANDING, "quality", ["quality"]
    )
    assert found["c"].p_holm >= alone["c"].p_holm


def ratings(**models):
    """Return ratings of models: mu, sigma, votes, group."""
    rows = [
        dict(zip(("mu", "sigma", "votes", "group"), one, strict=True)) | {"model": name}
        for name, one in models.items()
    ]
    nothing = {"wins": 0, "losses": 0, "ties": 0}
    table = pl.DataFrame([nothing | row for row in rows], schema=RATINGS)
    return Ratings(table, "trueskill", {"beta": 25 / 6, "epsilon": 0.0})


def test_people_call_a_version_better_where_the_difference_of_the_ratings_is_told_from_0():
    known = ratings(
        base=(20.0, 0.6, 90, 0), good=(23.0, 0.8, 60, 0), near=(21.5, 0.8, 60, 0),
        bad=(16.0, 0.8, 60, 0),
    )  # fmt: skip
    found = by_votes(known, "base", ["good", "near", "bad"], 50)
    words = {name: one.verdict for name, one in found.items()}
    assert words == {"good": BETTER, "near": NOT_TOLD_APART, "bad": WORSE}
    # sd = sqrt(0.36 + 0.64) = 1, so z = 3, 1.5 and -4. Of the normal table: 2 (1 - 0.99865) =
    # 0.0027, 0.1336 and 0.000063; Holm takes them 2, 1 and 3 times.
    p = {name: one.p_holm for name, one in found.items()}
    assert p == pytest.approx({"good": 0.0054, "near": 0.1336, "bad": 0.00019}, rel=0.01)
    assert (found["good"].low, found["good"].high) == pytest.approx((1.04, 4.96))
    # Known together, the difference is known better: V_aa + V_bb - 2 V_ab = 0.19.
    together = Ratings(
        known.table.head(2), "thurstone", known.parameters, np.array([[0.36, 0.405], [0.405, 0.64]])
    )
    one = by_votes(together, "base", ["good"], 50)["good"]
    assert one.high - one.low == pytest.approx(2 * 1.96 * 0.19**0.5)


@pytest.mark.parametrize(
    ("base", "new"),
    [
        ((5.0, 1.0, 90, 0), (25.0, 8.3, 0, 0)),  # without votes there is the prior only
        ((5.0, 1.0, 90, 0), (25.0, 2.0, 49, 0)),  # one vote less than asked for
        ((5.0, 1.0, 49, 0), (25.0, 1.0, 90, 0)),  # the one that stands has too few
        ((5.0, 1.0, 90, 0), (25.0, 1.0, 90, 1)),  # no chain of votes joins the two
        ((5.0, 1.0, 90, 0), None),
        (None, (25.0, 1.0, 90, 0)),
    ],
)
def test_a_version_is_called_nothing_before_there_are_votes_enough(base, new):
    models = {name: one for name, one in (("base", base), ("arenapo@3", new)) if one}
    found = by_votes(ratings(**models), "base", ["arenapo@3"], 50)
    assert found["arenapo@3"].verdict == TOO_FEW
    assert np.isnan(found["arenapo@3"].p_holm)
    table = pl.DataFrame({"policy": ["arenapo"], "version": ["3"], "voted_as": ["arenapo@3"]})
    decision = decide_by_votes(table, ratings(**models), "base", 50)
    assert decision.version is None
    assert "arenapo too few votes (of at least 50 about each)" in decision.said


def test_by_votes_the_one_that_people_rate_highest_follows():
    known = ratings(
        **{
            "dpo@2": (24.0, 0.6, 70, 0),
            "arenapo@3": (26.0, 0.8, 60, 0),
            "base@1f": (20.0, 0.6, 90, 0),
        }
    )
    table = pl.DataFrame(
        [("dpo", "2", "dpo@2"), ("arenapo", "3", "arenapo@3"), ("sft", "4", "sft@4")],
        schema=["policy", "version", "voted_as"], orient="row",
    )  # fmt: skip
    found = decide_by_votes(table, known, "base@1f", 50)
    assert found.version == "3"
    assert found.said == (
        "arenapo is champion: by 60 votes people rate it 6.00 above base@1f, interval from 4.04 to "
        "7.96"
    )
    assert found.table["policy"].to_list() == ["arenapo", "dpo", "sft"]
    # By the same ratings nobody follows the best one.
    others = table.filter(pl.col("policy") != "arenapo")
    left = decide_by_votes(others, known, "arenapo@3", 50)
    assert left.version is None
    assert "dpo worse" in left.said
