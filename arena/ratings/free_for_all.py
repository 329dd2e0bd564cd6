"""One TrueSkill update of K models by one K-wise vote, as of K players in a free-for-all.

Herbrich, Minka and Graepel (2006), section 3: skills s_k ~ N(mu_k, sigma_k^2 + tau^2), performances
p_k ~ N(s_k, beta^2), and for neighbours in the ranking p_k - p_{k+1} > epsilon. Players of one rank
are a group, all within epsilon of each other; between groups the worst of the upper one, lo, beats
the best of the lower one, hi:

    lo_g - hi_{g+1} > epsilon,     hi_g - lo_g <= epsilon

Expectation propagation passes Gaussian messages down and up the chain of groups until they stay.
Where no rank is shared, lo = hi = p and this is the paper's chain of differences (and the
`trueskill` package's). Where one is, the paper compares neighbours in the list, so that who is
listed first matters. A group has no order: it is one factor together with its comparisons with the
groups beside it, and its moments come from a quadrature over (lo, hi). Only a comparison of two
groups of several has to be shared out: it is the upper one's, and tells the lower one a Gaussian.
"""

import math

import numpy as np

from arena.ratings.comparisons import A_WINS, TIE
from arena.ratings.gaussian import (
    INVERSE_SQRT_2PI,
    SQRT_2,
    above,
    compiled,
    log_Phi,
    mills,
    v_w_strict,
)

# A sweep gains two digits or more; the truncations are log-concave, so they do not wander.
MOST_SWEEPS = 100
SETTLED = 1e-12  # change of a difference, in its own standard deviations
LO, HI = 0, 1
# Quadrature of a group: over lo by the trapezoid rule, steps in standard deviations, exact to
# rounding for a smooth bump; over hi by Gauss and Legendre.
STEP, REACH = 0.8, 7.0
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(10)
_FEW_NODES, _FEW_WEIGHTS = np.polynomial.legendre.leggauss(4)  # where a group is narrow


