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
from typing import NamedTuple

import numpy as np

from arena.compiled import compiled
from arena.ratings.comparisons import A_WINS, TIE
from arena.ratings.gaussian import above
from arena.ratings.tied_group import HI, LO, nobody, tied

# A sweep gains two digits or more; the truncations are log-concave, so they do not wander.
MOST_SWEEPS = 100
SETTLED = 1e-12  # change of a difference, in its own standard deviations


class Chain(NamedTuple):
    """The groups of a K-wise vote, best first, and the messages between them.

    mu, v: (K,), each player's performance before the vote. start: (G + 1,), each group's first
    player. precision, shift: (2, G), what the comparison with the next group says of lo (LO), and
    that with the one before of hi (HI), as a Gaussian's precision and precision times mean. mean,
    kept: (K,), of a group of several the players' means after it, and the share of their variance
    that is left.
    """

    mu: np.ndarray
    v: np.ndarray
    start: np.ndarray
    epsilon: float
    precision: np.ndarray
    shift: np.ndarray
    mean: np.ndarray
    kept: np.ndarray


@compiled
def standing(a: np.ndarray, b: np.ndarray, outcome: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
    share, size, g = won, np.zeros(k, np.int64), -1
    for i in range(k):  # best first, by insertion: compiling numpy's sort would take two seconds
        model, mine, j = found[i], won[i] / met[i], i
        while j > 0 and share[j - 1] < mine:
            found[j], share[j] = found[j - 1], share[j - 1]
            j -= 1
        found[j], share[j] = model, mine
    for i in range(k):
        if i == 0 or share[i] != share[i - 1]:
            g += 1
        size[g] += 1
    return found[:k], size[: g + 1]


@compiled
def free_for_all(
    mu: np.ndarray, var: np.ndarray, size: np.ndarray, beta2: float, epsilon: float
) -> None:
    """Update mu and var (K,), best first, in place; var already holds tau^2.

    size: (G,), how many players each rank has; they add up to K. Every truncation is kept as its
    share of variance, which does not cancel for upsets of 40 sigma.
    """
    last, k = len(size) - 1, len(mu)
    start = np.zeros(last + 2, np.int64)
    precision, shift = np.zeros((2, last + 1)), np.zeros((2, last + 1))
    one = Chain(mu.copy(), var + beta2, start, epsilon, precision, shift, np.empty(k), np.empty(k))
    # The factors: groups of several, and comparisons of two single players.
    factor, end = np.empty(len(size), np.int64), -1
    known = np.empty(len(size))
    for g in range(last + 1):
        start[g + 1] = start[g] + size[g]
        if size[g] > 1 or (g < last and size[g + 1] == 1):
            end += 1
            factor[end], known[end] = g, np.inf
    for _ in range(MOST_SWEEPS):
        change = 0.0
        for step in range(max(1, 2 * end)):  # down the chain, and up again from the last but one
            f = step if step <= end else 2 * end - step
            seen = _group(factor[f], one) if size[factor[f]] > 1 else _compare(factor[f], one)
            change = max(change, abs(seen - known[f]))
            known[f] = seen
        if change < SETTLED or end < 1:
            break
    for g in range(last + 1):
        for i in range(start[g], start[g + 1]):
            said, heard = precision[LO, g] + precision[HI, g], shift[LO, g] + shift[HI, g]
            if size[g] > 1:
                said, heard = _message(one.mu[i], one.v[i], one.mean[i], one.kept[i])
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
def _player(g: int, side: int, one: Chain) -> tuple[float, float]:
    """Return mean and variance of the only player of group g, without the message to that side."""
    i = one.start[g]
    variance = 1.0 / (1.0 / one.v[i] + one.precision[1 - side, g])
    return variance * (one.mu[i] / one.v[i] + one.shift[1 - side, g]), variance


@compiled
def _compare(g: int, one: Chain) -> float:
    """Send the messages of the comparison of the players of groups g and g + 1 to both of them.

    Returns the mean of the truncated difference in standard deviations of the one that the others
    expect: what is still moving while the messages have not settled.
    """
    mean_i, var_i = _player(g, LO, one)
    mean_j, var_j = _player(g + 1, HI, one)
    c = math.sqrt(var_i + var_j)
    t, e = (mean_i - mean_j) / c, one.epsilon / c
    mean, kept = above(t - e)
    mean += e
    # Truncated over expected: a Gaussian message to the difference, then on to each side.
    pi = (1.0 / kept - 1.0) / (c * c)
    tau = (mean / kept - t) / c
    one.precision[LO, g] = pi / (1.0 + var_j * pi)
    one.shift[LO, g] = (tau + mean_j * pi) / (1.0 + var_j * pi)
    one.precision[HI, g + 1] = pi / (1.0 + var_i * pi)
    one.shift[HI, g + 1] = (mean_i * pi - tau) / (1.0 + var_i * pi)
    return mean


@compiled
def _group(g: int, one: Chain) -> float:
    """Send the messages of group g, which has several players, to the groups beside it.

    Fills `mean` and `kept` of its players. Returns what is still moving while messages have not
    settled.
    """
    start, last = one.start, len(one.start) - 2
    i, j = start[g], start[g + 1]
    beside, said = nobody(), (0.0, 0.0)
    if g > 0 and i - start[g - 1] == 1:
        beside[HI] = _player(g - 1, LO, one)
    elif g > 0:
        said = one.precision[HI, g], one.shift[HI, g]
    if g < last and start[g + 2] - j == 1:
        beside[LO] = _player(g + 1, HI, one)
    elif g < last:
        below, under = start[g + 2], nobody()
        if g + 1 < last and start[g + 3] - below == 1:
            under[LO] = _player(g + 2, HI, one)
        mean, kept = tied(one.mu[j:below], one.v[j:below], one.epsilon, under, (0.0, 0.0))
        beside[LO] = mean[-1], kept[-1]
    mean, kept = tied(one.mu[i:j], one.v[i:j], one.epsilon, beside, said)
    n = j - i
    if g > 0 and i - start[g - 1] == 1:
        one.precision[LO, g - 1], one.shift[LO, g - 1] = _message(
            beside[HI, 0], beside[HI, 1], mean[n + HI], kept[n + HI]
        )
    if g < last:
        one.precision[HI, g + 1], one.shift[HI, g + 1] = _message(
            beside[LO, 0], beside[LO, 1], mean[n + LO], kept[n + LO]
        )
    moved = 0.0
    for k in range(n):
        one.mean[i + k], one.kept[i + k] = mean[k], kept[k]
        moved += mean[k] / math.sqrt(one.v[i + k])
    return moved
