"""The joint gap: all images of all votes inferred together, past the paper's pairwise gap.

Method 2b. In units of beta^2, the variance of one performance, which is split in three shares:

    image    x_i  ~ N(mu_m(i), rho s_m)       rho: the spread of one model's images, s_m its own
    taste    e_ri ~ N(0, taste s_m)           what rater r sees in image i and nobody else does
    slip     n_f  ~ N(0, 2 slip)              what is new in every vote, the same rater's too
    vote     d = x_w - x_l + e_rw - e_rl + n > epsilon,   tie: |d| <= epsilon
    gap      E[x_w - x_l | all votes], with its standard deviation

A rater who ranks four images gives six votes that share four tastes: they count as one ranking and
not as six opinions. Votes without a rater's name are different raters' votes, so are those that a
row of counts sums up. Where nobody else judged an image no vote tells its rater's taste from the
image, and the prior's proportion stands: the rater's gap shrinks towards mu's. The shares, s_m,
epsilon and mu are the most probable ones given the votes (EP's evidence, its exact slopes, L-BFGS),
starting from the ratings; nothing is fitted to anything but votes. What was tried and did not help
is told in docs/evidence/joint_gap.md.

    from arena.gaps.joint import joint_gaps
    gaps, report = joint_gaps(votes, ratings, signed=True)
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from scipy.optimize import minimize
from scipy.special import expit, ndtr

from arena.gaps.graph import Graph
from arena.gaps.inference import SWEEPS, TOLERANCE, Inference, Settings
from arena.gaps.pairwise import TIE, described, prepared
from arena.ratings.gaussian import draw_margin
from arena.ratings.table import Ratings

# Factors that the shares are estimated from. 4,000 know rho to about 0.02; all cost minutes.
EVIDENCE_FACTORS = 4_000
# Log of s_m: standard deviation between models. Wider loses on held-out votes of few prompts.
SPREAD_SD = 0.25
# Prior of rho, taste and slip: Dirichlet with mode SHARES / 3, weak beside a hundred votes. rho has
# 0.6 of rho + taste: the votes of all raters of two panels said 0.67 and 0.56
# (docs/evidence/joint_gap.md).
SHARES = np.array([1.2, 0.8, 1.0])


class NotConvergedError(ValueError):
    """Expectation propagation still moved when its sweeps ran out."""


@dataclass(frozen=True)
class JointReport:
    """How the joint gap came about.

    settings: as above, epsilon and mu on the scale of the ratings. evidence: log p(all votes), EP's
    approximation. sweeps: the most that any part of the graph took. converged: whether every part
    moved less than the tolerance in its last sweep. change: the largest such move, in standard
    deviations. without: how many votes lack an image, and so a joint gap. two_models: how many
    images' names come with more than one model: with each of them they are another image.
    """

    settings: Settings
    evidence: float
    sweeps: int
    converged: bool
    change: float
    without: int
    two_models: int

    def __str__(self) -> str:
        s = self.settings
        end = (
            f"converged in {self.sweeps} sweeps"
            if self.converged
            else f"NOT converged in {self.sweeps} sweeps: moved {self.change:.2g} sd in the last"
        )
        said = (
            f"joint: of a performance's variance {s.rho:.1%} is the image, {s.taste:.1%} the "
            f"rater's taste, {s.slip:.1%} slips; {end}"
        )
        if self.without:
            said += f"; {self.without:,} votes lack an image and have no joint gap"
        if self.two_models:
            said += (
                f"; {self.two_models:,} images have two models' names and count as one image for "
                "each of them"
            )
        return said

    def check(self) -> None:
        """Raise NotConvergedError, which says what to do, where the sweeps were not enough."""
        if not self.converged:
            raise NotConvergedError(
                f"the joint gap did not converge: after {self.sweeps} sweeps a gap still moved by "
                f"{self.change:.2g} of its standard deviation; use --estimator pairwise, or look "
                "for contradictory votes on the same images (python -m arena inspect)"
            )


def joint_gaps(
    votes: Any, ratings: Ratings, signed: bool = False, sweeps: int = SWEEPS
) -> tuple[Any, JointReport]:
    """Return one gap per vote (columns `schema.GAPS`, input order), and how it came about.

    votes: a polars or pandas frame with model_a, model_b, outcome, image_a, image_b; if known also
    vote_id, rater, and the counts votes_a, votes_b, votes_tie of rows that sum up several raters.
    An image is told by its string together with its model. ratings: model, mu and sigma will do.
    sweeps: the most before giving up, which the report says.

    gap: the posterior mean of x_winner - x_loser on the scale of mu. Where the other votes say that
    this one was a slip it is negative; unless `signed` it is then 0, and a tie's is E|d|. gap_sd:
    the posterior's standard deviation. probability: of this outcome given all the other votes; for
    a row of counts, of one vote of its outcome. An image that met itself has gap 0. A vote without
    both images has nulls.

    Raises UnratedModelError for models without a rating, ValueError where no vote has both images,
    and as `pairwise_gaps`.
    """
    frame, _, _, outcome = prepared(votes, ratings)
    missing = [name for name in ("image_a", "image_b") if name not in frame.columns]
    if missing:
        raise ValueError(
            f"the joint gap needs the images of a vote and the votes have no column "
            f"{' or '.join(missing)}; use the pairwise gap, or give the images names"
        )
    graph, places = Graph.of(frame, pl.Enum(ratings.table["model"]))
    if frame.height and not places.shown.any():
        raise ValueError(
            "the joint gap needs image_a and image_b and no vote has both; use the pairwise gap"
        )
    settings = infer_settings(graph, ratings)
    inference = Inference(graph)
    posterior = inference.run(settings, sweeps)
    beta = ratings.parameters["beta"]
    gap, variance, log_probability = inference.of_votes(places, posterior, settings)
    gap, sd = beta * gap, beta * np.sqrt(variance)
    if not signed:
        gap = np.where(outcome == TIE, expected_distance(gap, sd), np.maximum(gap, 0.0))
    numbers = [pl.Series(x, nan_to_null=True) for x in (gap, sd, np.exp(log_probability))]
    return described(frame, numbers, votes), JointReport(
        settings=replace(settings, epsilon=beta * settings.epsilon, mu=beta * settings.mu),
        evidence=posterior.evidence,
        sweeps=posterior.sweeps,
        converged=posterior.change <= TOLERANCE,
        change=posterior.change,
        without=int((~places.shown).sum()),
        two_models=places.twice,
    )


def expected_distance(mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    """Return E|d| for d ~ N(mean, sd^2), elementwise; |mean| where sd is 0."""
    z = np.divide(mean, sd, out=np.zeros_like(mean), where=sd > 0)
    about = sd * math.sqrt(2.0 / math.pi) * np.exp(-0.5 * z * z) + mean * (1.0 - 2.0 * ndtr(-z))
    return np.where(sd > 0, about, np.abs(mean))


@dataclass(frozen=True)
class Evidence:
    """Log p(votes, settings) of a graph, as a function that an optimiser can climb.

    A point is [log taste / rho, log slip / (rho + taste), log epsilon (with ties), log s (M),
    mu (M)]. Priors, so that what no vote tells stays where it was: the shares and log s as above;
    mu as the ratings say, precision (M, M); log epsilon within a factor of e.
    """

    inference: Inference
    start: Settings
    precision: np.ndarray
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

    def at(
        self, point: np.ndarray, sweeps: int = 50, tolerance: float = 1e-3
    ) -> tuple[float, np.ndarray]:
        """Return (log p, its slopes) at a point.

        At EP's fixed point the evidence moves with a parameter only where the parameter stands:
        messages may be held still (Seeger, 2005).
        """
        s = self.settings(point)
        run, m = self.inference, len(s.mu)
        posterior = run.run(s, sweeps, tolerance)
        found = posterior.factors
        mean, variance, share = run.prior(s)[0].T
        off = posterior.mean - mean
        in_log_variance = 0.5 * ((off**2 + posterior.variance) / variance - 1.0)
        model = run.graph.model
        in_alone = s.taste * run.alone * s.spread[run.ends_model] * found.in_noise[:, None]
        in_log_spread = np.bincount(model, in_log_variance, m)
        in_log_spread += np.bincount(run.ends_model.ravel(), in_alone.ravel(), m)
        in_mu = np.bincount(model, np.where(run.graph.taste, 0.0, off / variance), m)
        in_slip = 2.0 * s.slip * found.in_noise.sum()
        in_taste = (1.0 - share) @ in_log_variance + in_alone.sum()
        # Slopes in the logs of the shares, and from there in the point's two.
        shares = np.array([s.rho, s.taste, s.slip])
        in_log = np.array([share @ in_log_variance, in_taste, in_slip]) + SHARES
        seen = in_log[0] + in_log[1]
        in_shares = [
            in_log[1] - s.taste / (1.0 - s.slip) * seen,
            in_log[2] - s.slip * (seen + in_log[2]),
        ]
        log_spread, moved = np.log(s.spread), s.mu - self.start.mu
        value = posterior.evidence + SHARES @ np.log(shares)
        value -= 0.5 * ((log_spread / SPREAD_SD) ** 2).sum()
        value -= 0.5 * moved @ self.precision @ moved
        in_epsilon = []
        if self.ties:
            wider = math.log(s.epsilon / self.start.epsilon)
            value -= 0.5 * wider**2
            in_epsilon = [s.epsilon * found.in_epsilon.sum() - wider]
        slopes = [in_shares, in_epsilon, in_log_spread - log_spread / SPREAD_SD**2]
        return value, np.concatenate([*slopes, in_mu - self.precision @ moved])

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


def infer_settings(graph: Graph, ratings: Ratings, seed: int = 0) -> Settings:
    """Return the most probable settings given (about `EVIDENCE_FACTORS` of) the votes."""
    beta = ratings.parameters["beta"]
    mu = ratings.table["mu"].to_numpy() / beta
    votes = graph.count.sum(0)
    margin = draw_margin((votes[2] + 0.5) / (votes.sum() + 1.0), 1.0)
    rho, taste, slip = SHARES / SHARES.sum()
    covariance = ratings.covariance
    if covariance is None:
        covariance = np.diag(ratings.table["sigma"].to_numpy() ** 2)
    return Evidence(
        inference=Inference(graph.sample(EVIDENCE_FACTORS, seed)),
        start=Settings(rho, taste, slip, margin, np.ones(len(mu)), mu - mu.mean()),
        precision=np.linalg.pinv(covariance / beta**2, hermitian=True),
        ties=bool(votes[2] > 0),
    ).most_probable()
