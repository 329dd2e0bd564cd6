"""The compiled sweeps of expectation propagation over one connected component after another.

Minka (2001). All votes on the same difference d = u'x are one factor. It holds one message
exp(nu d - tau d^2 / 2). With all messages in place the variables are Gaussian,

    K = P + sum tau u u',    mean m with K m = P mu + sum nu u,    variance of d: v = u' K^-1 u,

and without the factor's own message (the cavity) d has variance V = 1 / (1/v - tau) and mean
c = d - V (nu - tau d). A sweep gives every factor the message with which d has the moments that the
cavity and the votes give it, and solves for m anew: like Newton's method all factors move together,
so also a stiff graph (large counts, little noise) settles in a few sweeps. v is found in two ways:

    dense      K^-1 itself: right on any graph, O(n^3) a sweep.
    sparse     belief propagation of the precisions: O(1) a factor. Exact where the votes form a
               tree; close where cycles are long. The means are exact all the same: conjugate
               gradients solve for m.

How the arrays come to be, `propagation` says; a factor's own algebra is in `truncated_vote`.
"""

import math
from typing import NamedTuple

import numpy as np

from arena.compiled import compiled
from arena.gaps.truncated_vote import evidence as vote_evidence
from arena.gaps.truncated_vote import log_mass, log_votes, tilted

SIGNS = np.array([1.0, -1.0, 1.0, -1.0])
NOBODY = -1
# Covariances of up to this many variables are inverted here.
BY_HAND = 64
# Ordinary graphs are done in this many sweeps of whole steps. After them:
FREE = 6
# A factor whose move turns back by more than this share of its last one swings about its end: it
# takes half the step from there on, down to the shortest, and longer ones again when it is still.
SWINGS = 0.5
SHORTEST = 0.1


class Prior(NamedTuple):
    """The variables before any vote: mean and variance, (V,) each.

    share: (V,), how much of the variance is the image's own; a gap is between the own parts.
    """

    mean: np.ndarray
    variance: np.ndarray
    share: np.ndarray


class Factors(NamedTuple):
    """ends: (F, 4) variables. counts: (F, 3) votes of each kind. noise: (F,) a vote's own."""

    ends: np.ndarray
    counts: np.ndarray
    noise: np.ndarray


class Messages(NamedTuple):
    """What is kept from one sweep to the next, and from one setting of the parameters to the next.

    tau, nu: (F,) as above. precision: (F, 4) of the message to each of the factor's variables, in
    sparse components alone. mean: (V,).
    """

    tau: np.ndarray
    nu: np.ndarray
    precision: np.ndarray
    mean: np.ndarray


class Result(NamedTuple):
    """What the sweeps end in.

    variance: (V,). gap, gap_variance: (F,) of x[0] - x[1], their own parts. cavity_mean,
    cavity_variance: (F,) of d. log_z: (F,) log p(the factor's votes) in the cavity; in_noise,
    in_epsilon: (F,) its slopes.
    """

    variance: np.ndarray
    gap: np.ndarray
    gap_variance: np.ndarray
    cavity_mean: np.ndarray
    cavity_variance: np.ndarray
    log_z: np.ndarray
    in_noise: np.ndarray
    in_epsilon: np.ndarray


class Until(NamedTuple):
    """The draw margin, when to stop, and whether the evidence's slopes are wanted."""

    epsilon: float
    sweeps: int
    tolerance: float
    slopes: bool


@compiled
def _along(x: np.ndarray, ends: np.ndarray) -> float:
    """u' x."""
    d = x[ends[0]] - x[ends[1]]
    for k in (2, 3):
        if ends[k] != NOBODY:
            d += SIGNS[k] * x[ends[k]]
    return d


@compiled
def _add_along(x: np.ndarray, ends: np.ndarray, value: float) -> None:
    """x += value u."""
    for k in range(4):
        if ends[k] != NOBODY:
            x[ends[k]] += SIGNS[k] * value


