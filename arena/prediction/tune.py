"""Parameters of an estimator, chosen by the evidence of the votes.

`trueskill`: the beta, tau and draw probability that make log p(votes) the largest, every vote
predicted from those before it (`log_evidence`): nothing is fitted to a vote that it is judged by,
so no votes need be set aside. `thurstone`: the beta, by Laplace's approximation to log p(votes)
about the posterior's mode; its draw margin is estimated with the mode. Only ratios to the prior's
sigma count (multiply all by one number and nothing changes), so the prior stays N(25, (25/3)^2).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize

from arena.prediction.calibration import log_evidence
from arena.prediction.held_out import FIRST, Evaluation, evaluate
from arena.ratings.batch import Thurstone, likelihood, likely_draw_probability, mode
from arena.ratings.comparisons import TIE, Comparisons
from arena.ratings.gaussian import draw_margin, draw_probability
from arena.ratings.leaderboards import BETA, DRAW_PROBABILITY, SIGMA
from arena.ratings.trueskill import TrueSkill

LEAST_VOTES = 20
# The several starts climb on so many first votes, and the best of them then on all.
SEARCHED = 50_000
# (beta, tau) in units of sigma: the authors' first, then noisier, sharper and drifting arenas.
STARTS = ((0.5, 0.01), (2.0, 0.001), (0.2, 0.03), (1.0, 0.2))
# beta and tau in units of sigma, epsilon of beta. Outside of these nothing changes any more: the
# votes would be all noise or none, the models fixed or drawn anew, ties none or all.
BOUNDS = {"beta": (0.02, 50.0), "tau": (1e-5, 3.0), "epsilon": (1e-3, 5.5)}

Point = dict[str, float]
Objective = Callable[[Mapping[str, float]], float]


@dataclass(frozen=True)
class Tuned:
    """What the evidence prefers.

    estimator: with the values found. evidence: log p(votes) in nats, of "tuned" and of what it is
    compared with. interval: 95%, by the curvature, of each value that the votes determine. votes:
    how many told.
    """

    estimator: TrueSkill | Thurstone
    evidence: dict[str, float]
    interval: dict[str, tuple[float, float]]
    votes: int

    @property
    def values(self) -> dict[str, float | str]:
        """Return the parameters that were chosen."""
        names = ("beta", "tau", "draw_probability")
        return {n: getattr(self.estimator, n) for n in names if hasattr(self.estimator, n)}

    @property
    def options(self) -> str:
        """Return what `python -m arena fit` needs to use them."""
        said = [f"--{name.replace('_', '-')} {_said(value)}" for name, value in self.values.items()]
        return " ".join([f"--estimator {type(self.estimator).__name__.lower()}", *said])

    def __str__(self) -> str:
        lines = []
        for name, value in self.values.items():
            low, high = self.interval.get(name, (None, None))
            sure = f"95% interval {low:.4g} to {high:.4g}" if low is not None else ""
            if low is None and isinstance(value, float) and value > 0.0:
                sure = "the votes do not determine it"
            lines.append(f"{name.replace('_', ' '):<18}{_said(value):<10} {sure}".rstrip())
        lines.append(f"evidence of {self.votes:,} votes:")
        for name, value in self.evidence.items():
            lost = self.evidence["tuned"] - value
            less = f"   {lost:,.1f} less, {lost / self.votes:.4f} a vote" if lost else ""
            lines.append(f"  {name:<24}{value:>14,.1f} nats{less}")
        return "\n".join(lines)


def tune(votes: Any, estimator: str = "trueskill") -> Tuned:
    """Return the parameters of `trueskill` or `thurstone` that the votes prefer.

    votes: see `Comparisons.of`. Raises ValueError for an estimator that has none, and for fewer
    votes than `LEAST_VOTES`.
    """
    tuners = {"trueskill": _tune_trueskill, "thurstone": _tune_thurstone}
    if estimator not in tuners:
        raise ValueError(
            f"{estimator} has nothing to tune: its ratings are the likelihood's one maximum; "
            f"choose from {', '.join(tuners)}"
        )
    votes = Comparisons.of(votes).between_models()
    if len(votes) < LEAST_VOTES:
        raise ValueError(
            f"{len(votes)} votes between different models are too few to choose parameters by; "
            f"give at least {LEAST_VOTES}"
        )
    return tuners[estimator](votes)


def later_votes(votes: Any, estimator: str = "trueskill") -> Evaluation:
    """Tune on the votes before all blocks of `held_out`, and score that on the blocks.

    The evidence is one judge, votes that no tuning saw are another.
    """
    votes = Comparisons.of(votes).between_models()
    tuned = tune(votes.part(0, round(len(votes) * FIRST)), estimator).estimator
    return evaluate(votes, {f"{estimator}, tuned": tuned, f"{estimator}, default": type(tuned)()})


def sequential_evidence(votes: Comparisons, chosen: TrueSkill) -> float:
    """Return log p(votes) under TrueSkill with these parameters."""
    p = chosen.fit(votes).parameters
    return log_evidence(votes, *(p[name] for name in ("sigma", "beta", "tau", "epsilon")))


def _tune_trueskill(votes: Comparisons) -> Tuned:
    margin = {}
    if (votes.outcome == TIE).any():
        p = likely_draw_probability(*votes.counts(), SIGMA, BETA)
        margin = {"epsilon": min(draw_margin(p, 1.0), BOUNDS["epsilon"][1])}

    def objective(votes: Comparisons) -> Objective:
        def evidence(at: Mapping[str, float]) -> float:
            beta, tau = SIGMA * at["beta"], SIGMA * at.get("tau", 0.0)
            return log_evidence(votes, SIGMA, beta, tau, beta * at.get("epsilon", 0.0))

        return evidence

    first = objective(votes.part(0, SEARCHED))
    found = [climb(first, {"beta": beta, "tau": tau, **margin}) for beta, tau in STARTS]
    all_votes = objective(votes)
    moving = climb(all_votes, max(found, key=first))
    # A model that never changes has tau 0, where no climb in its logarithm arrives.
    static = climb(all_votes, {name: moving[name] for name in moving if name != "tau"})
    best = max(static, moving, key=all_votes)
    chosen = TrueSkill(
        beta=_six(SIGMA * best["beta"]),
        tau=_six(SIGMA * best.get("tau", 0.0)),
        draw_probability=_six(draw_probability(best.get("epsilon", 0.0), 1.0)),
    )
    compared = {
        "tuned": chosen,
        "default": TrueSkill(),
        "authors' draws, 0.10": TrueSkill(draw_probability=DRAW_PROBABILITY),
    }
    evidence = {name: sequential_evidence(votes, one) for name, one in compared.items()}
    return Tuned(chosen, evidence, _intervals(all_votes, best), len(votes))


def laplace_evidence(wins: np.ndarray, ties: np.ndarray, sigma: float, beta: float) -> float:
    """Return log p(votes) under `thurstone`, about the mode, with the mode's epsilon.

    log p(votes given the mode) + log N(mode; 0, sigma^2 I) + 1/2 log det(2 pi covariance)
    """
    precision = 2.0 * (beta / sigma) ** 2
    epsilon = mode(wins, ties, precision, None)[1]
    x, _, within, level = mode(wins, ties, precision, epsilon)
    gained = np.linalg.slogdet(precision * (within + level))[1]
    log_p = likelihood(wins.astype(np.float64), ties.astype(np.float64), x, epsilon, False)[0]
    return float(log_p + 0.5 * (gained - precision * x @ x))


def _tune_thurstone(votes: Comparisons) -> Tuned:
    wins, ties = votes.counts()

    def evidence(at: Mapping[str, float]) -> float:
        return laplace_evidence(wins, ties, SIGMA, SIGMA * at["beta"])

    best = climb(evidence, {"beta": BETA / SIGMA})
    chosen = Thurstone(beta=_six(SIGMA * best["beta"]))
    compared = {"tuned": chosen, "default": Thurstone()}
    known = {name: evidence({"beta": one.beta / SIGMA}) for name, one in compared.items()}
    return Tuned(chosen, known, _intervals(evidence, best), len(votes))


def _intervals(evidence: Objective, best: Point) -> dict[str, tuple[float, float]]:
    """Return `curvature_intervals` on the scale of the estimator's own parameters."""
    found = {}
    for name, ends in curvature_intervals(evidence, best).items():
        if name == "epsilon":
            low, high = (draw_probability(end, 1.0) for end in ends)
            found["draw_probability"] = low, high
        else:
            found[name] = SIGMA * ends[0], SIGMA * ends[1]
    return found


