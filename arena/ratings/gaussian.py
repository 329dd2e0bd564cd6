"""The Gaussian functions of the method, exact in both tails.

Everything is compiled, takes and returns float64 scalars, allocates nothing and holds no lock, so
the traversals of `trueskill` and `joint` call it a hundred million times. phi and Phi are the
standard normal density and distribution. In the tail the ratio phi / Phi is never formed from its
parts (both underflow): it is sqrt(2/pi) / erfcx, the scaled complementary error function.

Two truncations of d ~ N(z, 1) carry all of the inference:
    strict   d > 0            lambda(z) = phi(z) / Phi(z), `v_w_strict`, `above`
    draw     |d| <= e         `v_w_draw`, `between`
v is the shift of the mean and w the share of the variance that the truncation removes (Herbrich
et al., 2006, equations 3 to 6). `above` and `between` give mean and variance themselves where
1 - w would cancel.
"""

import math
from statistics import NormalDist

import numpy as np

from arena.compiled import compiled

SQRT_2 = math.sqrt(2.0)
SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)
SQRT_PI_OVER_2 = math.sqrt(math.pi / 2.0)
INVERSE_SQRT_PI = 1.0 / math.sqrt(math.pi)
INVERSE_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)

# Below this z the strict truncation's moments come from the continued fraction: there
# lambda(z) + z and 1 - w lose digits as z^2 and z^4.
TAIL = -4.0
# Narrower draws than this (in standard deviations) lose the difference of two Mills ratios.
NARROW = 1e-3


@compiled
def erfcx(x: float) -> float:
    """Return exp(x^2) erfc(x); infinity below about -26.6, where it overflows."""
    if x < -26.7:
        return np.inf
    if x < 25.0:
        return _exp_square(abs(x), 1.0) * math.erfc(x)
    # erfc would underflow; seven terms of the asymptotic series are exact from here.
    s = 0.5 / (x * x)
    series = 1.0 - 7.0 * s * (1.0 - 9.0 * s * (1.0 - 11.0 * s))
    series = 1.0 - s * (1.0 - 3.0 * s * (1.0 - 5.0 * s * series))
    return INVERSE_SQRT_PI / x * series


@compiled
def _exp_square(y: float, factor: float) -> float:
    """exp(factor y^2) with y^2 split in an exact square and a small rest.

    exp(factor * y * y) alone would cost y^2 units in the last place.
    """
    head = math.floor(y * 16.0) / 16.0
    return math.exp(factor * head * head) * math.exp(factor * (y - head) * (y + head))


@compiled
def phi(x: float) -> float:
    """Return the standard normal density."""
    return INVERSE_SQRT_2PI * _exp_square(abs(x), -0.5)


@compiled
def Phi(x: float) -> float:
    """Return the standard normal distribution function, to full relative accuracy for x < 0."""
    if x > -1.0:
        return 0.5 * math.erfc(-x / SQRT_2)
    return 0.5 * erfcx(-x / SQRT_2) * _exp_square(-x, -0.5)


@compiled
def log_Phi(x: float) -> float:
    """Return log Phi(x), finite for every finite x."""
    if x < -1.0:
        return math.log(0.5 * erfcx(-x / SQRT_2)) - 0.5 * x * x
    return math.log1p(-Phi(-x))


@compiled
def mills(x: float) -> float:
    """Return Mills' ratio (1 - Phi(x)) / phi(x); infinity where it overflows (x < -37.7)."""
    if x < -1.0:
        return Phi(-x) / phi(x)
    return SQRT_PI_OVER_2 * erfcx(x / SQRT_2)


@compiled
def lambda_(z: float) -> float:
    """Return lambda(z) = phi(z) / Phi(z)."""
    if z <= 0.0:
        return SQRT_2_OVER_PI / erfcx(-z / SQRT_2)
    # Here Phi is above 1/2 and neither part underflows before the ratio does.
    bell = _exp_square(z, -0.5)
    return INVERSE_SQRT_2PI * bell / (1.0 - 0.5 * erfcx(z / SQRT_2) * bell)