@compiled
def _covariance(
    prior_variance: np.ndarray, ends: np.ndarray, tau: np.ndarray, S: np.ndarray
) -> float:
    """S = K^-1, K positive definite. Returns log det S.

    By Gauss and Jordan where calling LAPACK would take longer.
    """
    n = len(prior_variance)
    S[:] = 0.0
    for i in range(n):
        S[i, i] = 1.0 / prior_variance[i]
    for f in range(len(ends)):
        for k in range(4):
            if ends[f, k] != NOBODY:
                _add_along(S[ends[f, k]], ends[f], SIGNS[k] * tau[f])
    log_det = 0.0
    if n > BY_HAND:
        K = S.copy()
        root = np.linalg.cholesky(K)
        for i in range(n):
            log_det -= 2.0 * math.log(root[i, i])
        S[:] = np.linalg.inv(K)
        return log_det
    for k in range(n):
        pivot = S[k, k]
        log_det -= math.log(pivot)
        S[k, k] = 1.0
        for j in range(n):
            S[k, j] /= pivot
        for i in range(n):
            c = S[i, k]
            if i != k and c != 0.0:
                S[i, k] = 0.0
                for j in range(n):
                    S[i, j] -= c * S[k, j]
    return log_det


@compiled
def _pull(prior: Prior, ends: np.ndarray, to: Messages, residual: np.ndarray) -> None:
    """P (mu - m) + sum (nu - tau d) u: zero where m solves K m = P mu + sum nu u."""
    for i in range(len(residual)):
        residual[i] = (prior.mean[i] - to.mean[i]) / prior.variance[i]
    for f in range(len(ends)):
        _add_along(residual, ends[f], to.nu[f] - to.tau[f] * _along(to.mean, ends[f]))


@compiled
def _conjugate_gradients(prior: Prior, ends: np.ndarray, to: Messages, enough: float) -> None:
    """Move m to K m = P mu + sum nu u, scaled by K's diagonal.

    Until a step lowers the energy (m's squared distance in the norm of K) by no more than `enough`,
    or than 1e-6 of the largest step's.
    """
    n = len(prior.mean)
    scale, r, along, image = np.empty(n), np.empty(n), np.zeros(n), np.empty(n)
    for i in range(n):
        scale[i] = 1.0 / prior.variance[i]
    for f in range(len(ends)):
        for k in range(4):
            if ends[f, k] != NOBODY:
                scale[ends[f, k]] += to.tau[f]
    _pull(prior, ends, to, r)
    largest = last = 0.0
    for _ in range(10 * n):
        size = 0.0
        for i in range(n):
            size += r[i] * r[i] / scale[i]
        if size == 0.0:
            break
        turn = size / last if last else 0.0
        for i in range(n):
            along[i] = r[i] / scale[i] + turn * along[i]
            image[i] = along[i] / prior.variance[i]
        for f in range(len(ends)):
            _add_along(image, ends[f], to.tau[f] * _along(along, ends[f]))
        step = 0.0
        for i in range(n):
            step += along[i] * image[i]
        step = size / step
        for i in range(n):
            to.mean[i] += step * along[i]
            r[i] -= step * image[i]
        last = size
        largest = max(largest, step * size)
        if step * size <= max(enough, 1e-6 * largest):
            break


@compiled
def _solve(
    dense: bool, prior: Prior, ends: np.ndarray, to: Messages, S: np.ndarray, enough: float
) -> float:
    """Move m to where the messages put it; dense: S too. Returns log det S P, dense."""
    if not dense:
        _conjugate_gradients(prior, ends, to, enough)
        return 0.0
    n = len(prior.mean)
    log_det = _covariance(prior.variance, ends, to.tau, S)
    residual = np.empty(n)
    _pull(prior, ends, to, residual)
    for i in range(n):
        log_det -= math.log(prior.variance[i])
        move = 0.0
        for j in range(n):
            move += S[i, j] * residual[j]
        to.mean[i] += move
    return log_det


@compiled
def _cavity(
    dense: bool,
    ends: np.ndarray,
    tau: float,
    message: np.ndarray,
    S: np.ndarray,
    precision: np.ndarray,
    prior_variance: np.ndarray,
    own: np.ndarray,
) -> float:
    """Return V of one factor; sparse: own (4,) is filled with each variable's share of it."""
    total = before = 0.0
    for k in range(4):
        i = ends[k]
        if i != NOBODY:
            before += prior_variance[i]
            if dense:
                total += SIGNS[k] * _along(S[i], ends)
            else:
                own[k] = 1.0 / (precision[i] - message[k])
                total += own[k]
    # Votes only take variance away: what rounding makes of more votes than digits is held to that.
    return 1.0 / max(1.0 / total - tau, 1.0 / before) if dense else total