def climb(evidence: Objective, start: Mapping[str, float]) -> Point:
    """Return the point of the largest evidence that L-BFGS finds from start, inside `BOUNDS`.

    It climbs in the logarithms, with slopes by differences.
    """
    names = list(start)
    found = minimize(
        lambda x: -evidence(dict(zip(names, np.exp(x), strict=True))),
        np.log(list(start.values())),
        method="L-BFGS-B",
        bounds=[np.log(BOUNDS[name]) for name in names],
        options={"ftol": 1e-12, "gtol": 1e-3},
    )
    return dict(zip(names, np.exp(found.x).tolist(), strict=True))


def curvature_intervals(evidence: Objective, best: Point) -> dict[str, tuple[float, float]]:
    """Return 95% intervals of the values at a maximum, from the Hessian in their logarithms.

    A value at the edge of `BOUNDS`, or one that the evidence does not bend in, has none.
    """
    names = [
        name
        for name, value in best.items()
        if 1.01 * BOUNDS[name][0] < value < BOUNDS[name][1] / 1.01
    ]
    step = 0.02
    here = np.log([best[name] for name in names])

    def at(*moves: np.ndarray) -> float:
        moved = np.exp(here + step * sum(moves, np.zeros(len(names))))
        return evidence({**best, **dict(zip(names, moved, strict=True))})

    e = np.eye(len(names))
    bend = [[at(i, j) - at(i, -j) - at(-i, j) + at(-i, -j) for j in e] for i in e]
    information = -np.array(bend).reshape(len(names), len(names)) / (4.0 * step**2)
    try:
        np.linalg.cholesky(information)
    except np.linalg.LinAlgError:
        return {}
    half = 1.96 * np.sqrt(np.diag(np.linalg.inv(information)))
    return {
        name: (best[name] * math.exp(-one), best[name] * math.exp(one))
        for name, one in zip(names, half, strict=True)
        if one < 3.0
    }


def _said(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"


def _six(value: float) -> float:
    """Round to six digits: what is printed is what was chosen."""
    return float(f"{value:.6g}")
