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
from scipy.special import ndtr

from arena.gaps.graph import Graph
from arena.gaps.inference import SWEEPS, TOLERANCE, Inference, Settings
from arena.gaps.pairwise import TIE, as_given, described, prepared, scale_of
from arena.gaps.settings import infer_settings
from arena.ratings.table import Ratings


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
    beta, _ = scale_of(ratings)
    gap, variance, log_probability = inference.of_votes(places, posterior, settings)
    gap, sd = beta * gap, beta * np.sqrt(variance)
    if not signed:
        gap = np.where(outcome == TIE, expected_distance(gap, sd), np.maximum(gap, 0.0))
    table = described(frame, np.stack([gap, sd, np.exp(log_probability)])).with_columns(
        pl.col("gap", "gap_sd", "probability").fill_nan(None)
    )
    return as_given(table, votes), JointReport(
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
