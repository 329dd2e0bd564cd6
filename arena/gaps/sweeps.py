"""The compiled sweeps of expectation propagation over one connected component after another.

Minka (2001). Votes that judged the same difference d are one factor f. It holds a message
exp(nu d - tau d^2 / 2), moved until the factor's own posterior of d, given everybody else's
messages (the cavity), has the moments of the truncated Gaussian. Two ways to hold everybody
else's, with one fixed point where both are exact:

    dense      one covariance matrix a component: right on any graph, O(n^2) a factor. The message
               is about d = x[0] - x[1] + x[2] - x[3] itself.
    sparse     one mean and variance a variable, a message from each factor to each of its
               variables: O(1) a factor. Same as dense where the votes form a tree; on a graph with
               cycles it is loopy belief propagation, close where cycles are long.

Small dense components have their variances corrected at the end (`marginals`). How the arrays come
to be, `propagation` says; a factor's own algebra is in `truncated_vote`.
"""

import math
from typing import NamedTuple

import numpy as np

from arena.gaps.marginals import corrected_variance
from arena.gaps.truncated_vote import evidence as vote_evidence
from arena.gaps.truncated_vote import log_mass, tilted
from arena.ratings.gaussian import compiled

# Beyond this many factors a component's differences keep EP's own moments: the cost is squared.
CORRECTED = 15
SIGNS = np.array([1.0, -1.0, 1.0, -1.0])
NOBODY = -1


class Prior(NamedTuple):
    """The variables before any vote: mean and variance, (V,) each.

    share: (V,), how much of the variance is the image's own; a gap is between the own parts.
    """

    mean: np.ndarray
    variance: np.ndarray
    share: np.ndarray


class Votes(NamedTuple):
    """The factors' ends, how many votes of each kind, a vote's own noise, and the messages."""

    ends: np.ndarray
    outcomes: np.ndarray
    noise: np.ndarray
    tau: np.ndarray
    nu: np.ndarray


class Result(NamedTuple):
    """The arrays of `Posterior`, to be written to."""

    mean: np.ndarray
    variance: np.ndarray
    gap: np.ndarray
    gap_variance: np.ndarray
    log_probability: np.ndarray
    in_noise: np.ndarray
    in_epsilon: np.ndarray


class Until(NamedTuple):
    """The draw margin, and when to stop."""

    epsilon: float
    damping: float
    sweeps: int
    tolerance: float


@compiled
def _column(S: np.ndarray, ends: np.ndarray, first: int, g: np.ndarray) -> None:
    """g = S u for the vote's signs u."""
    n = len(g)
    for i in range(n):
        g[i] = S[i, ends[0] - first] - S[i, ends[1] - first]
    for k in (2, 3):
        if ends[k] != NOBODY:
            sign = SIGNS[k]
            for i in range(n):
                g[i] += sign * S[i, ends[k] - first]


@compiled
def _along(x: np.ndarray, ends: np.ndarray, first: int) -> float:
    """u' x for the vote's signs u."""
    d = x[ends[0] - first] - x[ends[1] - first]
    for k in (2, 3):
        if ends[k] != NOBODY:
            d += SIGNS[k] * x[ends[k] - first]
    return d


@compiled
def _absorb(
    S: np.ndarray, m: np.ndarray, g: np.ndarray, d: float, v: float, d_tau: float, d_nu: float
) -> float:
    """Change a vote's message by (d_tau, d_nu): a rank-one update, Sherman-Morrison.

    Returns what it adds to log det S.
    """
    shrink = 1.0 + d_tau * v
    move = (d_nu - d_tau * d) / shrink
    c = d_tau / shrink
    n = len(m)
    for i in range(n):
        m[i] += g[i] * move
        cg = c * g[i]
        for j in range(n):
            S[i, j] -= cg * g[j]
    return -math.log(shrink)


@compiled
def _own(x: float, mean: float, share: float) -> float:
    """The image's own part of a variable at x: regression on it."""
    return mean + share * (x - mean)


