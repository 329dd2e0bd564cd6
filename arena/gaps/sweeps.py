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

`solving` has K, m and the arrays; a factor's own algebra is in `truncated_vote`.
"""

import math
from typing import NamedTuple

import numpy as np

from arena.compiled import compiled
from arena.gaps.solving import NOBODY, NU, SIGNS, TAU, TOLD, Component, along, solve
from arena.gaps.truncated_vote import Factor, log_mass, log_votes_and_slopes, tilted

# Ordinary graphs are done in this many sweeps of whole steps. After them:
FREE = 6
# A factor whose move turns back by more than this share of its last one swings about its end: it
# takes half the step from there on, down to the shortest, and longer ones again when it is still.
SWINGS = 0.5
SHORTEST = 0.1


class Result(NamedTuple):
    """What the sweeps end in, (F,) each, the columns of `result` below.

    gap, gap_variance: of x[0] - x[1], their own parts. cavity_mean, cavity_variance: of d. log_z:
    log p(the factor's votes) in the cavity; in_noise, in_epsilon: its slopes.
    """

    gap: np.ndarray
    gap_variance: np.ndarray
    cavity_mean: np.ndarray
    cavity_variance: np.ndarray
    log_z: np.ndarray
    in_noise: np.ndarray
    in_epsilon: np.ndarray


class Until(NamedTuple):
    """The draw margin, and when to stop."""

    epsilon: float
    sweeps: int
    tolerance: float


@compiled
def _cavity(one: Component, f: int, S: np.ndarray, precision: np.ndarray, own: np.ndarray) -> float:
    """Return V of one factor; sparse: own (4,) is filled with each variable's share of it."""
    total = before = 0.0
    ends, message = one.ends[f], one.message[f]
    for k in range(4):
        i = ends[k]
        if i != NOBODY:
            before += one.prior[i, 1]
            if one.dense:
                total += SIGNS[k] * along(S[i], ends)
            else:
                own[k] = 1.0 / (precision[i] - message[TOLD + k])
                total += own[k]
    # Votes only take variance away: what rounding makes of more votes than digits is held to that.
    return 1.0 / max(1.0 / total - message[TAU], 1.0 / before) if one.dense else total


@compiled
def _tell(ends: np.ndarray, own: np.ndarray, message: np.ndarray, precision: np.ndarray) -> None:
    """Send each of a factor's variables its new precision: 1 / (1/tau + the others' variance)."""
    for k in range(4):
        if ends[k] != NOBODY:
            others = 0.0
            for other in range(4):
                if other != k and ends[other] != NOBODY:
                    others += own[other]
            new = message[TAU] / (1.0 + message[TAU] * others)
            precision[ends[k]] += new - message[TOLD + k]
            message[TOLD + k] = new


@compiled
def _precisions(one: Component) -> np.ndarray:
    """The prior's and all messages' precision of each variable."""
    precision = np.empty(len(one.prior))
    for i in range(len(one.prior)):
        precision[i] = 1.0 / one.prior[i, 1]
    for f in range(len(one.ends)):
        for k in range(4):
            if one.ends[f, k] != NOBODY:
                precision[one.ends[f, k]] += one.message[f, TOLD + k]
    return precision


@compiled
def _sweep(one: Component, until: Until, S: np.ndarray) -> tuple[int, float]:
    """Sweep one component until it stands still. Returns (sweeps, the last one's change)."""
    precision, own = _precisions(one), np.zeros(4)
    # Of each factor: d after the last sweep, the length of a step, the last move, and the cavity's
    # mean and variance with which it moved next to nothing (variance 0: it moved).
    was, step, last, at = 0, 1, 2, 3
    kept = np.zeros((len(one.ends), 5))
    for f in range(len(one.ends)):
        kept[f, was], kept[f, step] = along(one.mean, one.ends[f]), 1.0
    near = 0.1 * until.tolerance
    sweeps, change = 0, np.inf
    while sweeps < until.sweeps and change > until.tolerance:
        solve(one, S, near**2)
        change = 0.0
        for turn in range(len(one.ends)):
            # To and fro, so that a chain hears from both ends at once.
            f = turn if sweeps % 2 else len(one.ends) - 1 - turn
            to, of = one.message[f], kept[f]
            tau, nu, d = to[TAU], to[NU], along(one.mean, one.ends[f])
            V = _cavity(one, f, S, precision, own)
            c = d - V * (nu - tau * d)
            drift = 0.0 if one.dense else abs(d - of[was])
            if (
                (c - of[at]) ** 2 < near**2 * V
                and abs(V - of[at + 1]) < near * V
                and drift**2 < near**2 * V
            ):
                continue
            after, variance = tilted(Factor(c, V, one.votes[f], until.epsilon, one.noise[f]))
            v = V / (1.0 + tau * V)
            moved = max(max(abs(after - d), drift) / math.sqrt(v), abs(variance / v - 1.0))
            change = max(change, moved)
            of[was], of[at], of[at + 1] = d, c, V if moved < near else 0.0
            swings = sweeps >= FREE and (after - d) * of[last] < -SWINGS * of[last] ** 2
            of[step] = max(0.5 * of[step], SHORTEST) if swings else min(1.2 * of[step], 1.0)
            of[last] = after - d
            to[TAU] += of[step] * (max(1.0 / variance - 1.0 / V, 0.0) - tau)
            to[NU] += of[step] * (after / variance - c / V - nu)
            if not one.dense:
                _tell(one.ends[f], own, to, precision)
        sweeps += 1
    return sweeps, change


@compiled
def _own(x: float, prior: np.ndarray) -> float:
    """The image's own part of a variable at x: regression on it."""
    return prior[0] + prior[2] * (x - prior[0])


@compiled
def _read_off(
    one: Component, until: Until, S: np.ndarray, result: np.ndarray, spread: np.ndarray
) -> float:
    """Fill result (F, 7) and the variables' variances (V,). Returns log p(its votes).

    Seeger (2005): log Z = sum over factors (log Z_f - log of the message's integral in the cavity)
    + log of all messages' integral under the prior; sparse: log det by Bethe's formula.
    """
    log_det = solve(one, S, 1e-4 * until.tolerance**2)
    precision, own, total = _precisions(one), np.zeros(4), 0.0
    prior, mean, ends, message = one.prior, one.mean, one.ends, one.message
    for f in range(len(ends)):
        a, b, tau, nu = ends[f, 0], ends[f, 1], message[f, TAU], message[f, NU]
        d = along(mean, ends[f])
        V = _cavity(one, f, S, precision, own)
        c = d - V * (nu - tau * d)
        if one.dense:
            var_a, var_b, both = S[a, a], S[b, b], S[a, b]
        else:
            shrunk = tau / (1.0 + tau * V)
            var_a, var_b = own[0] * (1.0 - own[0] * shrunk), own[1] * (1.0 - own[1] * shrunk)
            both = own[0] * own[1] * shrunk
            log_det -= math.log(1.0 + tau * V)
            for k in range(4):
                if ends[f, k] != NOBODY:
                    log_det += math.log(own[k] * precision[ends[f, k]])
        log_z, in_noise, in_epsilon = log_votes_and_slopes(
            Factor(c, V, one.votes[f], until.epsilon, one.noise[f])
        )
        total += log_z - log_mass(c, V, tau, nu) + 0.5 * nu * d
        s, t = prior[a, 2], prior[b, 2]
        rest = s * (1.0 - s) * prior[a, 1] + t * (1.0 - t) * prior[b, 1]
        found = result[f]
        found[0] = _own(mean[a], prior[a]) - _own(mean[b], prior[b])
        found[1] = s * s * var_a + t * t * var_b - 2.0 * s * t * both + rest
        found[2], found[3], found[4], found[5], found[6] = c, V, log_z, in_noise, in_epsilon
    for i in range(len(prior)):
        total += 0.5 * (mean[i] - prior[i, 0]) * prior[i, 0] / prior[i, 1]
        spread[i] = S[i, i] if one.dense else 1.0 / precision[i]
        if not one.dense:
            log_det -= math.log(prior[i, 1] * precision[i])
    return total + 0.5 * log_det


@compiled
def sweep_components(
    start: int,
    stop: int,
    begins: np.ndarray,
    dense: np.ndarray,
    every: Component,
    until: Until,
    result: np.ndarray,
    spread: np.ndarray,
) -> tuple[float, int, float]:
    """Sweep the components from start up to stop. Returns (evidence, sweeps, largest change).

    begins: (C + 1, 2) int64, the first variable and the first factor of each component.
    """
    evidence, sweeps, change, largest = 0.0, 0, 0.0, 0
    for c in range(start, stop):
        if dense[c]:
            largest = max(largest, begins[c + 1, 0] - begins[c, 0])
    S = np.empty((largest, largest))
    for c in range(start, stop):
        x, y = slice(begins[c, 0], begins[c + 1, 0]), slice(begins[c, 1], begins[c + 1, 1])
        one = Component(
            dense[c],
            every.prior[x],
            every.mean[x],
            every.ends[y],
            every.votes[y],
            every.noise[y],
            every.message[y],
        )
        s, moved = _sweep(one, until, S)
        evidence += _read_off(one, until, S, result[y], spread[x])
        sweeps, change = max(sweeps, s), max(change, moved)
    return evidence, sweeps, change