@compiled
def standing(
    a: np.ndarray, b: np.ndarray, outcome: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (member (K,), best first, size (G,), how many share each rank) of a K-wise vote.

    a, b, outcome: (n,), the pairs that it implies. A model stands by the share of the comparisons
    with other models that it wins (a tie is half of one), which is its rank where it has one image,
    and the mean rank of its images where it has several. Equal shares tie.
    """
    found, won, met = np.empty(2 * len(a), np.int32), np.zeros(2 * len(a)), np.zeros(2 * len(a))
    k = 0
    for n in range(len(a)):
        if a[n] == b[n]:
            continue
        score = 1.0 if outcome[n] == A_WINS else (0.5 if outcome[n] == TIE else 0.0)
        for model, gained in ((a[n], score), (b[n], 1.0 - score)):
            i = 0
            while i < k and found[i] != model:
                i += 1
            if i == k:
                found[k] = model
                k += 1
            won[i] += gained
            met[i] += 1.0
    share = won[:k] / met[:k]
    order = np.argsort(-share, kind="mergesort")
    size, g = np.zeros(k, np.int64), -1
    for i in range(k):
        if i == 0 or share[order[i]] != share[order[i - 1]]:
            g += 1
        size[g] += 1
    return found[order], size[: g + 1]


@compiled
def free_for_all(
    mu: np.ndarray, var: np.ndarray, size: np.ndarray, beta2: float, epsilon: float
) -> None:
    """Update mu and var (K,), best first, in place; var already holds tau^2.

    size: (G,), how many players each rank has; they add up to K. Every truncation is kept as its
    share of variance, which does not cancel for upsets of 40 sigma.
    """
    last, prior = len(size) - 1, mu.copy()
    start = np.zeros(len(size) + 1, np.int64)
    start[1:] = np.cumsum(size)
    v = var + beta2
    # What the comparison with the next group says of lo, and that with the one before of hi, as a
    # Gaussian's precision and precision times mean.
    precision, shift = np.zeros((2, len(size))), np.zeros((2, len(size)))
    mean, kept = mu.copy(), np.ones(len(mu))
    # The factors: groups of several, and comparisons of two single players.
    factor = np.array(
        [g for g in range(last + 1) if size[g] > 1 or (g < last and size[g + 1] == 1)], np.int64
    )
    known, end = np.full(len(factor), np.inf), len(factor) - 1
    for _ in range(MOST_SWEEPS):
        change = 0.0
        for step in range(max(1, 2 * end)):  # down the chain, and up again from the last but one
            f = step if step <= end else 2 * end - step
            if size[factor[f]] > 1:
                seen = _group(factor[f], prior, v, start, epsilon, precision, shift, mean, kept)
            else:
                seen = _compare(factor[f], prior, v, start, epsilon, precision, shift)
            change = max(change, abs(seen - known[f]))
            known[f] = seen
        if change < SETTLED or end < 1:
            break
    for g in range(last + 1):
        for i in range(start[g], start[g + 1]):
            said, heard = precision[:, g].sum(), shift[:, g].sum()
            if size[g] > 1:
                said, heard = _message(prior[i], v[i], mean[i], kept[i])
            _learn(i, mu, var, beta2, said, heard)


@compiled
def _message(mu: float, v: float, mean: float, kept: float) -> tuple[float, float]:
    """Return (precision, shift) that turn N(mu, v) into a Gaussian of this mean and v * kept."""
    precision = max(0.0, 1.0 / kept - 1.0) / v
    return precision, (mean - mu) / v + mean * precision


@compiled
def _learn(
    i: int, mu: np.ndarray, var: np.ndarray, beta2: float, precision: float, shift: float
) -> None:
    """Update skill i by what is said of its performance, whose noise dampens it."""
    heard = 1.0 + beta2 * precision
    after = 1.0 / (1.0 / var[i] + precision / heard)
    mu[i] += after * (shift - precision * mu[i]) / heard
    var[i] = after


@compiled
def _player(
    i: int, g: int, side: int, mu: np.ndarray, v: np.ndarray, precision: np.ndarray,
    shift: np.ndarray,
) -> tuple[float, float]:  # fmt: skip
    """Return mean and variance of player i, alone in group g, without the message to that side."""
    variance = 1.0 / (1.0 / v[i] + precision[1 - side, g])
    return variance * (mu[i] / v[i] + shift[1 - side, g]), variance


@compiled
def _compare(
    g: int,
    mu: np.ndarray,
    v: np.ndarray,
    start: np.ndarray,
    epsilon: float,
    precision: np.ndarray,
    shift: np.ndarray,
) -> float:
    """Send the messages of the comparison of the players of groups g and g + 1 to both of them.

    Returns the mean of the truncated difference in standard deviations of the one that the others
    expect: what is still moving while the messages have not settled.
    """
    mean_i, var_i = _player(start[g], g, LO, mu, v, precision, shift)
    mean_j, var_j = _player(start[g + 1], g + 1, HI, mu, v, precision, shift)
    c = math.sqrt(var_i + var_j)
    t, e = (mean_i - mean_j) / c, epsilon / c
    mean, kept = above(t - e)
    mean += e
    # Truncated over expected: a Gaussian message to the difference, then on to each side.
    pi = (1.0 / kept - 1.0) / (c * c)
    tau = (mean / kept - t) / c
    precision[LO, g] = pi / (1.0 + var_j * pi)
    shift[LO, g] = (tau + mean_j * pi) / (1.0 + var_j * pi)
    precision[HI, g + 1] = pi / (1.0 + var_i * pi)
    shift[HI, g + 1] = (mean_i * pi - tau) / (1.0 + var_i * pi)
    return mean


@compiled
def _group(
    g: int,
    mu: np.ndarray,
    v: np.ndarray,
    start: np.ndarray,
    epsilon: float,
    precision: np.ndarray,
    shift: np.ndarray,
    mean_of: np.ndarray,
    kept_of: np.ndarray,
) -> float:
    """Send the messages of group g, which has several players, to the groups beside it.

    Puts into mean_of and kept_of (K,) the mean of each of its players' performances and the share
    of its variance that is left. Returns what is still moving while messages have not settled.
    """
    i, j, last = start[g], start[g + 1], len(start) - 2
    beside_mean, beside_v = np.zeros(2), np.full(2, np.inf)  # by side: LO the group below
    hi_precision = hi_shift = 0.0
    if g > 0 and start[g] - start[g - 1] == 1:
        beside_mean[HI], beside_v[HI] = _player(i - 1, g - 1, LO, mu, v, precision, shift)
    elif g > 0:
        hi_precision, hi_shift = precision[HI, g], shift[HI, g]
    if g < last and start[g + 2] - j == 1:
        beside_mean[LO], beside_v[LO] = _player(j, g + 1, HI, mu, v, precision, shift)
    elif g < last:
        k = start[g + 2]
        below_mean, below_v = np.zeros(2), np.full(2, np.inf)
        if g + 1 < last and start[g + 3] - k == 1:
            below_mean[LO], below_v[LO] = _player(k, g + 2, HI, mu, v, precision, shift)
        mean, kept = _tied(mu[j:k], v[j:k], epsilon, below_mean, below_v, 0.0, 0.0)
        beside_mean[LO], beside_v[LO] = mean[-1], kept[-1]
    mean, kept = _tied(mu[i:j], v[i:j], epsilon, beside_mean, beside_v, hi_precision, hi_shift)
    n = j - i
    if g > 0 and start[g] - start[g - 1] == 1:
        precision[LO, g - 1], shift[LO, g - 1] = _message(
            beside_mean[HI], beside_v[HI], mean[n + HI], kept[n + HI]
        )
    if g < last:
        precision[HI, g + 1], shift[HI, g + 1] = _message(
            beside_mean[LO], beside_v[LO], mean[n + LO], kept[n + LO]
        )
    mean_of[i:j], kept_of[i:j] = mean[:n], kept[:n]
    return (mean[:n] / np.sqrt(v[i:j])).sum()


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
def _tied(
    m: np.ndarray,
    v: np.ndarray,
    epsilon: float,
    beside_mean: np.ndarray,
    beside_v: np.ndarray,
    hi_precision: float,
    hi_shift: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and share of variance left (n + 3,) of n performances within epsilon.

    m, v: (n,), p_k ~ N(m_k, v_k). beside_mean, beside_v: (2,), the Gaussians that lo must beat by
    epsilon (LO) and that must beat hi so (HI), or an infinite variance for nobody; they are n + LO
    and n + HI of the result. hi_precision, hi_shift: a Gaussian message to hi. The last entry of
    the result is mean and variance of hi.

    With f and F a performance's density and distribution, and G = F(y) - F(x), the density of
    lo = x and hi = y is prod G times the sum over i != j of r_i q_j, r = f(x) / G, q = f(y) / G.
    """
    n = len(m)
    beside_sd = np.sqrt(beside_v)
    centre, sd, middle, fine = _peak(m, v, epsilon, beside_mean, beside_sd, hi_precision, hi_shift)
    reach = REACH * sd + 0.5 * epsilon
    width = min(epsilon, 2.0 * reach)
    pull = (np.abs(centre - m) / v).max()  # how steep the densities are
    panels = max(1, math.ceil(width * max(0.5 / fine, pull / 8.0)))
    step = STEP * min(fine, max(width, 0.1 * fine))
    r, q, sd_k = np.empty(n), np.empty(n), np.sqrt(v)
    largest, mass = -np.inf, 0.0  # sums are relative to the largest density so far
    about = np.full(n + 3, middle)
    first, second = np.zeros(n + 3), np.zeros(n + 3)
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
        log_p = hi_shift * y - 0.5 * hi_precision * y * y
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
            mass, first, second, largest = mass * down, first * down, second * down, log_p
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
    mean = about + first / mass
    kept = second / mass - (first / mass) ** 2
    kept[:n] /= v
    kept[n : n + 2] /= beside_v
    return mean, kept


@compiled
def _peak(
    m: np.ndarray,
    v: np.ndarray,
    epsilon: float,
    beside_mean: np.ndarray,
    beside_sd: np.ndarray,
    hi_precision: float,
    hi_shift: float,
) -> tuple[float, float, float, float]:
    """Return where a group is: (centre, sd, lo's mode, the finest scale of its density).

    centre and sd: of the product of the Gaussians, which leaves the groups beside out. With them
    the logarithm of the density bends more than the product's everywhere, so that nothing is
    further from the mode than `REACH` sd; their Phi has no finer scale than their own.
    """
    total = (1.0 / v).sum() + hi_precision
    centre = ((m / v).sum() + hi_shift) / total - 0.5 * epsilon * hi_precision / total
    x = centre
    finest = total + (1.0 / beside_sd**2).sum()
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
def _inside(
    x: float, h: float, m: float, v: float, r: float, q: float
) -> tuple[float, float]:
    """Return mean and variance of N(m, v) given that it is from x to x + h."""
    if h * h < 1e-3 * v:  # the formulas below would cancel
        centre = x + 0.5 * h
        return centre + (m - centre) / v * h * h / 12.0, h * h / 12.0
    moved = v * (r - q)
    return m + moved, v * (1.0 + (x - m) * r - (x + h - m) * q) - moved * moved