@compiled
def _dense_component(
    first: int, prior: Prior, votes: Votes, result: Result, until: Until
) -> tuple[float, int, float]:
    """Sweep one component with its covariance matrix. Returns (evidence, sweeps, last change)."""
    prior_mean, prior_variance, share = prior
    ends, count, noise, tau, nu = votes
    mean, variance, gap, gap_variance, log_probability, in_noise, in_epsilon = result
    epsilon, damping, most, tolerance = until
    n = len(prior_mean)
    S = np.diag(prior_variance)
    m = prior_mean.copy()
    g = np.empty(n)
    log_det = 0.0  # of S over the prior's
    for f in range(len(ends)):
        _column(S, ends[f], first, g)
        d, v = _along(m, ends[f], first), _along(g, ends[f], first)
        log_det += _absorb(S, m, g, d, v, tau[f, 0], nu[f, 0])
    sweeps = 0
    change = np.inf
    while sweeps < most and change > tolerance:
        sweeps += 1
        change = 0.0
        for f in range(len(ends)):
            _column(S, ends[f], first, g)
            d, v = _along(m, ends[f], first), _along(g, ends[f], first)
            precision = 1.0 / v - tau[f, 0]  # the cavity: everybody but this vote
            shift = d / v - nu[f, 0]
            t_mean, t_variance = tilted(
                shift / precision, 1.0 / precision, count[f], epsilon, noise[f]
            )
            d_tau = damping * (max(1.0 / t_variance - precision, 0.0) - tau[f, 0])
            d_nu = damping * (t_mean / t_variance - shift - nu[f, 0])
            log_det += _absorb(S, m, g, d, v, d_tau, d_nu)
            tau[f, 0] += d_tau
            nu[f, 0] += d_nu
            change = max(change, abs(t_mean - d) / math.sqrt(v), abs(t_variance / v - 1.0))
    evidence = 0.0
    all_d, all_v, with_f = np.empty((3, len(ends)))
    for f in range(len(ends)):
        _column(S, ends[f], first, g)
        all_d[f], all_v[f] = _along(m, ends[f], first), _along(g, ends[f], first)
    for f in range(len(ends)):
        _column(S, ends[f], first, g)
        d, v = all_d[f], all_v[f]
        c_variance = 1.0 / (1.0 / v - tau[f, 0])
        c_mean = c_variance * (d / v - nu[f, 0])
        log_z, in_noise[f], in_epsilon[f] = vote_evidence(
            c_mean, c_variance, count[f], epsilon, noise[f], log_probability[f]
        )
        evidence += log_z - log_mass(c_mean, c_variance, tau[f, 0], nu[f, 0])
        a, b = ends[f, 0] - first, ends[f, 1] - first
        gap[f] = _own(m[a], prior_mean[a], share[a]) - _own(m[b], prior_mean[b], share[b])
        s, t = share[a], share[b]
        rest = s * (1.0 - s) * prior_variance[a] + t * (1.0 - t) * prior_variance[b]
        gap_variance[f] = s * s * S[a, a] + t * t * S[b, b] - 2.0 * s * t * S[a, b] + rest
        if 1 < len(ends) <= CORRECTED:
            for h in range(len(ends)):
                with_f[h] = _along(g, ends[h], first)
            to_v = corrected_variance(
                f, all_d, all_v, with_f, count, epsilon, noise, tau[:, 0], nu[:, 0]
            )
            on_d = (s * g[a] - t * g[b]) / v  # regression of the gap on what was judged
            gap_variance[f] += on_d * on_d * (to_v - v)
        # log of the prior's integral over all messages: m' Lambda m with Lambda m = prior + nu u
        evidence += 0.5 * nu[f, 0] * d
    evidence += 0.5 * log_det
    for i in range(n):
        evidence += 0.5 * (m[i] - prior_mean[i]) * prior_mean[i] / prior_variance[i]
        mean[i] = m[i]
        variance[i] = S[i, i]
    return evidence, sweeps, change


