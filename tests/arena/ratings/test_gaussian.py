"""The Gaussian functions against eighty digits of mpmath, in both tails."""

import math

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arena.ratings import gaussian

TAILS = [-40.0, -37.6, -26.7, -9.0, -4.01, -3.99, -1.0, -0.66, -1e-9]
TAILS += [0.0, 0.1, 0.7, 4.0, 12.0, 40.0]
MARGINS = [1e-12, 1e-6, 9.9e-4, 1.01e-3, 0.02, 0.3, 1.0, 5.0, 39.0, 41.0, 90.0]

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(autouse=True)
def eighty_digits():
    with mp.workdps(80):
        yield


def relative(found, exact):
    """Return the relative error, 0 where what is exact is below the smallest normal double."""
    if found < 1e-307 > abs(exact):
        return 0.0
    return float(abs(mp.mpf(found) - exact) / abs(exact)) if exact else abs(found)


def strict(z):
    """Return (lambda, mean, variance) of d ~ N(z, 1) given d > 0."""
    z = mp.mpf(z)
    ratio = mp.npdf(z) / mp.ncdf(z)
    return ratio, z + ratio, 1 - ratio * (ratio + z)


def draw(t, e):
    """Return (P, mean, variance, mean of |d|, its variance) of d ~ N(t, 1) given |d| <= e."""
    if t > 0.0:  # both erfc below would be 2 but for the last of eighty digits
        mass, mean, *rest = draw(-t, e)
        return mass, -mean, *rest
    t, e = mp.mpf(t), mp.mpf(e)

    def part(low, high):
        """Return the mass and the first moment of d between low and high."""
        mass = (mp.erfc((low - t) / mp.sqrt(2)) - mp.erfc((high - t) / mp.sqrt(2))) / 2
        return mass, t * mass + mp.npdf(low - t) - mp.npdf(high - t)

    (left, minus), (right, plus) = part(-e, mp.mpf(0)), part(mp.mpf(0), e)
    mass = left + right
    ends = (e - t) * mp.npdf(e - t) + (e + t) * mp.npdf(e + t)
    square = t**2 + 1 + (2 * t * (mp.npdf(e + t) - mp.npdf(e - t)) - ends) / mass
    mean, absolute = (minus + plus) / mass, (plus - minus) / mass
    return mass, mean, square - mean**2, absolute, square - absolute**2


@pytest.mark.parametrize("z", TAILS)
def test_strict_truncation_is_exact_in_both_tails(z):
    ratio, mean, variance = strict(z)
    assert relative(gaussian.lambda_(z), ratio) < 2e-15
    assert relative(gaussian.above(z)[0], mean) < 2e-14
    assert relative(gaussian.above(z)[1], variance) < 2e-13
    v, w = gaussian.v_w_strict(z)
    assert relative(v, ratio) < 2e-15
    assert relative(w, ratio * (ratio + mp.mpf(z))) < 1e-13


@pytest.mark.parametrize("z", TAILS)
def test_distribution_functions_are_exact_in_both_tails(z):
    x = mp.mpf(z)
    assert relative(gaussian.Phi(z), mp.ncdf(x)) < 3e-15
    assert relative(gaussian.log_Phi(z), mp.log(mp.ncdf(x))) < 3e-15
    exact = mp.exp(x**2) * mp.erfc(x)
    infinite = exact > mp.mpf(10) ** 308
    assert gaussian.erfcx(z) == math.inf if infinite else relative(gaussian.erfcx(z), exact) < 2e-15
    if z > -37.0:
        assert relative(gaussian.mills(z), mp.ncdf(-x) / mp.npdf(x)) < 3e-15


@pytest.mark.parametrize("e", MARGINS)
@pytest.mark.parametrize("t", TAILS)
def test_draw_truncation_is_exact_for_narrow_and_far_margins(t, e):
    mass, mean, variance, absolute, absolute_variance = draw(t, e)
    found = gaussian.between(t, e)
    assert relative(found[0], mean) < 1e-14
    assert relative(found[1], variance) < 1e-12
    found = gaussian.absolute_between(t, e)
    assert relative(found[0], absolute) < 1e-14
    assert relative(found[1], absolute_variance) < 1e-12
    # The floor: where P is one to sixteen digits, its log is that much of rounding.
    assert abs(gaussian.log_between(t, e) - float(mp.log(mass))) < 1e-14 * max(1, -mp.log(mass))
    v, w = gaussian.v_w_draw(t, e)
    assert abs(v - float(mean - t)) < 1e-12 * max(1e-3, abs(mean - t))
    assert abs(w - float(1 - variance)) < 1e-11


@given(st.floats(-1e4, 1e4))
def test_a_win_never_widens_and_never_ends_below_zero(x):
    v, w = gaussian.v_w_strict(x)
    mean, variance = gaussian.above(x)
    assert 0.0 <= v < math.inf
    assert 0.0 <= w <= 1.0
    assert mean > 0.0
    assert 0.0 < variance <= 1.0


@given(st.floats(-1e4, 1e4), st.floats(1e-9, 1e4))
def test_a_draw_stays_within_its_margin_and_mirrors(t, e):
    mean, variance = gaussian.between(t, e)
    assert -e <= mean <= e
    assert mean * t >= 0.0
    assert 0.0 < variance <= 1.0 + 1e-12
    assert variance <= e * e * (1.0 + 1e-12)
    assert gaussian.between(-t, e) == (-mean, variance)
    absolute, _ = gaussian.absolute_between(t, e)
    assert abs(mean) <= absolute * (1.0 + 1e-12) <= e * (1.0 + 2e-12)
    v, w = gaussian.v_w_draw(t, e)
    assert v * t <= 0.0
    assert 0.0 <= w <= 1.0
    assert gaussian.v_w_draw(-t, e) == (-v, w)


@given(st.floats(-38.0, 39.0), st.floats(1e-6, 1.0))
def test_a_better_model_wins_with_a_larger_gap_and_a_smaller_surprise(z, step):
    assert gaussian.above(z + step)[0] > gaussian.above(z)[0]
    assert gaussian.lambda_(z + step) <= gaussian.lambda_(z)
    assert gaussian.log_Phi(z + step) >= gaussian.log_Phi(z)


@pytest.mark.parametrize("p", [0.0, 1e-9, 0.1, 0.9, 1.0 - 1e-9])
def test_draw_margin_and_probability_are_inverses(p):
    epsilon = gaussian.draw_margin(p, 4.0)
    assert relative(1.0 - 2.0 * gaussian.Phi(-epsilon / math.sqrt(32.0)), mp.mpf(p)) < 1e-7
    assert gaussian.draw_probability(epsilon, 4.0) == pytest.approx(p, rel=1e-12)


def test_compiled_functions_serve_a_compiled_loop():
    """The traversals call them so, and a compiled caller meets the same numbers."""

    @gaussian.compiled
    def many(z):
        out = np.empty(len(z))
        for k in range(len(z)):
            out[k] = gaussian.lambda_(z[k])
        return out

    z = np.linspace(-40.0, 40.0, 17)
    assert many(z).tolist() == [gaussian.lambda_(x) for x in z]
