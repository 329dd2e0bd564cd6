"""Expectation propagation over a graph: Gaussian variables, and votes that truncate sums of them.

Method 2b in arrays. Nothing here knows a model, an image or a rater: `image_graph` and `joint`
build the arrays and say what they mean; the sums themselves are in `sweeps`.
"""

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from arena.gaps.sweeps import Prior, Result, Until, Votes, sweep_components

THREADS = 2


@dataclass(frozen=True)
class Graph:
    """Votes over Gaussian variables, each connected component's rows contiguous.

    Votes that judged the same difference are one factor. ends: (F, 4) int32, its variables,
    d = x[0] - x[1] + x[2] - x[3]; NOBODY where it has fewer. count: (F, 3) int64, its votes for
    d > 0, for d < 0 and for a tie. variable_start, factor_start: (C + 1,) where the components
    begin. dense: (C,) bool, which components hold a covariance matrix.
    """

    ends: np.ndarray
    count: np.ndarray
    variable_start: np.ndarray
    factor_start: np.ndarray
    dense: np.ndarray


@dataclass
class Messages:
    """The state between sweeps, kept from one setting of the parameters to the next.

    tau, nu: (F, 4) precision and precision-weighted mean; a dense component uses column 0 alone.
    """

    tau: np.ndarray
    nu: np.ndarray

    @staticmethod
    def none(graph: Graph) -> "Messages":
        """Return messages that say nothing."""
        shape = graph.ends.shape
        return Messages(np.zeros(shape), np.zeros(shape))


@dataclass(frozen=True)
class Posterior:
    """What the sweeps ended in.

    mean, variance: (V,) of each variable. gap, gap_variance: (F,) of x[0] - x[1], of their own
    parts (`Prior.share`), without the rater's terms. log_probability: (F, 3) of one vote of each
    kind given all the other votes, NaN where the factor has none of the kind. evidence: log p(all
    votes), EP's approximation, and in_noise, in_epsilon its slopes (F,). sweeps: the most that any
    component took. change: the largest change of a message's mean, in standard deviations, in the
    last of them.
    """

    mean: np.ndarray
    variance: np.ndarray
    gap: np.ndarray
    gap_variance: np.ndarray
    log_probability: np.ndarray
    in_noise: np.ndarray
    in_epsilon: np.ndarray
    evidence: float
    sweeps: int
    change: float


def propagate(
    graph: Graph,
    prior: Prior,
    noise: np.ndarray,
    epsilon: float,
    messages: Messages,
    damping: float = 0.5,
    sweeps: int = 200,
    tolerance: float = 1e-4,
) -> Posterior:
    """Sweep every component until its posterior moves less than `tolerance` standard deviations.

    prior: of the variables. noise: (F,) variance of one vote's own noise. epsilon: the draw margin.
    messages: where to start; they are moved in place. sweeps: the most a component may take; a
    change above the tolerance in the result says that it was not enough.
    """
    variables, count = len(prior.mean), len(graph.ends)
    votes = Votes(graph.ends, graph.count, noise, messages.tau, messages.nu)
    per_factor = [np.empty(count), np.empty(count), np.full((count, 3), np.nan)]
    slopes = [np.empty(count), np.empty(count)]
    result = Result(np.empty(variables), np.empty(variables), *per_factor, *slopes)
    until = Until(float(epsilon), float(damping), sweeps, float(tolerance))
    cuts = np.searchsorted(graph.factor_start, np.linspace(0, count, THREADS + 1)[1:-1])
    spans = np.unique([0, *cuts, len(graph.dense)])

    def run(span: tuple[int, int]) -> tuple[float, int, float]:
        where = (graph.variable_start, graph.factor_start, graph.dense)
        return sweep_components(*span, *where, prior, votes, result, until)

    with ThreadPoolExecutor(THREADS) as pool:
        parts = list(pool.map(run, itertools.pairwise(spans)))
    return Posterior(
        *result,
        evidence=sum(part[0] for part in parts),
        sweeps=max((part[1] for part in parts), default=0),
        change=max((part[2] for part in parts), default=0.0),
    )
