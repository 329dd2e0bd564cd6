"""The posterior of all images at given settings of the joint gap (`joint` says what they mean)."""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from arena.compiled import compiled
from arena.gaps.graph import Graph, Places
from arena.gaps.solving import NOBODY, Component
from arena.gaps.sweeps import Result, Until, sweep_components
from arena.gaps.truncated_vote import LOSS, TIED, WIN, Factor, log_one_of_them, log_outcome

TOLERANCE = 1e-4
SWEEPS = 200
THREADS = 2


@dataclass(frozen=True)
class Settings:
    """What the votes do not tell one by one, in units of beta.

    rho, taste, slip: shares of the performance's variance, sum 1. epsilon: the draw margin. spread:
    (M,) s_m. mu: (M,) capabilities.
    """

    rho: float
    taste: float
    slip: float
    epsilon: float
    spread: np.ndarray
    mu: np.ndarray


@dataclass(frozen=True)
class Posterior:
    """What the sweeps ended in.

    mean, variance: (V,) of each variable. factors: what is known of each factor. evidence: log
    p(all votes), EP's approximation. sweeps: the most that any component took. change: the largest
    move of a difference's mean or variance in the last of them, in standard deviations.
    """

    mean: np.ndarray
    variance: np.ndarray
    factors: Result
    evidence: float
    sweeps: int
    change: float


class Inference:
    """A graph of votes, with the messages kept from one setting to the next."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.message, self.mean = np.zeros((len(graph.ends), 6)), np.zeros(len(graph.model))
        first = graph.variable_start[graph.component()].astype(np.int32)
        self.ends = np.where(graph.ends == NOBODY, NOBODY, graph.ends - first[:, None])
        # Which of a factor's two images the rater judged in this one only: (F, 2) bool.
        self.alone = (graph.ends[:, 2:] == NOBODY) & ~graph.seen[graph.ends[:, :2]]
        self.ends_model = graph.model[graph.ends[:, :2]]

    def prior(self, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
        """Return the variables before any vote (V, 3), and one vote's own noise (F,)."""
        graph = self.graph
        mean = np.where(graph.taste, 0.0, settings.mu[graph.model])
        spread = settings.spread[graph.model]
        own = np.where(graph.taste, 0.0, settings.rho * spread)
        variance = own + settings.taste * spread * (graph.taste | graph.seen)
        alone = (self.alone * settings.spread[self.ends_model]).sum(1)
        noise = 2.0 * settings.slip + settings.taste * alone
        return np.stack([mean, variance, own / variance], 1), noise

    def run(
        self, settings: Settings, sweeps: int = SWEEPS, tolerance: float = TOLERANCE
    ) -> Posterior:
        """Sweep every component until its posterior moves less than `tolerance`.

        sweeps: the most that a component may take; a change above the tolerance in the result says
        that they were not enough.
        """
        graph = self.graph
        prior, noise = self.prior(settings)
        every = Component(True, prior, self.mean, self.ends, graph.count, noise, self.message)
        until = Until(float(settings.epsilon), sweeps, float(tolerance))
        begins = np.stack([graph.variable_start, graph.factor_start], 1)
        result, variance = np.zeros((len(graph.ends), 7)), np.empty(len(graph.model))

        def part(start: int, stop: int) -> tuple[float, int, float]:
            return sweep_components(
                start, stop, begins, graph.dense, every, until, result, variance
            )

        cuts = np.linspace(0, len(graph.ends), THREADS + 1)[1:-1]
        found = _in_threads(part, len(graph.dense), np.searchsorted(graph.factor_start, cuts))
        return Posterior(
            mean=self.mean.copy(),
            variance=variance,
            factors=Result(*np.ascontiguousarray(result.T)),
            evidence=sum(one[0] for one in found),
            sweeps=max((one[1] for one in found), default=0),
            change=max((one[2] for one in found), default=0.0),
        )

    def of_votes(
        self, places: Places, posterior: Posterior, settings: Settings
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what the posterior says of each row of the votes, (n,) thrice, in units of beta.

        E[x_winner - x_loser] (x_a - x_b of a tie), its variance, and log p(one vote of the row's
        outcome) given all other votes. NaN where an image is missing.
        """
        kind, met = places.kind, places.factor != NOBODY
        gap, variance, log_probability = np.full((3, len(kind)), np.nan)
        # An image that met itself: its outcome is all noise.
        alike = places.shown & ~met
        gap[alike] = variance[alike] = 0.0
        for one in (WIN, TIED):
            here = alike & ((kind == TIED) == (one == TIED))
            if here.any():
                log_probability[here] = log_outcome(0.0, 2.0 * settings.slip, one, settings.epsilon)
        factor, kind = places.factor[met], kind[met]
        known = posterior.factors
        turned = np.where(kind == TIED, places.flipped[met], kind == LOSS)
        gap[met] = np.where(turned, -1.0, 1.0) * known.gap[factor]
        variance[met] = known.gap_variance[factor]
        asked, place = np.unique(3 * factor + kind, return_inverse=True)
        found = np.empty(len(asked))
        noise = self.prior(settings)[1]
        votes = (self.graph.count, noise, known.cavity_mean, known.cavity_variance, known.log_z)

        def part(start: int, stop: int) -> None:
            _log_probabilities(start, stop, asked, *votes, float(settings.epsilon), found)

        _in_threads(part, len(asked), np.array([len(asked) // 2]))
        log_probability[met] = found[place]
        return gap, variance, log_probability


def _in_threads(function: Callable, end: int, cuts: np.ndarray) -> list:
    """Call function(start, stop) for the parts of 0 to end, and return what they returned."""
    spans = itertools.pairwise(np.unique([0, *cuts, end]))
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda span: function(*span), spans))


@compiled
def _log_probabilities(
    start: int,
    stop: int,
    asked: np.ndarray,
    count: np.ndarray,
    noise: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    log_z: np.ndarray,
    epsilon: float,
    out: np.ndarray,
) -> None:
    """Fill out (K,) for the factors and kinds of vote in asked (K,), 3 factor + kind."""
    for k in range(start, stop):
        f = asked[k] // 3
        factor = Factor(mean[f], variance[f], count[f], epsilon, noise[f])
        found = log_one_of_them(factor, asked[k] % 3, log_z[f])
        out[k] = min(found, 0.0)  # the difference of two integrals, to their accuracy
