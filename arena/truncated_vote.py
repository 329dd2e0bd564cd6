"""What one vote says of the difference that it judged: the moments, and the evidence.

A win says d + n > epsilon and a tie |d + n| <= epsilon, where d ~ N(mean, variance) is what all the
other votes say and n ~ N(0, noise) is the vote's own noise. `sweeps` calls these for every vote.
"""

import math

from arena.gaussian import INVERSE_SQRT_2PI, above, compiled, log_between, log_Phi, v_w_draw


@compiled
def tilted(
    mean: float, variance: float, tie: bool, epsilon: float, noise: float
) -> tuple[float, float]:
    """Return mean and variance of d ~ N(mean, variance) after a vote on d + N(0, noise).

    A win says d + noise > epsilon, a tie |d + noise| <= epsilon.
    """
    s2 = variance + noise
    s = math.sqrt(s2)
    if tie:
        v, w = v_w_draw(mean / s, epsilon / s)
        return mean + variance / s * v, variance * (1.0 - variance / s2 * w)
    z = (mean - epsilon) / s
    m, r = above(z)
    k = variance / s2
    return mean + k * s * (m - z), variance * (1.0 - k) + k * variance * r


@compiled
def log_outcome(mean: float, variance: float, tie: bool, epsilon: float) -> float:
    """Return log p(vote) for d plus noise ~ N(mean, variance)."""
    s = math.sqrt(variance)
    return log_between(mean / s, epsilon / s) if tie else log_Phi((mean - epsilon) / s)


@compiled
def evidence_slopes(
    mean: float, variance: float, noise: float, tie: bool, epsilon: float, log_probability: float
) -> tuple[float, float]:
    """Return the slopes of log p(vote) in its noise and in epsilon.

    In the noise by the heat equation: d/ds^2 = (d^2/dm^2 + (d/dm)^2) / 2, both known from the
    tilted moments.
    """
    t_mean, t_variance = tilted(mean, variance, tie, epsilon, noise)
    slope = (t_mean - mean) / variance
    curvature = (t_variance - variance) / (variance * variance)
    s = math.sqrt(variance + noise)
    if tie:
        t, e = mean / s, epsilon / s
        ends = math.exp(-0.5 * (e - t) ** 2 - log_probability)
        ends += math.exp(-0.5 * (e + t) ** 2 - log_probability)
        in_epsilon = INVERSE_SQRT_2PI * ends / s
    else:
        in_epsilon = -slope
    return 0.5 * (curvature + slope * slope), in_epsilon


@compiled
def log_mass(mean: float, variance: float, tau: float, nu: float) -> float:
    """Log of the integral of N(d; mean, variance) exp(nu d - tau d^2 / 2)."""
    shrink = 1.0 + tau * variance
    top = variance * nu * nu + 2.0 * mean * nu - tau * mean * mean
    return 0.5 * top / shrink - 0.5 * math.log(shrink)
