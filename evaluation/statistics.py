"""Is one policy better than another? Paired by prompt, with intervals that keep their promise.

Two policies are compared on the same prompts and the same noise, so each prompt gives one
difference and one share of wins; several images of a prompt are averaged first, since they are
not independent (the prompt is the cluster). What is estimated is the mean over prompts.

Intervals are percentile bootstraps over prompts, at the level that makes their width right in
small samples (Hesterberg 2015: without it 30 prompts give 93% where 95% is said). Tests are by
flipping signs, and Holm's correction covers all comparisons that are shown together. Numpy alone:
neither torch nor Dagster is needed to ask these questions.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from evaluation.errors import EvaluationError
from evaluation.tables import columns_of

LEVEL = 0.95
POWER = 0.8
RESAMPLES = 10_000
NORMAL = NormalDist()
# Columns of a scores table that are not scores.
DESCRIPTIVE = ("policy", "prompt_id", "prompt", "seed", "image")


@dataclass(frozen=True)
class Comparison:
    """One policy against the baseline by one scorer; every interval is at 95%.

    prompts, images : how many were compared (both policies have a score for each).
    missing : images of either policy that the other has not, or that have no score.
    win_rate : share of images that score above the baseline's of the same prompt and noise,
        equal scores counted half.
    p_value : of the hypothesis that wins and losses are equally likely; p_holm the same after
        Holm's correction over everything compared at once.
    prompts_needed : how many prompts would show this win rate to differ from one half, 4 times
        in 5; None when the rate is one half.
    """

    policy: str
    baseline: str
    scorer: str
    prompts: int
    images: int
    missing: int
    mean: float
    mean_low: float
    mean_high: float
    mean_difference: float
    mean_difference_low: float
    mean_difference_high: float
    win_rate: float
    win_rate_low: float
    win_rate_high: float
    p_value: float
    p_holm: float
    prompts_needed: int | None


def scorers_of(scores: Any) -> list[str]:
    """Names of the score columns: those of floating point that describe no image."""
    return [
        name
        for name, values in columns_of(scores).items()
        if name not in DESCRIPTIVE and any(isinstance(value, float) for value in values)
    ]


def scores_by_image(scores: Any, scorer: str) -> dict[str, dict[tuple[str, int], float]]:
    """policy -> (prompt, seed) -> score, NaN where there is none.

    The prompt is known by prompt_id where the table has it. Without a seed column the images of a
    prompt are numbered as they come. Raises EvaluationError when a policy has two images for one
    prompt and seed, or a column is missing.
    """
    columns = columns_of(scores)
    for name in ("policy", "prompt", scorer):
        if name not in columns:
            raise EvaluationError(f"the scores have no column {name!r} (only {', '.join(columns)})")
    prompts = columns.get("prompt_id", columns["prompt"])
    seeds = columns.get("seed", [None] * len(prompts))
    found: dict[str, dict[tuple[str, int], float]] = {}
    counts: dict[tuple[str, str], int] = {}
    rows = zip(columns["policy"], prompts, seeds, columns[scorer], strict=True)
    for policy, prompt, given, score in rows:
        seed = given
        if seed is None:
            seed = counts[policy, prompt] = counts.get((policy, prompt), -1) + 1
        images = found.setdefault(policy, {})
        if (prompt, seed) in images:
            raise EvaluationError(
                f"policy {policy!r} has two images for prompt {prompt!r}, seed {seed}; "
                "give each image once"
            )
        images[prompt, seed] = math.nan if score is None else float(score)
    return found


def per_prompt(keys: Sequence[tuple[str, int]], values: np.ndarray) -> np.ndarray:
    """Mean of the values (n, ...) over the images of each prompt, prompts in order of first use."""
    order: dict[str, int] = {}
    index = np.array([order.setdefault(prompt, len(order)) for prompt, _ in keys], dtype=int)
    totals = np.zeros((len(order), *values.shape[1:]))
    np.add.at(totals, index, values)
    counts = np.bincount(index, minlength=len(order))
    return totals / counts.reshape(-1, *[1] * (values.ndim - 1))


def student_quantile(p: float, freedom: int) -> float:
    """Quantile of Student's t, by the expansion in 1 / freedom (Abramowitz & Stegun 26.7.5).

    Good to 0.2% from 5 degrees of freedom up at p = 0.975, far within a bootstrap's own noise.
    """
    z = NORMAL.inv_cdf(p)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))


def bootstrap_interval(
    values: np.ndarray,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Interval of the mean of values (n, ...) over n independent rows, one column each.

    Percentile bootstrap whose tail is widened to Phi(-sqrt(n / (n-1)) t_{n-1}), which makes up
    for the bootstrap's variance being too small by (n-1)/n and for using it as if it were known.
    One row alone says nothing about its spread: the interval is then infinite.
    """
    count = len(values)
    if count < 2:
        return np.full(values.shape[1:], -np.inf), np.full(values.shape[1:], np.inf)
    quantile = student_quantile(1 - (1 - level) / 2, count - 1)
    tail = NORMAL.cdf(-math.sqrt(count / (count - 1)) * quantile)
    rng = np.random.default_rng(seed)
    means = np.empty((resamples, *values.shape[1:]))
    block = max(1, 4_000_000 // values.size)  # rows drawn at once: about 32 MB
    for start in range(0, resamples, block):
        drawn = rng.integers(0, count, (min(block, resamples - start), count))
        means[start : start + len(drawn)] = values[drawn].mean(axis=1)
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return low, high


def rate_interval(rates: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """The bootstrap's interval of a win rate; where every prompt was won (or lost), the exact one.

    The bootstrap cannot imagine a loss that it has not seen. After n wins in n, a rate below
    (alpha / 2)^(1 / n) would be a surprise (Clopper and Pearson).
    """
    bound = ((1 - LEVEL) / 2) ** (1 / len(rates))
    if (rates == 1).all():
        return bound, 1.0
    if (rates == 0).all():
        return 0.0, 1 - bound
    return max(0.0, low), min(1.0, high)


def sign_flip_p(values: np.ndarray, *, flips: int = RESAMPLES, seed: int = 0) -> float:
    """Two-sided p of "each value (n,) is as likely as its negative", by random signs."""
    observed = abs(values.sum())
    if observed == 0:
        return 1.0
    rng = np.random.default_rng(seed)
    extreme = 0
    block = max(1, 4_000_000 // len(values))
    for start in range(0, flips, block):
        signs = rng.integers(0, 2, (min(block, flips - start), len(values)), dtype=np.int8)
        extreme += int((np.abs((2.0 * signs - 1) @ values) >= observed * (1 - 1e-12)).sum())
    return (extreme + 1) / (flips + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the family-wise error stays below the level."""
    order = np.argsort(p_values)
    adjusted = np.empty(len(p_values))
    highest = 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = highest
    return adjusted.tolist()


def prompts_needed(values: np.ndarray, *, level: float = LEVEL, power: float = POWER) -> int | None:
    """Prompts at which a mean like that of values (n,) is told from 0 with this power.

    n = ((z_{1 - alpha/2} + z_power) sd / mean)^2. None when the mean is 0.
    """
    mean = float(values.mean())
    if mean == 0 or len(values) < 2:
        return None
    reach = NORMAL.inv_cdf(1 - (1 - level) / 2) + NORMAL.inv_cdf(power)
    return max(2, math.ceil((reach * float(values.std(ddof=1)) / mean) ** 2))


def compare_policy(
    images: Mapping[str, Mapping[tuple[str, int], float]],
    policy: str,
    baseline: str,
    scorer: str,
    seed: int,
) -> Comparison:
    """Compare one policy with the baseline over the images that both have."""
    mine, theirs = images[policy], images[baseline]
    keys = [
        key
        for key, score in mine.items()
        if math.isfinite(score) and math.isfinite(theirs.get(key, math.nan))
    ]
    if not keys:
        raise EvaluationError(
            f"policies {policy!r} and {baseline!r} have no prompt in common that {scorer} scored"
        )
    new, old = (np.array([table[key] for key in keys]) for table in (mine, theirs))
    wins = (new > old) + 0.5 * (new == old)
    prompts = per_prompt(keys, np.stack([new, new - old, wins], axis=1))
    low, high = bootstrap_interval(prompts, seed=seed)
    mean, difference, rate = prompts.mean(axis=0)
    rate_low, rate_high = rate_interval(prompts[:, 2], low[2], high[2])
    p_value = sign_flip_p(prompts[:, 2] - 0.5, seed=seed)
    return Comparison(
        policy=policy,
        baseline=baseline,
        scorer=scorer,
        prompts=len(prompts),
        images=len(keys),
        missing=len(mine.keys() | theirs.keys()) - len(keys),
        mean=float(mean),
        mean_low=float(low[0]),
        mean_high=float(high[0]),
        mean_difference=float(difference),
        mean_difference_low=float(low[1]),
        mean_difference_high=float(high[1]),
        win_rate=float(rate),
        win_rate_low=float(rate_low),
        win_rate_high=float(rate_high),
        p_value=p_value,
        p_holm=p_value,
        prompts_needed=prompts_needed(prompts[:, 2] - 0.5),
    )


def with_holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with p_holm over all of them; the baseline with itself is no comparison."""
    tested = [one for one in comparisons if one.policy != one.baseline]
    corrected = iter(holm([one.p_value for one in tested]))
    return [
        one if one.policy == one.baseline else replace(one, p_holm=next(corrected))
        for one in comparisons
    ]


def compare(scores: Any, baseline: str, scorer: str, *, seed: int = 0) -> dict[str, Comparison]:
    """Compare every policy of a table with the baseline by one scorer.

    Parameters
    ----------
    scores : pyarrow table or polars frame with policy, prompt, the scorer's column, and where
        there are, prompt_id and seed (which image of the prompt; images of equal seed are pairs).

    Returns policy -> Comparison, the baseline (with itself) among them, in the table's order.
    Raises EvaluationError when a column or the baseline is missing.
    """
    images = scores_by_image(scores, scorer)
    if baseline not in images:
        raise EvaluationError(
            f"no image of the baseline {baseline!r}; the scores hold {', '.join(images)}"
        )
    found = [compare_policy(images, policy, baseline, scorer, seed) for policy in images]
    return {one.policy: one for one in with_holm(found)}


def compare_all(scores: Any, baseline: str, *, seed: int = 0) -> list[Comparison]:
    """Compare every policy by every scorer of the table, Holm's correction over all of them."""
    scorers = scorers_of(scores)
    if not scorers:
        raise EvaluationError("the table has no column of scores; run `score` first")
    return with_holm(
        [one for scorer in scorers for one in compare(scores, baseline, scorer, seed=seed).values()]
    )


def win_matrix(scores: Any, scorer: str) -> tuple[list[str], np.ndarray]:
    """Policies, and the share (row beats column) of their common images, equal scores half."""
    images = scores_by_image(scores, scorer)
    policies = list(images)
    matrix = np.full((len(policies), len(policies)), np.nan)
    for i, a in enumerate(policies):
        for j, b in enumerate(policies):
            keys = [
                key
                for key, score in images[a].items()
                if math.isfinite(score) and math.isfinite(images[b].get(key, math.nan))
            ]
            if i != j and keys:
                new = np.array([images[a][key] for key in keys])
                old = np.array([images[b][key] for key in keys])
                matrix[i, j] = per_prompt(keys, (new > old) + 0.5 * (new == old)).mean()
    return policies, matrix
