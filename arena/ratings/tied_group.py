"""Performances that a rater could not tell apart: their moments, whoever is listed first.

A group of n players of one rank in a K-wise vote: p_k ~ N(m_k, v_k), all within epsilon of each
other, the least of them, lo, ahead of the group below by epsilon, and the group above ahead of the
greatest, hi, by as much. There is no closed form; the integral is over (lo, hi) only, whatever n
is.
"""

import math

import numpy as np

from arena.compiled import compiled
from arena.ratings.gaussian import (
    INVERSE_SQRT_2PI,
    SQRT_2,
    above,
    log_Phi,
    mills,
    v_w_strict,
)

LO, HI = 0, 1
# Quadrature of a group: over lo by the trapezoid rule, steps in standard deviations, exact to
# rounding for a smooth bump; over hi by Gauss and Legendre.
STEP, REACH = 0.8, 7.0
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(10)
_FEW_NODES, _FEW_WEIGHTS = np.polynomial.legendre.leggauss(4)  # where a group is narrow


@compiled
def _log_mass(a: float, h: float) -> float:
    """Return log of the integral of phi from a to a + h, h > 0, exact in both tails."""
    middle = a + 0.5 * h
    if h * max(1.0, abs(middle)) < 0.03:  # the difference below would cancel
        series = h * (1.0 + h * h * (middle * middle - 1.0) / 24.0)
        return math.log(INVERSE_SQRT_2PI * series) - 0.5 * middle * middle
    if middle < 0.0:
        a = -a - h  # the mirrored interval
    if a <= 0.0:
        return math.log(0.5 * (math.erfc(a / SQRT_2) - math.erfc((a + h) / SQRT_2)))
    less = mills(a) - math.exp(-h * (a + 0.5 * h)) * mills(a + h)
    return math.log(INVERSE_SQRT_2PI * less) - 0.5 * a * a


@compiled
def nobody() -> np.ndarray:
    """Return the Gaussians beside a group (2, 2), of (mean, variance): none on either side."""
    beside = np.zeros((2, 2))
    beside[:, 1] = np.inf
    return beside


