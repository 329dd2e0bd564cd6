"""A difference's posterior beyond its two moments: what matching every factor by itself loses.

Expectation propagation gives each factor a Gaussian message, and with little noise the standard
deviation of a difference that several votes hem in comes out too small. The first correction of
Cseke and Heskes (2011, "EP-FACT") puts the factors themselves back, one by one:

    p(d_f) = q(d_f) t_f(d_f) / m_f(d_f)  prod_h E[t_h(d_h) | d_f] / E[m_h(d_h) | d_f],

t: the votes of a factor, m: its message, q: EP's posterior; each expectation is over q without m_h
given d_f, which is Gaussian. O(F^2) a component, so for small ones.
"""

import math

import numpy as np

from arena.gaps.truncated_vote import LOSS, TIED, WIN, log_likelihood, log_votes
from arena.ratings.gaussian import compiled, log_between, log_Phi

# Points at which the density is taken, this many of EP's standard deviations to each side.
NODES = 20
REACH = 4.0
# Below this squared correlation with d_f a factor's expectations hardly move.
UNRELATED = 1e-3


@compiled
def corrected_variance(
    f: int,
    mean: np.ndarray,
    variance: np.ndarray,
    covariance: np.ndarray,
    count: np.ndarray,
    epsilon: float,
    noise: np.ndarray,
    tau: np.ndarray,
    nu: np.ndarray,
) -> float:
    """Return the variance of the difference d_f; EP's mean is the better one and stays.

    mean, variance: (F,) of every factor's difference under EP; covariance: (F,) with d_f's. count,
    noise, tau, nu: of every factor.
    """
    sd = math.sqrt(variance[f])
    log_density = np.empty(NODES)
    for k in range(NODES):
        z = REACH * (2.0 * k / (NODES - 1) - 1.0)
        d = mean[f] + sd * z
        log_density[k] = -0.5 * z * z - nu[f] * d + 0.5 * tau[f] * d * d
        log_density[k] += log_likelihood(d, count[f], epsilon, math.sqrt(noise[f]))
    for h in range(len(mean)):
        if h == f or covariance[h] ** 2 < UNRELATED * variance[f] * variance[h]:
            continue
        slope = covariance[h] / variance[f]
        given = variance[h] - slope * covariance[h]
        if given < 1e-9 * variance[h]:
            continue
        cavity = 1.0 / (1.0 / given - tau[h])
        shrink = 1.0 + tau[h] * cavity
        wins, losses, ties = count[h, WIN], count[h, LOSS], count[h, TIED]
        s = math.sqrt(cavity + noise[h])
        for k in range(NODES):
            move = sd * REACH * (2.0 * k / (NODES - 1) - 1.0)
            at = cavity * ((mean[h] + slope * move) / given - nu[h])
            if wins + losses + ties > 1:
                log_density[k] += log_votes(at, cavity, count[h], epsilon, noise[h])
            elif ties:
                log_density[k] += log_between(at / s, epsilon / s)
            else:
                log_density[k] += log_Phi(((at if wins else -at) - epsilon) / s)
            # log E[m_h | d_f], its constant left out.
            log_density[k] -= at * (nu[h] - 0.5 * tau[h] * at) / shrink
    top = log_density.max()
    mass = first = second = 0.0
    for k in range(NODES):
        off = sd * REACH * (2.0 * k / (NODES - 1) - 1.0)
        weight = math.exp(log_density[k] - top)
        mass += weight
        first += weight * off
        second += weight * off * off
    first /= mass
    return second / mass - first * first
