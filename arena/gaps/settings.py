"""The settings of the joint gap that explain the votes best: shares, spreads, capabilities.

`joint` says what they mean. The evidence of (a sample of) the votes is climbed by its exact slopes.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from arena.gaps.graph import Graph
from arena.gaps.inference import Inference, Settings
from arena.gaps.pairwise import scale_of
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
    beta = scale_of(ratings)[0]
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