@compiled
def above(z: float) -> tuple[float, float]:
    """Return mean and variance of d ~ N(z, 1) given d > 0, to full relative accuracy.

    With x = -z > 0 Laplace's continued fraction of Mills' ratio gives lambda = x + m, where
    m = 1 / (x + k) is the mean and k = 2 / (x + 3 / (x + ...)); then
    1 - lambda (lambda - x) = m (k - m), which does not cancel.
    """
    if z >= TAIL:
        shift = lambda_(z)
        return z + shift, 1.0 - shift * (shift + z)
    x = -z
    k = x
    for n in range(40, 1, -1):
        k = n / (x + k) if n < 40 else n / x
    m = 1.0 / (x + k)
    return m, m * (k - m)


def lambda_coefficients(low: float, high: float, step: float, terms: int) -> np.ndarray:
    """Return Taylor's coefficients (points, terms) of lambda at every step from low to high.

    By the recurrence that lambda' = -lambda (lambda + z) gives.
    """
    z = np.arange(round((high - low) / step) + 1) * step + low
    y = np.abs(z) / SQRT_2
    head = np.floor(y * 16.0) / 16.0  # as in `_exp_square`
    tail = np.array([math.erfc(x) for x in y])
    scaled = np.exp(head * head) * np.exp((y - head) * (y + head)) * tail
    bell = INVERSE_SQRT_2PI * np.exp(-0.5 * z * z)  # z^2 is exact
    c = np.zeros((len(z), terms))
    c[:, 0] = np.where(z < 0.0, SQRT_2_OVER_PI / scaled, bell / (1.0 - 0.5 * tail))
    for n in range(terms - 1):
        square = sum(c[:, k] * c[:, n - k] for k in range(n + 1))
        c[:, n + 1] = -(square + z * c[:, n] + (c[:, n - 1] if n else 0.0)) / (n + 1)
    return c


# Almost every vote is within this range: seven multiplications there take half the time of the
# exponentials and divisions of `lambda_`, to the same digits.
_LOW, _HIGH, _STEP = TAIL, 6.0, 1.0 / 64.0
_LAMBDA = lambda_coefficients(_LOW, _HIGH, _STEP, 8)


@compiled
def _v_w_far(x: float) -> tuple[float, float]:
    if x < _LOW:
        m, variance = above(x)
        return m - x, 1.0 - variance
    v = lambda_(x)
    return v, v * (v + x)


@compiled
def v_w_strict(x: float) -> tuple[float, float]:
    """Return v = phi(x) / Phi(x) and w = v (v + x) of a win at x = t - e.

    v is the shift of the mean and w, in (0, 1), the share of variance that the win removes.
    """
    if not _LOW <= x < _HIGH:
        return _v_w_far(x)
    k = int((x - _LOW) / _STEP + 0.5)
    d = x - (k * _STEP + _LOW)
    c = _LAMBDA[k]
    v = c[4] + d * (c[5] + d * (c[6] + d * c[7]))
    v = c[0] + d * (c[1] + d * (c[2] + d * (c[3] + d * v)))
    return v, v * (v + x)


@compiled
def v_w_draw(t: float, e: float) -> tuple[float, float]:
    """Return (v, w) of a draw: d ~ N(t, 1) truncated to |d| <= e, e > 0.

    With T = |t|, q = exp(-2 e T) and D = mills(T - e) - q mills(T + e) (that is
    (Phi(a) - Phi(b)) / phi(a) for a = e - T, b = -e - T):
        v = -sign(t) (1 - q) / D,   w = v^2 + (e (1 + q) - T (1 - q)) / D.
    """
    if e < NARROW:
        mean, variance = between(t, e)
        return mean - t, 1.0 - variance
    far = abs(t)
    lost = -math.expm1(-2.0 * e * far)  # 1 - q
    kept = 1.0 - lost
    inside = mills(far - e) - kept * mills(far + e)
    v = lost / inside
    w = v * v + (e * (1.0 + kept) - far * lost) / inside
    w = min(max(w, 0.0), 1.0)
    return (-v if t > 0.0 else v), w


