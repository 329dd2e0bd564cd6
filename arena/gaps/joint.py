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
from scipy.special import ndtr

from arena.gaps.graph import Meetings
from arena.gaps.joint_evidence import TOLERANCE, Inference, Settings, infer_settings
from arena.gaps.pairwise import UnratedModelError
from arena.ratings.table import Ratings


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
