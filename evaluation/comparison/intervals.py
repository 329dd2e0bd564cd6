"""How sure is a mean over prompts: intervals that keep their promise, exact tests, and power.

The prompt is the unit that is drawn: n prompts give n independent values. Means have a studentised
bootstrap over prompts, win rates Wilson's interval for as many prompts as the spread between them
is worth, and tests flip signs: exactly, so that a p as small as a correction over hundreds of tests
asks for can be reached. What is compared with what is in `statistics`.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from scipy.special import bdtrc, betaincinv, stdtrit

LEVEL = 0.95
ALPHA = 0.05  # below which a corrected p tells two policies apart
POWER = 0.8
RESAMPLES = 10_000
FLIPS = 99_999  # where the values are on no grid that could be counted through
CELLS = 2_000_000  # steps of that grid
LEAST_ERROR = 1 / 3  # of a resample's standard error, as a share of the sample's


def bootstrap_interval(
    values: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """95% interval of the mean of values (n, ...) over n independent rows, one column each.

    Each side reaches as far as the bootstrap of t = (mean* - mean) / error* (Efron and Tibshirani
    1993, section 12.5) or Student's t, whichever is further: alone the bootstrap of t is too short
    for heavy tails, and Student's t for skewed values. A resample that missed the few values that
    differ has next to no error of its own; it is not believed below LEAST_ERROR of the sample's.
    One row alone says nothing about its spread: the interval is then infinite.
    """
    count, shape = len(values), values.shape[1:]
    if count < 2:
        return np.full(shape, -np.inf), np.full(shape, np.inf)
    values = values.reshape(count, -1)
    mean, error = values.mean(axis=0), values.std(axis=0, ddof=1) / math.sqrt(count)
    scaled = (values - mean) / np.where(error > 0, error, 1)  # the mean's error becomes 1
    moments = np.hstack([scaled, scaled**2])
    rng = np.random.default_rng(seed)
    pivots = np.empty((resamples, len(mean)))
    block = max(1, 4_000_000 // count)  # resamples at once: about 32 MB
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = rng.integers(0, count, (rows, count)) + count * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        shift, square = np.hsplit(times.astype(float) @ moments / count, 2)
        own_error = np.sqrt(np.maximum(square - shift**2, 0) / (count - 1))
        pivots[start : start + rows] = shift / np.maximum(own_error, LEAST_ERROR)
    tail = (1 - LEVEL) / 2
    below, above = np.quantile(pivots, [tail, 1 - tail], axis=0)
    student = stdtrit(count - 1, 1 - tail)
    low, high = (
        mean - error * np.maximum(above, student),
        mean + error * np.maximum(-below, student),
    )
    return low.reshape(shape), high.reshape(shape)


def rate_interval(rates: np.ndarray, weights: np.ndarray | None = None) -> tuple[float, float]:
    """95% interval of the mean of rates (n,) between 0 and 1, one a prompt.

    weights : (n,), for a weighted mean: how many votes a prompt's rate stands for, say.

    Wilson's interval for m prompts that were each wholly won or lost, m being how many of those
    would be as sure as these (Korn and Graubard 1998, with Student's t): ties and several images a
    prompt make a prompt worth more than one of them, unequal weights less. Unlike a bootstrap it
    can imagine the loss that it has not seen.
    """
    count = len(rates)
    if count < 2:
        return 0.0, 1.0
    shares = np.full(count, 1 / count) if weights is None else weights / weights.sum()
    z2 = float(stdtrit(count - 1, 1 - (1 - LEVEL) / 2)) ** 2
    if (rates == rates[0]).all():
        rate = float(rates[0])
        unseen = z2 / (z2 + 1 / float(shares @ shares))  # share of prompts that may be otherwise
        return rate - rate * unseen, rate + (1 - rate) * unseen
    rate = float(shares @ rates)
    z2 *= float(shares**2 @ (rates - rate) ** 2) / (rate * (1 - rate))  # over m
    middle = (rate + z2 / 2) / (1 + z2)
    half = math.sqrt(z2 * (rate * (1 - rate) + z2 / 4)) / (1 + z2)
    return middle - half, middle + half


def sign_flip_p(values: np.ndarray) -> float:
    """Two-sided p of "each value (n,) is as likely as its negative".

    Exact where the values are fractions of small denominators, as shares of wins less one half are:
    the sum's distribution over all 2^n signs is counted value by value. Others have scipy's
    permutation test, exact as well up to 16 values.
    """
    values = values[values != 0]
    if not len(values):
        return 1.0
    fractions = [Fraction(float(value)).limit_denominator(1000) for value in values]
    grid = math.lcm(*(one.denominator for one in fractions))
    steps = np.array([abs(int(one * grid)) for one in fractions])
    off = max(abs(float(one) - value) for one, value in zip(fractions, values, strict=True))
    if off > 1e-9 or steps.sum() * len(steps) > CELLS * 100 or steps.sum() > CELLS:
        from scipy.stats import permutation_test  # takes seconds to load

        found = permutation_test(
            (values,), np.sum, permutation_type="samples", n_resamples=FLIPS, rng=0
        )
        return float(found.pvalue)
    total = int(steps.sum())
    chances = np.zeros(total + 1)  # of the sum of the values whose sign is kept
    chances[0] = 1.0
    for step in steps:
        kept = np.zeros_like(chances)
        kept[step:] = chances[: len(chances) - step]
        chances = (chances + kept) / 2
    observed = abs(int(sum(fractions) * grid))
    sums = 2 * np.arange(total + 1) - total
    return min(1.0, float(chances[np.abs(sums) >= observed].sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the family-wise error stays below the level."""
    order, count = np.argsort(p_values), len(p_values)
    steps = np.fmin(1.0, np.asarray(p_values)[order] * np.arange(count, 0, -1))
    adjusted = np.empty(count)
    adjusted[order] = np.maximum.accumulate(steps)
    return adjusted.tolist()


def detectable_rate(prompts: int) -> float | None:
    """The win rate that so many prompts would tell from one half, four times in five.

    Before the fact and for prompts that are wholly won or lost: the power of the two-sided sign
    test, P(X >= c) for X ~ Binomial(prompts, rate), is 80% there. None where the test cannot tell
    at all, as 5 wins of 5 cannot (p = 0.0625).
    """
    wins = np.arange(prompts // 2 + 1, prompts + 1)
    enough = wins[2 * bdtrc(wins - 1, prompts, 0.5) < ALPHA] if prompts else wins
    if not len(enough):
        return None
    return float(betaincinv(enough[0], prompts - enough[0] + 1, POWER))