# Gauss-Legendre on [-1, 1]: 16 nodes are exact to 1e-16 over a panel of one standard deviation.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)


@compiled
def _moments(t: float, e: float) -> tuple[float, float, float, float, float]:
    """Return log P(|d| <= e) and the moments of d ~ N(t, 1) given |d| <= e.

    These are the mean and variance of |d|, then those of d itself. Folded onto x = |d| the density
    is f(x) = exp(-(x - |t|)^2 / 2) (1 + q), q = exp(-2 x |t|), a share 1 / (1 + q) of it from the
    side of t. So E[d] = sign(t) E[x (1 - q) / (1 + q)], and every term of every sum is positive:
    nothing cancels, however narrow or far the interval is. The sums are over Gauss-Legendre panels
    around the peak of f inside the interval.
    """
    far = abs(t)
    peak = min(far, e)
    steep = max(1.0, far - peak)
    reach = min(9.0, 40.0 / steep)
    low = max(0.0, peak - reach)
    high = min(e, peak + reach)
    panels = max(1, math.ceil((high - low) * steep))
    width = (high - low) / panels
    mass = mean = signed = 0.0
    square = signed_square = 0.0  # about the peak, which is near enough to either mean
    for k in range(16 * panels):
        x = low + width * (k // 16 + 0.5 * (1.0 + _NODES[k % 16]))
        q = math.exp(-2.0 * x * far)
        # (x - far)^2 - (peak - far)^2, factored
        density = math.exp(-0.5 * (x - peak) * (x + peak - 2.0 * far))
        near = 0.5 * width * _WEIGHTS[k % 16] * density
        both = near * (1.0 + q)
        mass += both
        mean += both * x
        signed -= near * x * math.expm1(-2.0 * x * far)
        square += both * (x - peak) ** 2
        signed_square += near * ((x - peak) ** 2 + q * (x + peak) ** 2)
    mean /= mass
    signed /= mass
    variance = square / mass - (mean - peak) ** 2
    signed_variance = signed_square / mass - (signed - peak) ** 2
    log_mass = math.log(mass * INVERSE_SQRT_2PI) - 0.5 * (peak - far) ** 2
    return log_mass, mean, variance, -signed if t < 0.0 else signed, signed_variance


@compiled
def between(t: float, e: float) -> tuple[float, float]:
    """Return mean and variance of d ~ N(t, 1) given |d| <= e, to full relative accuracy."""
    _, _, _, mean, variance = _moments(t, e)
    return mean, variance


@compiled
def absolute_between(t: float, e: float) -> tuple[float, float]:
    """Return mean and variance of |d|, d ~ N(t, 1), given |d| <= e, to full relative accuracy."""
    _, mean, variance, _, _ = _moments(t, e)
    return mean, variance


@compiled
def log_between(t: float, e: float) -> float:
    """Return log P(|d| <= e) for d ~ N(t, 1)."""
    return _moments(t, e)[0]


def draw_margin(draw_probability: float, beta: float) -> float:
    """Return epsilon = Phi^-1((p + 1) / 2) sqrt(2) beta: two equals draw with probability p.

    Infinite for p = 1. (scipy's quantile is as exact, but takes a tenth of a second to import.)
    """
    p = (draw_probability + 1.0) / 2.0
    return NormalDist().inv_cdf(p) * SQRT_2 * beta if p < 1.0 else math.inf


def draw_probability(epsilon: float, beta: float) -> float:
    """Return how often two equals draw: the inverse of `draw_margin`."""
    return math.erf(epsilon / (2.0 * beta))
