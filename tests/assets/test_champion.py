"""The rule of the champion, a function of frames: scores in, a decision out."""

import numpy as np
import polars as pl
import pytest

from assets.champion import STANDING, decide
from assets.verdict import BETTER, NOT_TOLD_APART, WORSE, compared, verdict


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