@compiled
def _sparse_component(
    first: int, prior: Prior, votes: Votes, result: Result, until: Until
) -> tuple[float, int, float]:
    """Sweep one component with a mean and variance a variable; the arguments are as above."""
    prior_mean, prior_variance, share = prior
    ends, count, noise, tau, nu = votes
    mean, variance, gap, gap_variance, log_probability, in_noise, in_epsilon = result
    epsilon, damping, most, tolerance = until
    n = len(prior_mean)
    precision = 1.0 / prior_variance
    shift = prior_mean / prior_variance
    for f in range(len(ends)):
        for k in range(4):
            if ends[f, k] != NOBODY:
                precision[ends[f, k] - first] += tau[f, k]
                shift[ends[f, k] - first] += nu[f, k]
    c_m = np.empty(4)
    c_v = np.empty(4)
    sweeps = 0
    change = np.inf
    evidence = 0.0
    last = False
    # One more pass than the sweeps: the last reads the results off without moving a message.
    while True:
        last = sweeps == most or change <= tolerance
        if not last:
            sweeps += 1
            change = 0.0
        for f in range(len(ends)):
            d = 0.0
            v = 0.0
            for k in range(4):
                i = ends[f, k]
                if i != NOBODY:
                    c_v[k] = 1.0 / (precision[i - first] - tau[f, k])
                    c_m[k] = c_v[k] * (shift[i - first] - nu[f, k])
                    d += SIGNS[k] * c_m[k]
                    v += c_v[k]
            t_mean, t_variance = tilted(d, v, count[f], epsilon, noise[f])
            moved = (t_mean - d) / v  # the mean's shift, and the variance's, a unit of variance
            shrunk = (v - t_variance) / v
            if last:
                log_z, in_noise[f], in_epsilon[f] = vote_evidence(
                    d, v, count[f], epsilon, noise[f], log_probability[f]
                )
                evidence += log_z
                a, b = ends[f, 0] - first, ends[f, 1] - first
                s, t = share[a], share[b]
                gap[f] = _own(c_m[0] + c_v[0] * moved, prior_mean[a], s)
                gap[f] -= _own(c_m[1] - c_v[1] * moved, prior_mean[b], t)
                rest = s * (1.0 - s) * prior_variance[a] + t * (1.0 - t) * prior_variance[b]
                x = s * c_v[0] + t * c_v[1]  # covariance with the difference that was judged
                gap_variance[f] = s * s * c_v[0] + t * t * c_v[1] - x * x * shrunk / v + rest
                for k in range(4):
                    if ends[f, k] != NOBODY:
                        evidence -= log_mass(c_m[k], c_v[k], tau[f, k], nu[f, k])
                continue
            for k in range(4):
                i = ends[f, k]
                if i == NOBODY:
                    continue
                t_v = c_v[k] * (1.0 - c_v[k] / v * shrunk)
                t_m = c_m[k] + SIGNS[k] * c_v[k] * moved
                d_tau = max(1.0 / t_v - 1.0 / c_v[k], 0.0) - tau[f, k]
                d_nu = t_m / t_v - c_m[k] / c_v[k] - nu[f, k]
                old = precision[i - first]
                change = max(
                    change,
                    abs(t_m - shift[i - first] / old) * math.sqrt(old),
                    abs(t_v * old - 1.0),
                )
                tau[f, k] += damping * d_tau
                nu[f, k] += damping * d_nu
                precision[i - first] += damping * d_tau
                shift[i - first] += damping * d_nu
        if last:
            break
    for i in range(n):
        variance[i] = 1.0 / precision[i]
        mean[i] = shift[i] * variance[i]
        evidence += log_mass(
            prior_mean[i],
            prior_variance[i],
            precision[i] - 1.0 / prior_variance[i],
            shift[i] - prior_mean[i] / prior_variance[i],
        )
    return evidence, sweeps, change


@compiled
def sweep_components(
    start: int,
    stop: int,
    variable_start: np.ndarray,
    factor_start: np.ndarray,
    dense: np.ndarray,
    prior: Prior,
    votes: Votes,
    result: Result,
    until: Until,
) -> tuple[float, int, float]:
    """Sweep the components from start up to stop. Returns (evidence, sweeps, largest change)."""
    evidence = 0.0
    sweeps = 0
    change = 0.0
    for c in range(start, stop):
        first = variable_start[c]
        x = slice(first, variable_start[c + 1])
        y = slice(factor_start[c], factor_start[c + 1])
        a = Prior(prior.mean[x], prior.variance[x], prior.share[x])
        b = Votes(votes.ends[y], votes.outcomes[y], votes.noise[y], votes.tau[y], votes.nu[y])
        out = Result(
            result.mean[x],
            result.variance[x],
            result.gap[y],
            result.gap_variance[y],
            result.log_probability[y],
            result.in_noise[y],
            result.in_epsilon[y],
        )
        if dense[c]:
            e, s, moved = _dense_component(first, a, b, out, until)
        else:
            e, s, moved = _sparse_component(first, a, b, out, until)
        evidence += e
        sweeps = max(sweeps, s)
        change = max(change, moved)
    return evidence, sweeps, change
