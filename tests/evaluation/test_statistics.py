"""Intervals cover what they claim, equal policies are not told apart, pairs are what they seem."""

import math
import subprocess
import sys

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from scipy.stats import t as student

from evaluation.errors import EvaluationError
from evaluation.intervals import (
    bootstrap_interval,
    holm,
    prompts_needed,
    rate_interval,
    sign_flip_p,
    student_quantile,
)
from evaluation.statistics import compare, compare_all, scorers_of, win_matrix


def table(base, new, seeds=1, **more) -> pa.Table:
    count = len(base)
    return pa.table(
        {
            "policy": ["base"] * count + ["new"] * count,
            "prompt": [f"prompt {i // seeds}" for i in range(count)] * 2,
            "seed": [i % seeds for i in range(count)] * 2,
            "score": [*base, *new],
            **more,
        }
    )


def test_a_worked_example():
    # Prompt 0: one win, one tie. Prompt 1: two losses. Prompt 2: two wins.
    found = compare(table([1.0, 2, 5, 5, 1, 1], [2.0, 2, 3, 4, 5, 2], seeds=2), "base", "score")
    new = found["new"]
    assert (new.prompts, new.images, new.missing) == (3, 6, 0)
    assert new.win_rate == pytest.approx((0.75 + 0 + 1) / 3)
    assert new.mean_difference == pytest.approx((0.5 - 1.5 + 2.5) / 3)
    assert new.mean == pytest.approx((2 + 3.5 + 3.5) / 3)
    assert new.win_rate_low < new.win_rate < new.win_rate_high
    assert found["base"].win_rate == found["base"].win_rate_low == 0.5
    assert found["base"].p_value == 1.0


def test_images_are_paired_by_prompt_and_seed_whatever_their_order():
    rng = np.random.default_rng(0)
    scores = table(rng.normal(size=40), rng.normal(size=40), seeds=2)
    shuffled = scores.take(rng.permutation(80))
    assert compare(shuffled, "base", "score")["new"].win_rate == pytest.approx(
        compare(scores, "base", "score")["new"].win_rate
    )
    as_polars = pl.from_arrow(scores)
    assert compare(as_polars, "base", "score") == compare(scores, "base", "score")


def test_a_missing_score_leaves_its_pair_out_and_is_counted():
    new = compare(table([1.0, 2, 3, 4], [2.0, None, math.nan, 5]), "base", "score")["new"]
    assert (new.images, new.missing, new.win_rate) == (2, 2, 1.0)


def test_without_seeds_images_pair_as_they_come_and_doubles_are_refused():
    scores = table([1.0, 2, 3, 4], [2.0, 3, 4, 5], seeds=2)
    assert compare(scores.drop_columns("seed"), "base", "score")["new"].images == 4
    doubled = pa.concat_tables([scores, scores])
    with pytest.raises(EvaluationError, match="two images for prompt 'prompt 0', seed 0"):
        compare(doubled, "base", "score")


def test_what_is_missing_is_named():
    scores = table([1.0, 2], [2.0, 3])
    with pytest.raises(EvaluationError, match=r"no image of the baseline 'sdxl'; .* base, new"):
        compare(scores, "sdxl", "score")
    with pytest.raises(EvaluationError, match="no column 'clip'"):
        compare(scores, "base", "clip")
    with pytest.raises(EvaluationError, match="no column of scores"):
        compare_all(scores.drop_columns("score"), "base")


