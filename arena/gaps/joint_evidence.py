"""The settings of the joint gap that explain the votes best: shares, spreads, capabilities.

`joint` says what they mean; here a graph of votes is inferred at given settings (`Inference`), and
the evidence of a sample of them is climbed by its exact slopes (`Evidence`, `infer_settings`).
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from arena.gaps.graph import Layout, Meetings, neighbourhoods
from arena.gaps.propagation import Messages, Posterior, propagate
from arena.gaps.sweeps import NOBODY, Prior
from arena.gaps.truncated_vote import TIED, WIN, log_outcome
from arena.ratings.table import Ratings
from arena.ratings.trueskill import draw_margin

# Votes that the shares are estimated from. 4,000 know rho to about 0.02; all of them cost minutes.
EVIDENCE_VOTES = 4_000
# Log of s_m: standard deviation between models. Wider loses on held-out votes of few prompts.
SPREAD_SD = 0.25
# Prior of rho, taste and slip: Dirichlet with mode SHARES / 3, weak beside a hundred votes. rho has
# 0.6 of rho + taste: the votes of all raters of two panels said 0.67 and 0.56 (docs/joint_gap.md).
SHARES = np.array([1.2, 0.8, 1.0])
TOLERANCE = 1e-4


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


@dataclass
class Inference:
    """Meetings laid out for sweeps, with the messages kept from one setting to the next."""

    meetings: Meetings
    layout: Layout
    messages: Messages

    @staticmethod
    def of(meetings: Meetings) -> "Inference":
        """Lay meetings out."""
        layout = Layout.of(meetings)
        return Inference(meetings, layout, Messages.none(layout.graph))

    def prior(self, settings: Settings) -> tuple[Prior, np.ndarray]:
        """Return the variables before any vote, and one vote's own noise (F,)."""
        at = self.layout
        model = self.meetings.model[at.image]
        mean = np.where(at.taste, 0.0, settings.mu[model])
        spread = settings.spread[model]
        own = np.where(at.taste, 0.0, settings.rho * spread)
        variance = own + settings.taste * spread * (at.taste | at.seen)
        alone = (self.alone * settings.spread[self.ends_model]).sum(1)
        noise = 2.0 * settings.slip + settings.taste * alone
        return Prior(mean, variance, own / variance), noise

    @property
    def alone(self) -> np.ndarray:
        """Which of a factor's two images the rater judged in this one only: (F, 2) bool."""
        ends = self.layout.graph.ends
        return (ends[:, 2:] == NOBODY) & ~self.layout.seen[ends[:, :2]]

    @property
    def ends_model(self) -> np.ndarray:
        """The models of a factor's two images: (F, 2)."""
        return self.meetings.model[self.layout.image[self.layout.graph.ends[:, :2]]]

    def run(self, settings: Settings, sweeps: int, tolerance: float = TOLERANCE) -> Posterior:
        """Sweep until converged."""
        return propagate(
            self.layout.graph,
            *self.prior(settings),
            settings.epsilon,
            self.messages,
            sweeps=sweeps,
            tolerance=tolerance,
        )

    def of_votes(
        self, posterior: Posterior, settings: Settings
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what the posterior says of each meeting, (n,) thrice, in units of beta.

        E[x_winner - x_loser], its variance, and log p(its outcome given all the other votes).
        """
        at = self.layout
        gap, variance = np.zeros((2, len(self.meetings)))
        # An image that met itself: its outcome is all noise.
        alike = [
            log_outcome(0.0, 2.0 * settings.slip, kind, settings.epsilon) for kind in (WIN, TIED)
        ]
        log_probability = np.where(self.meetings.tie, alike[1], alike[0])
        gap[at.vote] = at.sign * posterior.gap[at.factor]
        variance[at.vote] = posterior.gap_variance[at.factor]
        log_probability[at.vote] = posterior.log_probability[at.factor, at.kind]
        return gap, variance, log_probability


@dataclass(frozen=True)
class Evidence:
    """Log p(votes, settings) of a sample of the votes, as a function that an optimiser can climb.

    A point is [log taste / rho, log slip / (rho + taste), log epsilon (with ties), log s (M),
    mu (M)]. Priors, so that what no vote tells stays where it was: the shares and log s as above;
    mu as the ratings say; log epsilon within a factor of e.
    """

    inference: Inference
    start: Settings
    mu_sd: np.ndarray
    ties: bool

    def settings(self, point: np.ndarray) -> Settings:
        """Return the settings at a point."""
        m = len(self.start.mu)
        taste, slip = expit(point[:2])
        return Settings(
            rho=float((1.0 - taste) * (1.0 - slip)),
            taste=float(taste * (1.0 - slip)),
            slip=float(slip),
            epsilon=float(np.exp(point[2])) if self.ties else 0.0,
            spread=np.exp(point[-2 * m : -m]),
            mu=point[-m:],
        )

    def first_point(self) -> np.ndarray:
        """Return the point of `start`."""
        s = self.start
        shares = np.log([s.taste / s.rho, s.slip / (1.0 - s.slip)])
        epsilon = [math.log(s.epsilon)] if self.ties else []
        return np.concatenate([shares, epsilon, np.log(s.spread), s.mu])

    def at(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        """Return (log p, its slopes) at a point.

        At EP's fixed point the evidence moves with a parameter only where the parameter stands:
        messages may be held still (Seeger, 2005).
        """
        s = self.settings(point)
        run, m = self.inference, len(s.mu)
        posterior = run.run(s, sweeps=50, tolerance=1e-3)
        (mean, variance, share), _ = run.prior(s)
        off = posterior.mean - mean
        in_log_variance = 0.5 * ((off**2 + posterior.variance) / variance - 1.0)
        model = run.meetings.model[run.layout.image]
        in_alone = s.taste * run.alone * s.spread[run.ends_model] * posterior.in_noise[:, None]
        in_log_spread = np.bincount(model, in_log_variance, m)
        in_log_spread += np.bincount(run.ends_model.ravel(), in_alone.ravel(), m)
        in_mu = np.bincount(model, np.where(run.layout.taste, 0.0, off / variance), m)
        in_slip = 2.0 * s.slip * posterior.in_noise.sum()
        in_taste = (1.0 - share) @ in_log_variance + in_alone.sum()
        # Slopes in the logs of the shares, and from there in the point's two.
        shares = np.array([s.rho, s.taste, s.slip])
        in_log = np.array([share @ in_log_variance, in_taste, in_slip]) + SHARES
        seen = in_log[0] + in_log[1]
        in_shares = [
            in_log[1] - s.taste / (1.0 - s.slip) * seen,
            in_log[2] - s.slip * (seen + in_log[2]),
        ]
        log_spread, z = np.log(s.spread), (s.mu - self.start.mu) / self.mu_sd
        value = posterior.evidence + SHARES @ np.log(shares)
        value -= 0.5 * ((log_spread / SPREAD_SD) ** 2).sum() + 0.5 * (z**2).sum()
        in_epsilon = []
        if self.ties:
            moved = math.log(s.epsilon / self.start.epsilon)
            value -= 0.5 * moved**2
            in_epsilon = [s.epsilon * posterior.in_epsilon.sum() - moved]
        slopes = [in_shares, in_epsilon, in_log_spread - log_spread / SPREAD_SD**2]
        return value, np.concatenate([*slopes, in_mu - z / self.mu_sd])

    def most_probable(self) -> Settings:
        """Climb to the most probable settings."""

        def descent(point: np.ndarray) -> tuple[float, np.ndarray]:
            value, slopes = self.at(point)
            return -value, -slopes

        first = self.first_point()
        # Down to 1/3000 of the variance: beyond that the votes' noise is as good as none.
        bounds = [(-8.0, 8.0)] * 2 + [(None, None)] * (len(first) - 2)
        found = minimize(
            descent,
            first,
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"maxiter": 40, "ftol": 1e-5},
        )
        return self.settings(found.x)


def infer_settings(meetings: Meetings, ratings: Ratings, seed: int = 0) -> Settings:
    """Return the most probable settings given (about `EVIDENCE_VOTES` of) the votes."""
    beta = ratings.parameters["beta"]
    mu = ratings.table["mu"].to_numpy() / beta
    met = meetings.winner != meetings.loser
    tied = int((meetings.tie & met).sum())
    margin = draw_margin((tied + 0.5) / (met.sum() + 1.0), 1.0)
    rho, taste, slip = SHARES / SHARES.sum()
    start = Settings(rho, taste, slip, margin, np.ones(len(mu)), mu - mu.mean())
    sample = meetings.only(neighbourhoods(meetings, EVIDENCE_VOTES, seed))
    return Evidence(
        inference=Inference.of(sample),
        start=start,
        mu_sd=ratings.table["sigma"].to_numpy() / beta,
        ties=tied > 0,
    ).most_probable()
