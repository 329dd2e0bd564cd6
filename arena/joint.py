"""The joint gap: all images of all votes inferred together, past the paper's pairwise gap.

Method 2b. In units of beta^2, the variance of one performance, which is split in three shares:

    image    x_i  ~ N(mu_m(i), rho s_m)       rho: the spread of one model's images, s_m its own
    taste    e_ri ~ N(0, taste s_m)           what rater r sees in image i and nobody else does
    slip     n_f  ~ N(0, 2 slip)              what is new in every vote, the same rater's too
    vote     d = x_w - x_l + e_rw - e_rl + n > epsilon,   tie: |d| <= epsilon
    gap      E[x_w - x_l | all votes], with its standard deviation

A rater who ranks four images gives six votes that share four tastes: they count as one ranking and
not as six opinions. Where nobody else judged an image no vote tells its rater's taste from the
image, and the prior's proportion stands: the rater's gap shrinks towards mu's. The shares, s_m,
epsilon and mu are the most probable ones given the votes (EP's evidence, its exact slopes, L-BFGS),
starting from the ratings; nothing is fitted to anything but votes. What was tried and did not help
is told in docs/joint_gap.md.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from scipy.optimize import minimize
from scipy.special import expit, ndtr

from arena.gap import UnratedModelError
from arena.image_graph import Layout, Meetings, neighbourhoods
from arena.propagation import Messages, Posterior, propagate
from arena.ratings import Ratings
from arena.sweeps import NOBODY, Prior
from arena.trueskill import draw_margin
from arena.truncated_vote import TIED, WIN, log_outcome

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


@dataclass(frozen=True)
class JointReport:
    """How the joint gap came about.

    settings: as above. evidence: log p(all votes), EP's approximation. sweeps: the most that any
    part of the graph took. converged: whether every part moved less than the tolerance in its last
    sweep. change: the largest such move, in standard deviations. dense: the share of votes whose
    images hold a full covariance.
    """

    settings: Settings
    evidence: float
    sweeps: int
    converged: bool
    change: float
    dense: float

    def __str__(self) -> str:
        s = self.settings
        end = (
            f"converged in {self.sweeps} sweeps"
            if self.converged
            else f"NOT converged in {self.sweeps} sweeps: moved {self.change:.2g} sd in the last"
        )
        return (
            f"joint: of a performance's variance {s.rho:.1%} is the image, {s.taste:.1%} the "
            f"rater's taste, {s.slip:.1%} slips; {end}"
        )


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


def joint_gaps(
    votes: pl.DataFrame, ratings: Ratings, signed: bool = False, sweeps: int = 200
) -> tuple[pl.DataFrame, JointReport]:
    """Return one gap a vote (columns `schema.GAPS`, input order), and how it came about.

    gap: the posterior mean of x_winner - x_loser on the scale of mu. Where the other votes say that
    this one was a slip it is negative; unless `signed` it is then 0, and a tie's is E|d|. gap_sd:
    the posterior's standard deviation. probability: of this outcome given all the other votes.
    An image that met itself has gap 0. sweeps: the most before giving up, which the report says.

    Raises UnratedModelError for a model without a rating, ValueError for a vote without both
    images or an image of two models.
    """
    rated = set(ratings.table["model"])
    for name in ("model_a", "model_b"):
        for model in votes[name].unique():
            if model not in rated:
                raise UnratedModelError(
                    f"model {model!r} has no rating; fit the ratings on votes that include it"
                )
    meetings = Meetings.of(votes, pl.Enum(ratings.table["model"]))
    settings = infer_settings(meetings, ratings)
    inference = Inference.of(meetings)
    posterior = inference.run(settings, sweeps)
    beta = ratings.parameters["beta"]
    gap, variance, log_probability = inference.of_votes(posterior, settings)
    gap, sd = beta * gap, beta * np.sqrt(variance)
    if not signed:
        gap = np.where(meetings.tie, expected_distance(gap, sd), np.maximum(gap, 0.0))
    lost = pl.col("outcome") == "b"
    table = votes.select(
        "vote_id",
        winner=pl.when(lost).then("model_b").otherwise("model_a"),
        loser=pl.when(lost).then("model_a").otherwise("model_b"),
        outcome="outcome",
        gap=pl.Series(gap),
        gap_sd=pl.Series(sd),
        probability=pl.Series(np.exp(log_probability)),
    )
    layout = inference.layout
    dense = np.repeat(layout.graph.dense, np.diff(layout.graph.factor_start))[layout.factor]
    scaled = replace(settings, epsilon=beta * settings.epsilon, mu=beta * settings.mu)
    return table, JointReport(
        settings=scaled,
        evidence=posterior.evidence,
        sweeps=posterior.sweeps,
        converged=posterior.change <= TOLERANCE,
        change=posterior.change,
        dense=float(dense.mean()) if len(dense) else 0.0,
    )


def expected_distance(mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Return E|d| for d ~ N(mean, sd^2), elementwise; |mean| where sd is 0."""
    z = np.divide(mean, sd, out=np.zeros_like(mean), where=sd > 0)
    spread = sd * math.sqrt(2.0 / math.pi) * np.exp(-0.5 * z * z) + mean * (1.0 - 2.0 * ndtr(-z))
    return np.where(sd > 0, spread, np.abs(mean))