@compiled
def tied(
    m: np.ndarray, v: np.ndarray, epsilon: float, beside: np.ndarray, said: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and share of variance left (n + 3,) of n performances within epsilon.

    m, v: (n,), p_k ~ N(m_k, v_k). beside: (2, 2), mean and variance of the Gaussians that lo must
    beat by epsilon (LO) and that must beat hi so (HI), as `nobody` where there is none; they are
    n + LO and n + HI of the result. said: precision and shift of a Gaussian message to hi. The last
    entry of the result is mean and variance of hi.

    With f and F a performance's density and distribution, and G = F(y) - F(x), the density of
    lo = x and hi = y is prod G times the sum over i != j of r_i q_j, r = f(x) / G, q = f(y) / G.
    """
    n, pull = len(m), 0.0
    beside_mean, beside_v, beside_sd = beside[:, 0], beside[:, 1], np.sqrt(beside[:, 1])
    sd_k, r, q = np.sqrt(v), np.empty(n), np.empty(n)
    centre, sd, middle, fine = _peak(m, v, epsilon, beside_mean, beside_sd, said)
    reach = REACH * sd + 0.5 * epsilon
    width = min(epsilon, 2.0 * reach)
    for k in range(n):
        pull = max(pull, abs(centre - m[k]) / v[k])  # how steep the densities are
    panels = max(1, math.ceil(width * max(0.5 / fine, pull / 8.0)))
    step = STEP * min(fine, max(width, 0.1 * fine))
    largest, mass = -np.inf, 0.0  # sums are relative to the largest density so far
    about, first, second = np.empty(n + 3), np.zeros(n + 3), np.zeros(n + 3)
    for k in range(n + 3):
        about[k] = middle
    for side in range(2):
        if np.isfinite(beside_v[side]):
            about[n + side] = beside_mean[side]
    rule, weight = (_NODES, _WEIGHTS) if width * panels > 0.3 * fine else (_FEW_NODES, _FEW_WEIGHTS)
    nodes = panels * len(rule)
    for node in range(math.ceil(2.0 * reach / step) * nodes):
        u = node % len(rule)
        h = width / panels * ((node % nodes) // len(rule) + 0.5 * (1.0 + rule[u]))
        x = middle - reach + step * (node // nodes)
        y = x + h
        log_p = said[1] * y - 0.5 * said[0] * y * y
        # How far the groups beside have to be ahead and behind, in their standard deviations.
        t_lo = (x - epsilon - beside_mean[LO]) / beside_sd[LO]
        t_hi = (beside_mean[HI] - y - epsilon) / beside_sd[HI]
        if np.isfinite(beside_v[LO]):
            log_p += log_Phi(t_lo)
        if np.isfinite(beside_v[HI]):
            log_p += log_Phi(t_hi)
        sum_r = sum_q = pairs = 0.0
        for k in range(n):
            at, there = (x - m[k]) / sd_k[k], (y - m[k]) / sd_k[k]
            log_g = _log_mass(at, h / sd_k[k])
            r[k] = INVERSE_SQRT_2PI * math.exp(-0.5 * at * at - log_g) / sd_k[k]
            q[k] = INVERSE_SQRT_2PI * math.exp(-0.5 * there * there - log_g) / sd_k[k]
            log_p += log_g
            pairs += r[k] * sum_q + q[k] * sum_r
            sum_r += r[k]
            sum_q += q[k]
        if not pairs > 0.0 or log_p < largest - 45.0:
            continue
        if log_p > largest:
            down = math.exp(largest - log_p)
            mass, largest = mass * down, log_p
            for k in range(n + 3):
                first[k] *= down
                second[k] *= down
        density = weight[u] * math.exp(log_p - largest)
        p = density * pairs
        mass += p
        for k in range(n):  # each is the least, the greatest, or between the two
            least = density * r[k] * (sum_q - q[k])
            greatest = density * q[k] * (sum_r - r[k])
            rest = max(0.0, p - least - greatest) if n > 2 else 0.0
            inside, around = _inside(x, h, m[k], v[k], r[k], q[k])
            first[k] += least * (x - middle) + greatest * (y - middle) + rest * (inside - middle)
            second[k] += least * (x - middle) ** 2 + greatest * (y - middle) ** 2
            second[k] += rest * ((inside - middle) ** 2 + around)
        for side, edge, t, sign in ((LO, x - epsilon, t_lo, -1.0), (HI, y + epsilon, t_hi, 1.0)):
            if np.isfinite(beside_v[side]):
                over, around = above(t)
                off = edge + sign * over * beside_sd[side] - about[n + side]
                first[n + side] += p * off
                second[n + side] += p * (off * off + around * beside_v[side])
        first[n + 2] += p * (y - middle)
        second[n + 2] += p * (y - middle) ** 2
    for k in range(n + 3):
        off = first[k] / mass
        before = v[k] if k < n else (beside_v[k - n] if k < n + 2 else 1.0)
        first[k], second[k] = about[k] + off, (second[k] / mass - off * off) / before
    return first, second


@compiled
def _peak(
    m: np.ndarray,
    v: np.ndarray,
    epsilon: float,
    beside_mean: np.ndarray,
    beside_sd: np.ndarray,
    said: tuple[float, float],
) -> tuple[float, float, float, float]:
    """Return where a group is: (centre, sd, lo's mode, the finest scale of its density).

    centre and sd: of the product of the Gaussians, which leaves the groups beside out. With them
    the logarithm of the density bends more than the product's everywhere, so that nothing is
    further from the mode than `REACH` sd; their Phi has no finer scale than their own.
    """
    total, centre = said[0], said[1] - 0.5 * epsilon * said[0]
    for k in range(len(m)):
        total += 1.0 / v[k]
        centre += m[k] / v[k]
    centre /= total
    x = centre
    finest = total + 1.0 / beside_sd[LO] ** 2 + 1.0 / beside_sd[HI] ** 2
    for _ in range(100):
        slope, bend = total * (centre - x), total
        half = 0.5 * epsilon
        if beside_sd[LO] < np.inf:
            v_lo, w_lo = v_w_strict((x - half - epsilon - beside_mean[LO]) / beside_sd[LO])
            slope += v_lo / beside_sd[LO]
            bend += w_lo / beside_sd[LO] ** 2
        if beside_sd[HI] < np.inf:
            v_hi, w_hi = v_w_strict((beside_mean[HI] - x - half - epsilon) / beside_sd[HI])
            slope -= v_hi / beside_sd[HI]
            bend += w_hi / beside_sd[HI] ** 2
        move = slope / bend
        x += move
        if abs(move) < 1e-3 / math.sqrt(finest):
            break
    return centre, 1.0 / math.sqrt(total), x - 0.5 * epsilon, 1.0 / math.sqrt(finest)


@compiled
def _inside(x: float, h: float, m: float, v: float, r: float, q: float) -> tuple[float, float]:
    """Return mean and variance of N(m, v) given that it is from x to x + h."""
    if h * h < 1e-3 * v:  # the formulas below would cancel
        centre = x + 0.5 * h
        return centre + (m - centre) / v * h * h / 12.0, h * h / 12.0
    moved = v * (r - q)
    return m + moved, v * (1.0 + (x - m) * r - (x + h - m) * q) - moved * moved