@compiled
def _tell(
    ends: np.ndarray, tau: float, own: np.ndarray, message: np.ndarray, precision: np.ndarray
) -> None:
    """Send each of a factor's variables its new precision: 1 / (1/tau + the others' variance)."""
    for k in range(4):
        if ends[k] != NOBODY:
            others = 0.0
            for other in range(4):
                if other != k and ends[other] != NOBODY:
                    others += own[other]
            new = tau / (1.0 + tau * others)
            precision[ends[k]] += new - message[k]
            message[k] = new


@compiled
def _precisions(prior_variance: np.ndarray, ends: np.ndarray, message: np.ndarray) -> np.ndarray:
    """The prior's and all messages' precision of each variable."""
    precision = 1.0 / prior_variance
    for f in range(len(ends)):
        for k in range(4):
            if ends[f, k] != NOBODY:
                precision[ends[f, k]] += message[f, k]
    return precision


@compiled
def _sweep_component(
    dense: bool, prior: Prior, factors: Factors, to: Messages, until: Until, S: np.ndarray
) -> tuple[int, float]:
    """Sweep one component until it stands still. Returns (sweeps, the last one's change)."""
    ends, counts, noise = factors
    precision = _precisions(prior.variance, ends, to.precision)
    own = np.zeros(4)
    was = np.empty(len(ends))
    for f in range(len(ends)):
        was[f] = _along(to.mean, ends[f])
    enough = 0.01 * until.tolerance**2
    sweeps, change = 0, np.inf
    step, last = np.ones(len(ends)), np.zeros(len(ends))
    at, settled = np.empty((len(ends), 2)), np.zeros(len(ends), np.bool_)
    while sweeps < until.sweeps and change > until.tolerance:
        _solve(dense, prior, ends, to, S, enough)
        change = 0.0
        for turn in range(len(ends)):
            # To and fro, so that a chain hears from both ends at once.
            f = turn if sweeps % 2 else len(ends) - 1 - turn
            tau, nu, d = to.tau[f], to.nu[f], _along(to.mean, ends[f])
            V = _cavity(
                dense, ends[f], tau, to.precision[f], S, precision, prior.variance, own
            )
            c = d - V * (nu - tau * d)
            near = 0.1 * until.tolerance
            if (
                settled[f]
                and (c - at[f, 0]) ** 2 < near**2 * V
                and abs(V - at[f, 1]) < near * V
                and (dense or (d - was[f]) ** 2 < near**2 * V)
            ):
                continue
            mean, variance = tilted(c, V, counts[f], until.epsilon, noise[f])
            v = V / (1.0 + tau * V)
            moved = abs(mean - d) if dense else max(abs(mean - d), abs(d - was[f]))
            moved = max(moved / math.sqrt(v), abs(variance / v - 1.0))
            change = max(change, moved)
            settled[f], was[f], at[f, 0], at[f, 1] = moved < near, d, c, V
            swings = sweeps >= FREE and (mean - d) * last[f] < -SWINGS * last[f] ** 2
            step[f] = max(0.5 * step[f], SHORTEST) if swings else min(1.2 * step[f], 1.0)
            last[f] = mean - d
            to.tau[f] += step[f] * (max(1.0 / variance - 1.0 / V, 0.0) - tau)
            to.nu[f] += step[f] * (mean / variance - c / V - nu)
            if not dense:
                _tell(ends[f], to.tau[f], own, to.precision[f], precision)
        sweeps += 1
    return sweeps, change


@compiled
def _own(x: float, mean: float, share: float) -> float:
    """The image's own part of a variable at x: regression on it."""
    return mean + share * (x - mean)


