"""How sure is a mean over prompts: intervals that keep their promise, tests, and power.

The prompt is the unit that is drawn: n prompts give n independent values. Means have a studentised
bootstrap over prompts, win rates Wilson's interval for as many prompts as the spread between them
is worth, and tests flip signs. What is compared with what is in `statistics`.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.95
POWER = 0.8
RESAMPLES = 10_000
NORMAL = NormalDist()
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


def prompts_needed(values: np.ndarray) -> int | None:
    """Prompts at which a mean like that of values (n,) is told from 0 four times in five.

    n = ((z_{1 - alpha/2} + z_power) sd / mean)^2. None when the mean is 0.
    """
    mean = float(values.mean())
    if mean == 0 or len(values) < 2:
        return None
    reach = NORMAL.inv_cdf(1 - (1 - LEVEL) / 2) + NORMAL.inv_cdf(POWER)
    return max(2, math.ceil((reach * float(values.std(ddof=1)) / mean) ** 2))
