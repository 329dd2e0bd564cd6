"""Is one policy better than another? Paired by prompt, with intervals that keep their promise.

Two policies are compared on the same prompts and the same noise, so each prompt gives one
difference and one share of wins; several images of a prompt are averaged first, since they are
not independent (the prompt is the cluster). What is estimated is the mean over prompts. The
intervals and tests themselves are in `intervals`; Holm's correction covers all comparisons that
are shown together. Neither torch nor Dagster is needed to ask these questions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from evaluation.errors import EvaluationError
from evaluation.intervals import ALPHA, bootstrap_interval, holm, rate_interval, sign_flip_p
from evaluation.scores import Scores, scores_of

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
    category: str | None = None
    verdict: Verdict = "open"


def compare_policy(scores: Scores, policy: str, baseline: str, scorer: str) -> Comparison:
    """Compare one policy with the baseline over the images that both have."""
    itself = policy == baseline  # it ties with itself for certain
    rows, pair = scores.paired(scorer, policy, baseline)
    there = scores.paths[:, [scores.column(policy), scores.column(baseline)]] != None  # noqa: E711
    numbers: list[Any] = [float("nan")] * 11
    if len(rows):
        new, old = pair.T
        wins = (new > old) + 0.5 * (new == old)
        prompts = scores.per_prompt(rows, np.stack([new, new - old, wins], axis=1))
        low, high = bootstrap_interval(prompts[:, :2])
        mean, difference, rate = prompts.mean(axis=0)
        rates = (rate, rate) if itself else rate_interval(prompts[:, 2])
        p = 1.0 if itself else sign_flip_p(prompts[:, 2] - 0.5)
        numbers = [mean, low[0], high[0], difference, low[1], high[1], rate, *rates, p, p]
    return Comparison(
        policy,
        baseline,
        scorer,
        len(np.unique(scores.prompt_of[rows])),
        len(rows),
        int(there.any(axis=1).sum()) - len(rows),
        *(float(number) for number in numbers),  # type: ignore[arg-type]
    )


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


def compare(table: Any, baseline: str, scorer: str) -> dict[str, Comparison]:
    """Compare every policy of a table with the baseline by one scorer.

    table : `Scores`, or a pyarrow table or polars frame, see `scores_of`.

    Returns policy -> Comparison, the baseline (with itself) among them, in the table's order.
    Raises EvaluationError when a column or the baseline is missing.
    """
    found = compare_all(scores_of(table, [scorer]), baseline, [scorer])
    return {one.policy: one for one in found}


def compare_all(
    scores: Scores, baseline: str, scorers: Sequence[str] | None = None
) -> list[Comparison]:
    """Compare every policy by some or all scorers, Holm's correction over all of these.

    Raises EvaluationError where the table has no such baseline.
    """
    if baseline not in scores.policies:
        raise EvaluationError(
            f"no image of the baseline {baseline!r}; the scores hold {', '.join(scores.policies)}"
        )
    return with_holm(
        [
            compare_policy(scores, policy, baseline, scorer)
            for scorer in scorers or scores.scorers
            for policy in scores.policies
        ]
    )


def compare_categories(scores: Scores, baseline: str, scorer: str) -> list[Comparison]:
    """Compare within each category of prompts, Holm's correction over all of these."""
    found = [
        replace(compare_policy(part, policy, baseline, scorer), category=category)
        for category in dict.fromkeys(filter(None, scores.categories))
        for part in [scores.within(category)]
        for policy in scores.policies
        if policy != baseline
    ]
    return with_holm([one for one in found if one.images])


def win_matrix(scores: Scores, scorer: str) -> np.ndarray:
    """(P, P): share of common images in which the row's policy beats the column's, NaN for none."""
    matrix = np.full((len(scores.policies),) * 2, np.nan)
    for i, a in enumerate(scores.policies):
        for j, b in enumerate(scores.policies):
            rows, pair = scores.paired(scorer, a, b)
            if i != j and len(rows):
                wins = (pair[:, 0] > pair[:, 1]) + 0.5 * (pair[:, 0] == pair[:, 1])
                matrix[i, j] = scores.per_prompt(rows, wins).mean()
    return matrix


def scorer_agreement(scores: Scores, baseline: str) -> np.ndarray:
    """(S, S): share of images for which two scorers name the same winner, policy or baseline.

    Where a scorer ties the two it says nothing, and the image is left out. NaN on the diagonal and
    where nothing is left. 50% is chance.
    """
    old = scores.column(baseline)
    signs = [np.sign(one - one[:, [old]]) for one in (scores.values[s] for s in scores.scorers)]
    matrix = np.full((len(signs),) * 2, np.nan)
    for i, a in enumerate(signs):
        for j, b in enumerate(signs):
            both = (np.abs(a) > 0) & (np.abs(b) > 0)  # False for NaN
            if i != j and both.any():
                matrix[i, j] = (a[both] == b[both]).mean()
    return matrix