@compiled
def _read_off(
    dense: bool,
    prior: Prior,
    factors: Factors,
    to: Messages,
    until: Until,
    S: np.ndarray,
    result: Result,
) -> float:
    """Fill the result of one component. Returns log p(its votes).

    Seeger (2005): log Z = sum over factors (log Z_f - log of the message's integral in the cavity)
    + log of all messages' integral under the prior; sparse: log det by Bethe's formula.
    """
    ends, counts, noise = factors
    log_det = _solve(dense, prior, ends, to, S, 1e-4 * until.tolerance**2)
    precision = _precisions(prior.variance, ends, to.precision)
    own, total = np.zeros(4), 0.0
    for f in range(len(ends)):
        a, b, tau, nu = ends[f, 0], ends[f, 1], to.tau[f], to.nu[f]
        d = _along(to.mean, ends[f])
        V = _cavity(dense, ends[f], tau, to.precision[f], S, precision, prior.variance, own)
        c = d - V * (nu - tau * d)
        shrunk = tau / (1.0 + tau * V)
        if dense:
            var_a, var_b, both = S[a, a], S[b, b], S[a, b]
        else:
            var_a, var_b = own[0] * (1.0 - own[0] * shrunk), own[1] * (1.0 - own[1] * shrunk)
            both = own[0] * own[1] * shrunk
            log_det -= math.log(1.0 + tau * V)
            for k in range(4):
                if ends[f, k] != NOBODY:
                    log_det += math.log(own[k] * precision[ends[f, k]])
        if until.slopes:
            result.log_z[f], result.in_noise[f], result.in_epsilon[f] = vote_evidence(
                c, V, counts[f], until.epsilon, noise[f]
            )
        else:
            result.log_z[f] = log_votes(c, V, counts[f], until.epsilon, noise[f])
        total += result.log_z[f] - log_mass(c, V, tau, nu) + 0.5 * nu * d
        s, t = prior.share[a], prior.share[b]
        result.cavity_mean[f], result.cavity_variance[f] = c, V
        result.gap[f] = _own(to.mean[a], prior.mean[a], s) - _own(to.mean[b], prior.mean[b], t)
        rest = s * (1.0 - s) * prior.variance[a] + t * (1.0 - t) * prior.variance[b]
        result.gap_variance[f] = s * s * var_a + t * t * var_b - 2.0 * s * t * both + rest
    for i in range(len(prior.mean)):
        mean, variance = prior.mean[i], prior.variance[i]
        total += 0.5 * (to.mean[i] - mean) * mean / variance
        result.variance[i] = S[i, i] if dense else 1.0 / precision[i]
        if not dense:
            log_det -= math.log(variance * precision[i])
    return total + 0.5 * log_det


@compiled
def sweep_components(
    start: int,
    stop: int,
    variable_start: np.ndarray,
    factor_start: np.ndarray,
    dense: np.ndarray,
    prior: Prior,
    factors: Factors,
    messages: Messages,
    until: Until,
    result: Result,
) -> tuple[float, int, float]:
    """Sweep the components from start up to stop. Returns (evidence, sweeps, largest change)."""
    evidence, sweeps, change = 0.0, 0, 0.0
    largest = 0
    for c in range(start, stop):
        if dense[c]:
            largest = max(largest, variable_start[c + 1] - variable_start[c])
    covariance = np.empty((largest, largest))
    for c in range(start, stop):
        first, n = variable_start[c], variable_start[c + 1] - variable_start[c]
        x = slice(first, first + n)
        y = slice(factor_start[c], factor_start[c + 1])
        ends = factors.ends[y].copy()
        for f in range(len(ends)):
            for k in range(4):
                if ends[f, k] != NOBODY:
                    ends[f, k] -= first
        S = covariance[:n, :n]
        a = Prior(prior.mean[x], prior.variance[x], prior.share[x])
        b = Factors(ends, factors.counts[y], factors.noise[y])
        to = Messages(
            messages.tau[y], messages.nu[y], messages.precision[y], messages.mean[x]
        )
        out = Result(
            result.variance[x],
            result.gap[y],
            result.gap_variance[y],
            result.cavity_mean[y],
            result.cavity_variance[y],
            result.log_z[y],
            result.in_noise[y],
            result.in_epsilon[y],
        )
        s, moved = _sweep_component(dense[c], a, b, to, until, S)
        evidence += _read_off(dense[c], a, b, to, until, S, out)
        sweeps = max(sweeps, s)
        change = max(change, moved)
    return evidence, sweeps, change
