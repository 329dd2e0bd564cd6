"""What votes say of the difference that they judged: the moments, and the evidence.

A win says d + n > epsilon, a loss d + n < -epsilon and a tie |d + n| <= epsilon, where
d ~ N(mean, variance) is what all the other votes say and n ~ N(0, noise) is the vote's own noise.
Votes that judged the same difference are one factor, given as `count`: (3,) int64, how many of each
kind. One vote alone has a closed form. Several are integrated numerically, which is exact where
taking them one after the other would not be: ten equal votes are ten soft steps, and the product of
ten Gaussian messages is no Gaussian of them. `sweeps` calls these for every factor.
"""

import math

import numpy as np

from arena.ratings.gaussian import (
    INVERSE_SQRT_2PI,
    above,
    compiled,
    log_between,
    log_Phi,
    v_w_draw,
    v_w_strict,
)

WIN, LOSS, TIED = 0, 1, 2

# Below the peak by this much (in log) a density adds nothing.
NEGLIGIBLE = 40.0
# Tanh-sinh quadrature: nodes crowd at both ends of an interval, where a factor's steps are.
_T = np.linspace(-3.0, 3.0, 61)
_TANH_SINH = np.tanh(0.5 * math.pi * np.sinh(_T))
_TANH_SINH_WEIGHTS = 0.1 * 0.5 * math.pi * np.cosh(_T) / np.cosh(0.5 * math.pi * np.sinh(_T)) ** 2


@compiled
def tilted(
    mean: float, variance: float, count: np.ndarray, epsilon: float, noise: float
) -> tuple[float, float]:
    """Return mean and variance of d ~ N(mean, variance) after the votes of one factor."""
    if count[0] + count[1] + count[2] > 1:
        _, mean, variance, _, _ = _integral(mean, variance, count, epsilon, noise)
        return mean, variance
    s2 = variance + noise
    s = math.sqrt(s2)
    if count[TIED]:
        v, w = v_w_draw(mean / s, epsilon / s)
        return mean + variance / s * v, variance * (1.0 - variance / s2 * w)
    sign = 1.0 if count[WIN] else -1.0
    z = (sign * mean - epsilon) / s
    m, r = above(z)
    k = variance / s2
    return mean + sign * k * s * (m - z), variance * (1.0 - k) + k * variance * r


@compiled
def log_outcome(mean: float, variance: float, kind: int, epsilon: float) -> float:
    """Return log p(one vote) for d plus noise ~ N(mean, variance)."""
    s = math.sqrt(variance)
    if kind == TIED:
        return log_between(mean / s, epsilon / s)
    return log_Phi(((mean if kind == WIN else -mean) - epsilon) / s)


@compiled
def log_votes(
    mean: float, variance: float, count: np.ndarray, epsilon: float, noise: float
) -> float:
    """Return log p(a factor's votes) for d ~ N(mean, variance)."""
    if count[0] + count[1] + count[2] > 1:
        return _integral(mean, variance, count, epsilon, noise)[0]
    kind = TIED if count[TIED] else WIN if count[WIN] else LOSS
    return log_outcome(mean, variance + noise, kind, epsilon)


@compiled
def evidence(
    mean: float,
    variance: float,
    count: np.ndarray,
    epsilon: float,
    noise: float,
    log_probability: np.ndarray,
) -> tuple[float, float, float]:
    """Return log p(the factor's votes) and its slopes in the noise and in epsilon.

    log_probability: (3,), written to: of one more vote of each kind that there is, given all other
    votes, those of this factor too.
    """
    if count[0] + count[1] + count[2] > 1:
        total, _, _, in_noise, in_epsilon = _integral(mean, variance, count, epsilon, noise)
        fewer = count.copy()
        for kind in range(3):
            if count[kind]:
                fewer[kind] -= 1
                log_probability[kind] = total - _integral(mean, variance, fewer, epsilon, noise)[0]
                fewer[kind] += 1
        return total, in_noise, in_epsilon
    kind = TIED if count[TIED] else WIN if count[WIN] else LOSS
    total = log_outcome(mean, variance + noise, kind, epsilon)
    log_probability[kind] = total
    # In the noise by the heat equation, d/ds^2 = (d^2/dm^2 + (d/dm)^2) / 2 of the log evidence:
    # both are known from the tilted moments.
    t_mean, t_variance = tilted(mean, variance, count, epsilon, noise)
    slope = (t_mean - mean) / variance
    curvature = (t_variance - variance) / (variance * variance)
    s = math.sqrt(variance + noise)
    if kind == TIED:
        t, e = mean / s, epsilon / s
        ends = math.exp(-0.5 * (e - t) ** 2 - total) + math.exp(-0.5 * (e + t) ** 2 - total)
        in_epsilon = INVERSE_SQRT_2PI * ends / s
    else:
        in_epsilon = -abs(slope)
    return total, 0.5 * (curvature + slope * slope), in_epsilon


@compiled
def log_mass(mean: float, variance: float, tau: float, nu: float) -> float:
    """Log of the integral of N(d; mean, variance) exp(nu d - tau d^2 / 2)."""
    shrink = 1.0 + tau * variance
    top = variance * nu * nu + 2.0 * mean * nu - tau * mean * mean
    return 0.5 * top / shrink - 0.5 * math.log(shrink)