@pytest.mark.slow
@pytest.mark.parametrize(("prompts", "seeds"), [(30, 1), (100, 2)])
def test_over_a_thousand_evaluations_intervals_cover_and_equals_are_not_told_apart(prompts, seeds):
    """Wins clustered by prompt, differences symmetric and skewed, equal policies with ties."""
    rng = np.random.default_rng(prompts)
    repeats = 1000
    covered = np.zeros((repeats, 3))
    apart = 0
    for i in range(repeats):
        leaning = rng.beta(2, 1, prompts)  # a prompt's own win probability, 2/3 in the mean
        wins = (rng.random((prompts, seeds)) < leaning[:, None]).mean(axis=1)
        own = rng.normal(0.5, 1, prompts)  # what the policy gains on a prompt
        gains = own + rng.normal(0, 1, (seeds, prompts)).mean(axis=0)
        skewed = rng.exponential(1, prompts) + 0.3 * rng.normal(size=prompts)
        values = np.stack([wins, gains, skewed], axis=1)
        low, high = bootstrap_interval(values, resamples=1000, seed=i)
        truth = np.array([2 / 3, 0.5, 1.0])
        covered[i] = (low <= truth) & (truth <= high)
        new, old = np.round(rng.normal(size=(2, seeds, prompts)), 1)
        equal = ((new > old) + 0.5 * (new == old)).mean(axis=0)
        apart += sign_flip_p(equal - 0.5, flips=999, seed=i) < 0.05
    if prompts < 100:  # an exponential's mean over 30 prompts: 92.3%, as docs/evaluation.md says
        covered = covered[:, :2]
    shares = covered.mean(axis=0)
    print(f"{prompts} prompts: covered {shares}, told apart {apart / repeats:.1%}")
    assert (shares >= 0.93).all(), shares
    assert (shares <= 0.97).all(), shares
    # The test is exact: 5% is its expectation, so a thousand draws may show one point more.
    assert apart / repeats <= 0.05 + 1.65 * math.sqrt(0.05 * 0.95 / repeats)


def test_weights_count_a_prompt_as_often_as_it_was_voted_on():
    rng = np.random.default_rng(5)
    values, weights = rng.random(400), rng.integers(1, 9, 400).astype(float)
    low, high = bootstrap_interval(values, weights=weights, resamples=2000)
    mean = np.average(values, weights=weights)
    error = math.sqrt((weights**2 * (values - mean) ** 2).sum()) / weights.sum()
    assert low == pytest.approx(mean - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.1 * error)
    equal = bootstrap_interval(values, weights=np.full(400, 3.0), resamples=500)
    assert equal == pytest.approx(bootstrap_interval(values, resamples=500))


def test_certainty_is_not_claimed_from_wins_alone():
    low, high = rate_interval(np.ones(20), 1.0, 1.0)
    assert (low, high) == (pytest.approx(0.8316, abs=1e-4), 1.0)  # Clopper-Pearson, 20 of 20
    assert rate_interval(np.zeros(20), 0.0, 0.0) == (0.0, pytest.approx(0.1684, abs=1e-4))
    assert bootstrap_interval(np.ones((1, 1)))[0] == -np.inf


@pytest.mark.parametrize("freedom", [5, 10, 29, 119, 4999])
def test_students_quantile(freedom):
    assert student_quantile(0.975, freedom) == pytest.approx(student.ppf(0.975, freedom), rel=2e-3)


def test_sign_flips_give_the_exact_p_of_a_small_case():
    # Five equal values: 2 of 32 sign patterns are as far out.
    assert sign_flip_p(np.ones(5), flips=20_000) == pytest.approx(2 / 32, abs=0.006)
    assert sign_flip_p(np.zeros(5)) == 1.0


def test_holm_as_in_the_textbook():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_holm_runs_over_every_scorer_and_policy():
    rng = np.random.default_rng(1)
    base = rng.normal(size=50)
    new = base + rng.normal(0.3, 1, 50)
    scores = table(base, new, other=[*base, *(base + rng.normal(0.3, 1, 50))])
    alone = compare(scores, "base", "score")["new"]
    together = [one for one in compare_all(scores, "base") if one.policy == "new"]
    assert [one.scorer for one in together] == scorers_of(scores) == ["score", "other"]
    assert alone.p_holm == alone.p_value
    assert min(one.p_holm for one in together) == 2 * min(one.p_value for one in together)


def test_the_number_of_prompts_that_would_settle_it_does():
    rng = np.random.default_rng(2)
    needed = prompts_needed(np.where(np.arange(1000) < 620, 0.5, -0.5))  # a win rate of 62%
    assert needed == pytest.approx(129, abs=2)
    settled = sum(
        sign_flip_p((rng.random(needed) < 0.62) - 0.5, flips=999, seed=i) < 0.05 for i in range(200)
    )
    assert settled / 200 == pytest.approx(0.8, abs=0.08)
    assert prompts_needed(np.zeros(10)) is None


def test_the_matrix_of_win_rates_is_its_own_mirror():
    rng = np.random.default_rng(3)
    policies, matrix = win_matrix(table(rng.normal(size=30), rng.normal(size=30)), "score")
    assert policies == ["base", "new"]
    assert matrix[0, 1] + matrix[1, 0] == pytest.approx(1)
    assert np.isnan(np.diag(matrix)).all()


def test_the_statistics_load_without_torch():
    code = "import sys, evaluation.statistics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
