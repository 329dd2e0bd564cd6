"""Is one policy better than another? Paired by prompt, with intervals that keep their promise.

Two policies are compared on the same prompts and the same noise, so each prompt gives one
difference and one share of wins; several images of a prompt are averaged first, since they are
not independent (the prompt is the cluster). What is estimated is the mean over prompts. The
intervals and tests themselves are in `intervals`; Holm's correction covers all comparisons that
are shown together. Neither torch nor Dagster is needed to ask these questions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import nan
from typing import Any, Literal

import numpy as np

from evaluation.comparison.intervals import (
    ALPHA,
    bootstrap_interval,
    holm,
    rate_interval,
    sign_flip_p,
)
from evaluation.comparison.scores import Scores, scores_of
from evaluation.errors import EvaluationError

Verdict = Literal["better", "worse", "open"]


@dataclass(frozen=True)
class Comparison:
    """One policy against the baseline by one scorer; every interval is at 95%.

    prompts, images : how many were compared (both policies have a score for each). Without any,
        every number is NaN.
    missing : images of either policy that the other has not, or that have no score.
    mean : of the policy's scores over the images compared.
    win_rate : share of images that score above the baseline's of the same prompt and noise,
        equal scores counted half.
    p_value : of the hypothesis that wins and losses are equally likely; p_holm the same after
        Holm's correction over everything compared at once.
    category : of the prompts; None for all.
    verdict : the one rule for "wins": the corrected test says so (`with_holm`).
    """

    policy: str
    baseline: str
    scorer: str
    prompts: int
    images: int
    missing: int
    mean: float = nan
    mean_low: float = nan
    mean_high: float = nan
    mean_difference: float = nan
    mean_difference_low: float = nan
    mean_difference_high: float = nan
    win_rate: float = nan
    win_rate_low: float = nan
    win_rate_high: float = nan
    p_value: float = nan
    p_holm: float = nan
    category: str | None = None
    verdict: Verdict = "open"


def compare(table: Any, baseline: str, scorer: str) -> dict[str, Comparison]:
    """Compare every policy of a table with the baseline by one scorer.

    table : `Scores`, or a pyarrow table or polars frame, see `scores_of`.

    Returns policy -> Comparison, the baseline (with itself) among them. Raises EvaluationError when
    a column or the baseline is missing.
    """
    found = compare_all(scores_of(table, [scorer]), baseline, [scorer])
    return {one.policy: one for one in found}


def compare_all(
    scores: Scores, baseline: str, scorers: Sequence[str], *, by_category: bool = False
) -> list[Comparison]:
    """Compare every policy by some scorers, Holm's correction over all of these.

    by_category : within each category of prompts, in place of over all prompts; what compares
    nothing is then left out.

    Returns the comparisons by scorer, best win rate first, last what nothing is known of. Raises
    EvaluationError where the table has no such baseline.
    """
    if baseline not in scores.policies:
        raise EvaluationError(
            f"no image of the baseline {baseline!r}; the scores hold {', '.join(scores.policies)}"
        )
    there = scores.paths != None  # noqa: E711  (elementwise)
    there |= there[:, [scores.policies[baseline]]]  # an image of either policy
    categories = dict.fromkeys(filter(None, scores.categories)) if by_category else [None]
    found = []
    for scorer, category in product(scorers, categories):
        means, images = scores.beside(scores.values[scorer], baseline)
        rows = np.array([category in (None, one) for one in scores.categories], dtype=bool)
        prompts = np.unique(scores.prompt_of[rows])
        some = []
        for policy, column in scores.policies.items():
            counts = images[prompts, column]
            total = int(counts.sum())
            size = int((counts > 0).sum()), total, int(there[rows, column].sum()) - total
            numbers = estimates(means[prompts[counts > 0], column], policy == baseline)
            numbers["category"] = category
            some.append(Comparison(policy, baseline, scorer, *size, **numbers))
        found += sorted(some, key=lambda c: (not c.images, -c.win_rate, -c.mean_difference))
    if by_category:
        found = [one for one in found if one.images and one.policy != baseline]
    return with_holm(found)


def estimates(prompts: np.ndarray, itself: bool) -> dict[str, Any]:
    """A Comparison's numbers from `mean` to `p_holm`; none where nothing was compared.

    prompts : (m, 3), each prompt's mean score, difference and share of wins. itself : the baseline
    beside itself, with which it ties for certain.
    """
    if not len(prompts):
        return {}
    mean, difference, rate = prompts.mean(axis=0).tolist()
    low, high = (ends.tolist() for ends in bootstrap_interval(prompts[:, :2]))
    rate_low, rate_high = (rate, rate) if itself else rate_interval(prompts[:, 2])
    p_value = 1.0 if itself else sign_flip_p(prompts[:, 2] - 0.5)
    return {
        "mean": mean, "mean_low": low[0], "mean_high": high[0],
        "mean_difference": difference,
        "mean_difference_low": low[1], "mean_difference_high": high[1],
        "win_rate": rate, "win_rate_low": rate_low, "win_rate_high": rate_high,
        "p_value": p_value, "p_holm": p_value,
    }  # fmt: skip


def with_holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with p_holm over all of them that compare anything, and so their verdicts."""
    tested = [one for one in comparisons if one.policy != one.baseline and one.images]
    corrected = dict(zip(map(id, tested), holm([one.p_value for one in tested]), strict=True))
    found = []
    for one in comparisons:
        p_holm = corrected.get(id(one), one.p_holm)
        verdict: Verdict = "open"
        if p_holm < ALPHA:
            verdict = "better" if one.win_rate > 0.5 else "worse"
        found.append(replace(one, p_holm=p_holm, verdict=verdict))
    return found


def win_matrix(scores: Scores, scorer: str) -> np.ndarray:
    """(P, P): share of common images in which the row's policy beats the column's, NaN for none."""
    matrix = np.full((len(scores.policies),) * 2, np.nan)
    for policy, column in scores.policies.items():
        means, images = scores.beside(scores.values[scorer], policy)
        with np.errstate(invalid="ignore"):
            matrix[:, column] = np.nansum(means[:, :, 2], axis=0) / (images > 0).sum(axis=0)
    np.fill_diagonal(matrix, np.nan)
    return matrix


def scorer_agreement(scores: Scores, baseline: str) -> np.ndarray:
    """(S, S): share of images for which two scorers name the same winner, policy or baseline.

    Where a scorer ties the two it says nothing, and the image is left out. NaN on the diagonal and
    where nothing is left. 50% is chance.
    """
    old = scores.policies[baseline]
    signs = [np.sign(one - one[:, [old]]) for one in (scores.values[s] for s in scores.scorers)]
    matrix = np.full((len(signs),) * 2, np.nan)
    for i, a in enumerate(signs):
        for j, b in enumerate(signs):
            both = (np.abs(a) > 0) & (np.abs(b) > 0)  # False for NaN
            if i != j and both.any():
                matrix[i, j] = (a[both] == b[both]).mean()
    return matrix
