"""What the votes on one difference say of it: its moments, and their probability.

A win says d + n > epsilon, a loss d + n < -epsilon and a tie |d + n| <= epsilon, where
d ~ N(mean, variance) is what all other votes say and n ~ N(0, noise) is each vote's own noise. All
votes on the same difference are one `Factor`:

    p(d, votes) = N(d; mean, variance) Phi((d - epsilon) / n)^wins Phi((-d - epsilon) / n)^losses
                  (Phi((epsilon - d) / n) - Phi((-epsilon - d) / n))^ties

One vote alone has a closed form. Several are integrated numerically, at a cost that does not depend
on how many they are. Taking them one after the other would not be exact: a product of ten soft
steps is not a product of ten Gaussian messages.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.special import log_ndtr

from arena.compiled import compiled
from arena.ratings.gaussian import (
    INVERSE_SQRT_2PI,
    NARROW,
    above,
    lambda_coefficients,
    log_between,
    log_Phi,
    v_w_draw,
    v_w_strict,
)

WIN, LOSS, TIED = 0, 1, 2

# Below the peak by this much (in log) a density adds nothing: 1e-8.
NEGLIGIBLE = 20.0
# Steps of the trapezoidal rule in units of the density's sharpest detail.
STEP = 1.2


class Factor(NamedTuple):
    """The votes on one difference, and what all others say of it.

    mean, variance: of d by all others. votes: (3,) int64, how many there are for d > 0, for d < 0
    and for a tie. epsilon: the draw margin. noise: the variance of each vote's own noise.
    """

    mean: float
    variance: float
    votes: np.ndarray
    epsilon: float
    noise: float


# Taylor's coefficients of log Phi, whose slope is lambda, at so many points per unit.
_LOW, _HIGH, _STEPS, _TERMS = -12.0, 8.0, 16, 8
_SLOPE = lambda_coefficients(_LOW, _HIGH, 1.0 / _STEPS, _TERMS) / np.arange(1, _TERMS + 1)
_VALUE = log_ndtr(np.arange(len(_SLOPE)) / _STEPS + _LOW)
_LOG_PHI = np.column_stack([_VALUE, _SLOPE])


@compiled
def _log_phi(x: float) -> float:
    """Log Phi(x) to 1e-14 from a table: quadrature asks for nothing else."""
    if not _LOW <= x < _HIGH:
        return log_Phi(x)
    k = int((x - _LOW) * _STEPS + 0.5)
    d = x - (_LOW + k / _STEPS)
    c = _LOG_PHI[k]
    value = c[4] + d * (c[5] + d * (c[6] + d * (c[7] + d * c[8])))
    return c[0] + d * (c[1] + d * (c[2] + d * (c[3] + d * value)))


@compiled
def tilted(f: Factor) -> tuple[float, float]:
    """Return mean and variance of d after the votes."""
    if f.votes.sum() != 1:
        d, weight, _ = _density(f)
        first = second = 0.0
        for k in range(len(d)):
            first += weight[k] * d[k]
        for k in range(len(d)):
            second += weight[k] * (d[k] - first) ** 2
        return first, second
    s = math.sqrt(f.variance + f.noise)
    share = f.variance / (f.variance + f.noise)
    if f.votes[TIED]:
        v, w = v_w_draw(f.mean / s, f.epsilon / s)
        return f.mean + f.variance / s * v, f.variance * (1.0 - share * w)
    sign = 1.0 if f.votes[WIN] else -1.0
    z = (sign * f.mean - f.epsilon) / s
    m, r = above(z)
    return f.mean + sign * share * s * (m - z), f.variance * (1.0 - share + share * r)


@compiled
def log_outcome(mean: float, variance: float, kind: int, epsilon: float) -> float:
    """Return log p(one vote) for d plus noise ~ N(mean, variance)."""
    s = math.sqrt(variance)
    if kind == TIED:
        return log_between(mean / s, epsilon / s)
    return log_Phi(((mean if kind == WIN else -mean) - epsilon) / s)


@compiled
def _log_votes(f: Factor) -> float:
    """Log p(the votes)."""
    if f.votes.sum() == 0:
        return 0.0
    if f.votes.sum() > 1:
        return _density(f)[2]
    return log_outcome(f.mean, f.variance + f.noise, _only(f.votes), f.epsilon)


@compiled
def log_one_of_them(f: Factor, kind: int, log_all: float) -> float:
    """Return log p(one of the factor's votes of this kind) given all others, the factor's too.

    log_all: log p(all of its votes). Where it has no vote of the kind: of one vote more.
    """
    count = f.votes.copy()
    count[kind] += -1 if f.votes[kind] else 1
    other = _log_votes(Factor(f.mean, f.variance, count, f.epsilon, f.noise))
    return log_all - other if f.votes[kind] else other - log_all


@compiled
def log_votes_and_slopes(f: Factor) -> tuple[float, float, float]:
    """Return log p(the votes) and its slopes in the noise and in epsilon."""
    if f.votes.sum() != 1:
        d, weight, total = _density(f)
        in_noise = in_epsilon = 0.0
        for k in range(len(d)):
            slope_noise, slope_epsilon = _slopes(d[k], f)
            in_noise += weight[k] * slope_noise
            in_epsilon += weight[k] * slope_epsilon
        return total, in_noise, in_epsilon
    kind, s = _only(f.votes), math.sqrt(f.variance + f.noise)
    total = log_outcome(f.mean, f.variance + f.noise, kind, f.epsilon)
    # In the noise by the heat equation, d/ds^2 = (d^2/dm^2 + (d/dm)^2) / 2 of the log evidence:
    # both are known from the tilted moments.
    t_mean, t_variance = tilted(f)
    slope = (t_mean - f.mean) / f.variance
    curvature = (t_variance - f.variance) / (f.variance * f.variance)
    if kind == TIED:
        t, e = f.mean / s, f.epsilon / s
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
def _only(count: np.ndarray) -> int:
    return TIED if count[TIED] else WIN if count[WIN] else LOSS


@compiled
def _log_tie(t: float, e: float) -> float:
    """Log P(|x| <= e) for x ~ N(t, 1): `log_between` to fewer digits where it is narrow."""
    if e < NARROW:
        return log_between(t, e)
    upper = _log_phi(e - abs(t))
    return upper + math.log1p(-math.exp(_log_phi(-e - abs(t)) - upper))


@compiled
def _log_density(d: float, f: Factor) -> float:
    """Log of N(d; mean, variance) without its constant, times every vote's probability at d."""
    value, n = -0.5 * (d - f.mean) ** 2 / f.variance, math.sqrt(f.noise)
    if f.votes[WIN]:
        value += f.votes[WIN] * _log_phi((d - f.epsilon) / n)
    if f.votes[LOSS]:
        value += f.votes[LOSS] * _log_phi((-d - f.epsilon) / n)
    if f.votes[TIED]:
        value += f.votes[TIED] * _log_tie(d / n, f.epsilon / n)
    return value


@compiled
def _derivatives(d: float, f: Factor) -> tuple[float, float]:
    """Slope of the log density at d, and minus its second derivative (positive)."""
    slope, curvature, n = (f.mean - d) / f.variance, 1.0 / f.variance, math.sqrt(f.noise)
    for kind, sign in ((WIN, 1.0), (LOSS, -1.0)):
        if f.votes[kind]:
            v, w = v_w_strict((sign * d - f.epsilon) / n)
            slope += sign * f.votes[kind] * v / n
            curvature += f.votes[kind] * w / f.noise
    if f.votes[TIED]:
        v, w = v_w_draw(d / n, f.epsilon / n)
        slope += f.votes[TIED] * v / n
        curvature += f.votes[TIED] * w / f.noise
    return slope, curvature


@compiled
def _peak(f: Factor) -> tuple[float, float]:
    """Where the density is highest, and the standard deviation that its curvature there tells.

    The density is log-concave: Newton's method held between bounds.
    """
    low, high = -math.inf, math.inf
    d, curvature = f.mean, 1.0
    for _ in range(200):
        slope, curvature = _derivatives(d, f)
        if slope > 0.0:
            low = d
        else:
            high = d
        there = d + slope / curvature
        if not low < there < high and math.isfinite(low) and math.isfinite(high):
            there = 0.5 * (low + high)
        move = abs(there - d) * math.sqrt(curvature)
        d = there
        if move < 0.05:
            break
    return d, 1.0 / math.sqrt(curvature)


@compiled
def _edge(d: float, step: float, floor: float, f: Factor) -> tuple[float, float]:
    """Return where the log density is just below the floor, and its curvature there.

    d: a place on the wanted side of the peak; step: from there to the outside. Newton's method on a
    concave function stays outside once it is there.
    """
    value = _log_density(d, f) - floor
    while value > 0.0:
        d += step
        value = _log_density(d, f) - floor
    slope, curvature = _derivatives(d, f)
    while value < -NEGLIGIBLE:
        d -= value / slope
        value = _log_density(d, f) - floor
        slope, curvature = _derivatives(d, f)
    return d, curvature


@compiled
def _density(f: Factor) -> tuple[np.ndarray, np.ndarray, float]:
    """Return nodes (K,), the normalised density's weights there (K,), and log p(the votes).

    The trapezoidal rule between the places where the density has become negligible: its error falls
    exponentially with the square of the nodes. A vote's curvature grows towards where it is not
    expected, so no detail inside is sharper than what both ends' curvatures sum to.
    """
    peak, sd = _peak(f)
    top, reach = _log_density(peak, f), math.sqrt(2.0 * NEGLIGIBLE) * sd
    low, at_low = _edge(peak - reach, -reach, top - NEGLIGIBLE, f)
    high, at_high = _edge(peak + reach, reach, top - NEGLIGIBLE, f)
    steps = math.ceil((high - low) * math.sqrt(at_low + at_high) / STEP)
    width = (high - low) / steps
    d, weight = np.empty(steps + 1), np.empty(steps + 1)
    mass = 0.0
    for k in range(steps + 1):
        d[k] = low + width * k
        weight[k] = math.exp(_log_density(d[k], f) - top)
        mass += weight[k]
    for k in range(steps + 1):
        weight[k] /= mass
    log_z = top + math.log(mass * width * INVERSE_SQRT_2PI) - 0.5 * math.log(f.variance)
    return d, weight, log_z


@compiled
def _slopes(d: float, f: Factor) -> tuple[float, float]:
    """Slopes in the noise and in epsilon of the votes' log probability at d."""
    in_noise, in_epsilon, n = 0.0, 0.0, math.sqrt(f.noise)
    for kind, sign in ((WIN, 1.0), (LOSS, -1.0)):
        if f.votes[kind]:
            x = (sign * d - f.epsilon) / n
            v = v_w_strict(x)[0]
            in_noise -= f.votes[kind] * v * x / (2.0 * f.noise)
            in_epsilon -= f.votes[kind] * v / n
    if f.votes[TIED]:
        t, e = d / n, f.epsilon / n
        log_p = _log_tie(t, e)
        upper = INVERSE_SQRT_2PI * math.exp(-0.5 * (e - t) ** 2 - log_p)
        lower = INVERSE_SQRT_2PI * math.exp(-0.5 * (e + t) ** 2 - log_p)
        in_noise -= f.votes[TIED] * ((e - t) * upper + (e + t) * lower) / (2.0 * f.noise)
        in_epsilon += f.votes[TIED] * (upper + lower) / n
    return in_noise, in_epsilon
