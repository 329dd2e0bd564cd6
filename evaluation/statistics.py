"""Is one policy better than another? Paired by prompt, with intervals that keep their promise.

Two policies are compared on the same prompts and the same noise, so each prompt gives one
difference and one share of wins; several images of a prompt are averaged first, since they are
not independent (the prompt is the cluster). What is estimated is the mean over prompts. The
intervals and tests themselves are in `intervals`; Holm's correction covers all comparisons that
are shown together. Neither torch nor Dagster is needed to ask these questions.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evaluation.errors import EvaluationError
from evaluation.intervals import (
    bootstrap_interval,
    holm,
    prompts_needed,
    rate_interval,
    sign_flip_p,
)
from evaluation.tables import columns_of

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
    low, high = bootstrap_interval(prompts[:, :2], seed=seed)
    mean, difference, rate = prompts.mean(axis=0)
    itself = policy == baseline  # it ties with itself for certain
    rate_low, rate_high = (rate, rate) if itself else rate_interval(prompts[:, 2])
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


def scorer_agreement(scores: Any, baseline: str) -> tuple[list[str], np.ndarray]:
    """Scorers, and the share of images for which two of them name the same winner.

    Every image of another policy is compared with the baseline's of the same prompt and noise;
    where a scorer ties the two it says nothing, and the image is left out. NaN on the diagonal and
    where nothing is left. 50% is chance.
    """
    scorers = scorers_of(scores)
    signs: list[dict[tuple[str, str, int], float]] = []
    for scorer in scorers:
        images = scores_by_image(scores, scorer)
        old = images[baseline]
        signs.append(
            {
                (policy, *key): float(np.sign(score - old[key]))
                for policy, found in images.items()
                if policy != baseline
                for key, score in found.items()
                if math.isfinite(score - old.get(key, math.nan)) and score != old[key]
            }
        )
    matrix = np.full((len(scorers), len(scorers)), np.nan)
    for i, a in enumerate(signs):
        for j, b in enumerate(signs):
            shared = a.keys() & b.keys()
            if i != j and shared:
                matrix[i, j] = np.mean([a[key] == b[key] for key in shared])
    return scorers, matrix
