"""The simulated raters: the same seed votes the same, and votes follow the latent quality."""

import numpy as np
import polars as pl
import pytest

from examples.miniature.raters import SOURCE, Entrant, Rater, choose, rank, vote

ENTRANTS = {"good": Entrant(0, 1.0), "fair": Entrant(0, 2.0), "late": Entrant(30, 1.0)}


@pytest.fixture(scope="module")
def images() -> pl.DataFrame:
    """Twelve prompts, three models, two images each; quality is 2 for good, 1 for fair, 0."""
    quality = {"good": 2.0, "fair": 1.0, "late": 0.0}
    rows = [
        {
            "image": f"p{p}-{model}-{k}",
            "prompt_id": f"p{p}",
            "prompt": f"prompt {p}",
            "model": model,
            "quality": quality[model] + 0.1 * k,
        }
        for p in range(12)
        for model in ENTRANTS
        for k in range(2)
    ]
    return pl.DataFrame(rows)


def test_the_same_seed_gives_the_same_votes(images: pl.DataFrame):
    first, again = vote(images, ENTRANTS, 300, seed=5), vote(images, ENTRANTS, 300, seed=5)
    assert first.equals(again)
    assert not first.equals(vote(images, ENTRANTS, 300, seed=6))


def test_votes_are_labelled_ordered_and_never_of_an_image_with_itself(images: pl.DataFrame):
    votes = vote(images, ENTRANTS, 500, seed=0)
    assert votes["source"].unique().to_list() == [SOURCE]
    assert votes["created_at"].is_sorted()
    assert (votes["image_a"] != votes["image_b"]).all()
    late = votes.filter((pl.col("model_a") == "late") | (pl.col("model_b") == "late"))
    assert late["created_at"].dt.ordinal_day().min() >= votes["created_at"].dt.ordinal_day()[0] + 29


def test_the_better_model_wins_more(images: pl.DataFrame):
    votes = vote(images, ENTRANTS, 2000, seed=1)
    good, fair = pl.col("model_a") == "good", pl.col("model_b") == "fair"
    outcomes = votes.filter(good & fair)["outcome"].to_list()
    assert outcomes.count("a") > 2 * outcomes.count("b") > 0


def test_a_rater_who_always_slips_presses_the_other_button():
    rng = np.random.default_rng(0)
    slipping = Rater("r", noise=0.0, indifference=0.1, slips=1.0)
    assert choose(rng, slipping, 1.0, 0.0) == "b"
    assert choose(rng, slipping, 1.0, 0.95) == "tie"


def test_ranks_count_from_the_best_and_share_ties():
    rng = np.random.default_rng(0)
    exact = Rater("r", noise=0.0, indifference=0.2, slips=0.0)
    assert rank(rng, exact, [1.0, 3.0, 2.9, 0.0]) == [2, 0, 0, 3]
