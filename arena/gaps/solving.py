"""Where the messages of one component put its variables: K m = P mu + sum nu u, and K^-1.

See `sweeps`. A component is a few wide arrays, because compiling takes time for each array and for
each slice of one.
"""

import math
from typing import NamedTuple

import numpy as np

from arena.compiled import compiled

SIGNS = np.array([1.0, -1.0, 1.0, -1.0])
NOBODY = -1
TAU, NU, TOLD = 0, 1, 2


class Component(NamedTuple):
    """Rows of one connected component (or of all of them).

    dense: whether it holds a covariance. prior: (V, 3), mean and variance of each variable, and how
    much of the variance is the image's own. mean: (V,), m. ends: (F, 4), the variables of a factor,
    d = x[0] - x[1] + x[2] - x[3], counted from the component's first, NOBODY where absent. count:
    (F, 3), its votes of each kind. noise: (F,), a vote's own. message: (F, 6), tau, nu, and
    (sparse) the precision that each of its four variables is told.
    """

    dense: bool
    prior: np.ndarray
    mean: np.ndarray
    ends: np.ndarray
    count: np.ndarray
    noise: np.ndarray
    message: np.ndarray


@compiled
def along(x: np.ndarray, ends: np.ndarray) -> float:
    """u' x."""
    d = x[ends[0]] - x[ends[1]]
    for k in (2, 3):
        if ends[k] != NOBODY:
            d += SIGNS[k] * x[ends[k]]
    return d


@compiled
def add_along(x: np.ndarray, ends: np.ndarray, value: float) -> None:
    """x += value u."""
    for k in range(4):
        if ends[k] != NOBODY:
            x[ends[k]] += SIGNS[k] * value


@compiled
def _covariance(one: Component, S: np.ndarray) -> float:
    """S = K^-1, by sweeping the lower half of K on every row (Goodnight, 1979).

    Returns log det S. numba would need four seconds to compile LAPACK's errors.
    """
    n = len(one.prior)
    for i in range(n):
        S[i, :n] = 0.0
        S[i, i] = 1.0 / one.prior[i, 1]
    for f in range(len(one.ends)):
        for k in range(4):
            if one.ends[f, k] != NOBODY:
                add_along(S[one.ends[f, k]], one.ends[f], SIGNS[k] * one.message[f, TAU])
    log_det, row = 0.0, np.empty(n)
    for k in range(n):
        pivot = S[k, k]
        log_det -= math.log(pivot)
        for i in range(n):
            row[i] = S[k, i] if i < k else S[i, k]
        row[k] = 0.0
        for i in range(n):
            c = row[i] / pivot
            if c != 0.0:
                for j in range(i + 1):
                    S[i, j] -= c * row[j]
        for i in range(n):
            S[max(i, k), min(i, k)] = row[i] / pivot
        S[k, k] = -1.0 / pivot
    for i in range(n):
        for j in range(i + 1):
            S[i, j] = S[j, i] = -S[i, j]
    return log_det


@compiled
def _pull(one: Component) -> np.ndarray:
    """P (mu - m) + sum (nu - tau d) u: zero where m solves K m = P mu + sum nu u."""
    residual = np.empty(len(one.prior))
    for i in range(len(one.prior)):
        residual[i] = (one.prior[i, 0] - one.mean[i]) / one.prior[i, 1]
    for f in range(len(one.ends)):
        pull = one.message[f, NU] - one.message[f, TAU] * along(one.mean, one.ends[f])
        add_along(residual, one.ends[f], pull)
    return residual


@compiled
def _conjugate_gradients(one: Component, enough: float) -> None:
    """Move m to K m = P mu + sum nu u, scaled by K's diagonal.

    Until a step lowers the energy (m's squared distance in the norm of K) by no more than `enough`,
    or than 1e-6 of the largest step's.
    """
    n = len(one.prior)
    scale, way, image = np.empty(n), np.zeros(n), np.empty(n)
    for i in range(n):
        scale[i] = 1.0 / one.prior[i, 1]
    for f in range(len(one.ends)):
        for k in range(4):
            if one.ends[f, k] != NOBODY:
                scale[one.ends[f, k]] += one.message[f, TAU]
    r = _pull(one)
    largest = last = 0.0
    for _ in range(10 * n):
        size = 0.0
        for i in range(n):
            size += r[i] * r[i] / scale[i]
        if size == 0.0:
            break
        turn = size / last if last else 0.0
        for i in range(n):
            way[i] = r[i] / scale[i] + turn * way[i]
            image[i] = way[i] / one.prior[i, 1]
        for f in range(len(one.ends)):
            add_along(image, one.ends[f], one.message[f, TAU] * along(way, one.ends[f]))
        step = 0.0
        for i in range(n):
            step += way[i] * image[i]
        step = size / step
        for i in range(n):
            one.mean[i] += step * way[i]
            r[i] -= step * image[i]
        last = size
        largest = max(largest, step * size)
        if step * size <= max(enough, 1e-6 * largest):
            break


@compiled
def solve(one: Component, S: np.ndarray, enough: float) -> float:
    """Move m to where the messages put it; dense: S too. Returns log det S P, dense."""
    if not one.dense:
        _conjugate_gradients(one, enough)
        return 0.0
    log_det = _covariance(one, S)
    residual = _pull(one)
    for i in range(len(one.prior)):
        log_det -= math.log(one.prior[i, 1])
        for j in range(len(one.prior)):
            one.mean[i] += S[i, j] * residual[j]
    return log_det