@compiled
def _log_density(
    d: float, mean: float, variance: float, count: np.ndarray, epsilon: float, n: float
) -> float:
    """Log of N(d; mean, variance) without its constant, times every vote's probability at d."""
    return -0.5 * (d - mean) ** 2 / variance + log_likelihood(d, count, epsilon, n)


@compiled
def log_likelihood(d: float, count: np.ndarray, epsilon: float, n: float) -> float:
    """Log p(a factor's votes | d); n: standard deviation of one vote's own noise."""
    value = 0.0
    if count[WIN]:
        value += count[WIN] * log_Phi((d - epsilon) / n)
    if count[LOSS]:
        value += count[LOSS] * log_Phi((-d - epsilon) / n)
    if count[TIED]:
        value += count[TIED] * log_between(d / n, epsilon / n)
    return value


@compiled
def _peak(mean: float, variance: float, count: np.ndarray, epsilon: float, n: float) -> float:
    """Where the density is highest: Newton's method held between bounds; it is log-concave."""
    low, high = -math.inf, math.inf
    d = mean
    for _ in range(200):
        slope, curvature = (mean - d) / variance, 1.0 / variance
        if count[WIN]:
            v, w = v_w_strict((d - epsilon) / n)
            slope += count[WIN] * v / n
            curvature += count[WIN] * w / (n * n)
        if count[LOSS]:
            v, w = v_w_strict((-d - epsilon) / n)
            slope -= count[LOSS] * v / n
            curvature += count[LOSS] * w / (n * n)
        if count[TIED]:
            v, w = v_w_draw(d / n, epsilon / n)
            slope += count[TIED] * v / n
            curvature += count[TIED] * w / (n * n)
        if slope > 0.0:
            low = d
        else:
            high = d
        there = d + slope / curvature
        if not low < there < high and math.isfinite(low) and math.isfinite(high):
            there = 0.5 * (low + high)
        if abs(there - d) * math.sqrt(curvature) < 1e-6:
            return there
        d = there
    return d


@compiled
def _edge(
    peak: float,
    step: float,
    mean: float,
    variance: float,
    count: np.ndarray,
    epsilon: float,
    n: float,
) -> float:
    """Where the density has become negligible on one side of its peak (step's sign says which)."""
    floor = _log_density(peak, mean, variance, count, epsilon, n) - NEGLIGIBLE
    near, far = peak, peak + step
    while _log_density(far, mean, variance, count, epsilon, n) > floor:
        near, far = far, far + 2.0 * (far - near)
    for _ in range(12):
        middle = 0.5 * (near + far)
        if _log_density(middle, mean, variance, count, epsilon, n) > floor:
            near = middle
        else:
            far = middle
    return far


@compiled
def _integral(
    mean: float, variance: float, count: np.ndarray, epsilon: float, noise: float
) -> tuple[float, float, float, float, float]:
    """Return (log Z, mean, variance, slope of log Z in the noise, in epsilon) of a factor."""
    n = math.sqrt(noise)
    peak = _peak(mean, variance, count, epsilon, n)
    top = _log_density(peak, mean, variance, count, epsilon, n)
    # The density is nowhere sharper than this.
    votes = count[WIN] + count[LOSS] + count[TIED]
    sharp = 1.0 / math.sqrt(1.0 / variance + votes / noise)
    mass = first = second = in_noise = in_epsilon = 0.0
    for side in (-1.0, 1.0):
        half = 0.5 * (_edge(peak, side * sharp, mean, variance, count, epsilon, n) - peak)
        for k in range(len(_TANH_SINH)):
            off = half * (1.0 + _TANH_SINH[k])
            d = peak + off
            value = _log_density(d, mean, variance, count, epsilon, n) - top
            weight = abs(half) * _TANH_SINH_WEIGHTS[k] * math.exp(value)
            slope_noise, slope_epsilon = _slopes(d, count, epsilon, n)
            mass += weight
            first += weight * off
            second += weight * off * off
            in_noise += weight * slope_noise
            in_epsilon += weight * slope_epsilon
    shift = first / mass
    return (
        top + math.log(mass * INVERSE_SQRT_2PI) - 0.5 * math.log(variance),
        peak + shift,
        second / mass - shift * shift,
        in_noise / mass,
        in_epsilon / mass,
    )


@compiled
def _slopes(d: float, count: np.ndarray, epsilon: float, n: float) -> tuple[float, float]:
    """Slopes in the noise n^2 and in epsilon of the votes' log probability at d."""
    in_noise = in_epsilon = 0.0
    for kind in (WIN, LOSS):
        if count[kind]:
            x = ((d if kind == WIN else -d) - epsilon) / n
            v = v_w_strict(x)[0]
            in_noise -= count[kind] * v * x / (2.0 * n * n)
            in_epsilon -= count[kind] * v / n
    if count[TIED]:
        t, e = d / n, epsilon / n
        log_p = log_between(t, e)
        upper = INVERSE_SQRT_2PI * math.exp(-0.5 * (e - t) ** 2 - log_p)
        lower = INVERSE_SQRT_2PI * math.exp(-0.5 * (e + t) ** 2 - log_p)
        in_noise -= count[TIED] * ((e - t) * upper + (e + t) * lower) / (2.0 * n * n)
        in_epsilon += count[TIED] * (upper + lower) / n
    return in_noise, in_epsilon
