"""The paper's arena: TrueSkill by one traversal of the votes in time order.

Herbrich, Minka and Graepel (2006), two players, one a side; method 1. Each vote moves both models
by the moments of a truncated Gaussian, so the order matters and going on from earlier ratings with
the new votes alone gives what one pass over all of them gives. A K-wise vote (K-Sort Arena) is one
free-for-all update: `free_for_all`. The ratings of estimators that do not depend on the order are
in `thurstone` and `bradley_terry`.
"""

import math
import sys
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import polars as pl

from arena.ratings.comparisons import A_WINS, TIE, Comparisons, groups
from arena.ratings.free_for_all import Rankings, free_for_all, when
from arena.ratings.gaussian import compiled, v_w_draw, v_w_strict
from arena.ratings.table import Ratings
from arena.schema import RATINGS


@compiled
def update(
    mu_w: float, var_w: float, mu_l: float, var_l: float, beta2: float, epsilon: float, tie: bool
) -> tuple[float, float, float, float]:
    """Update winner w and loser l after one vote; var already holds tau^2.

        c^2 = 2 beta^2 + s_w^2 + s_l^2,  t = (mu_w - mu_l) / c,  e = epsilon / c
        mu_w += s_w^2 / c v,  mu_l -= s_l^2 / c v,  sigma^2 = s^2 (1 - s^2 / c^2 w)

    Returns (mu_w, var_w, mu_l, var_l).
    """
    c2 = 2.0 * beta2 + var_w + var_l
    c = math.sqrt(c2)
    t = (mu_w - mu_l) / c
    e = epsilon / c
    v, w = v_w_draw(t, e) if tie else v_w_strict(t - e)
    return (
        mu_w + var_w / c * v,
        var_w * (1.0 - var_w / c2 * w),
        mu_l - var_l / c * v,
        var_l * (1.0 - var_l / c2 * w),
    )


@compiled
def traverse(
    mu: np.ndarray,
    sigma: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    outcome: np.ndarray,
    beta2: float,
    tau2: float,
    epsilon: float,
) -> None:
    """Take mu and sigma (M,) through the votes (n,) in order, in place.

    sigma is kept rather than its square, so that going on from written ratings is identical to the
    last bit. A vote between a model and itself says nothing and is skipped, its tau with it.
    """
    for k in range(len(a)):
        i, j = a[k], b[k]
        if i == j:
            continue
        if outcome[k] != A_WINS and outcome[k] != TIE:
            i, j = j, i
        tie = outcome[k] == TIE
        var_i, var_j = sigma[i] * sigma[i] + tau2, sigma[j] * sigma[j] + tau2
        mu[i], var_i, mu[j], var_j = update(mu[i], var_i, mu[j], var_j, beta2, epsilon, tie)
        sigma[i], sigma[j] = math.sqrt(var_i), math.sqrt(var_j)


@compiled
def traverse_with_rankings(
    mu: np.ndarray,
    sigma: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    outcome: np.ndarray,
    before: np.ndarray,
    start: np.ndarray,
    member: np.ndarray,
    tied: np.ndarray,
    beta2: float,
    tau2: float,
    epsilon: float,
) -> None:
    """As `traverse`, with K-wise vote r (see `Rankings`) after the first before[r] pairwise votes.

    before: (R,), not decreasing.
    """
    done = 0
    for r in range(len(before)):
        now = slice(done, before[r])
        traverse(mu, sigma, a[now], b[now], outcome[now], beta2, tau2, epsilon)
        done = before[r]
        players = member[start[r] : start[r + 1]]
        mean, var = mu[players], sigma[players] ** 2 + tau2
        free_for_all(mean, var, tied[start[r] : start[r + 1]], beta2, epsilon)
        mu[players], sigma[players] = mean, np.sqrt(var)
    traverse(mu, sigma, a[done:], b[done:], outcome[done:], beta2, tau2, epsilon)


def draw_margin(draw_probability: float, beta: float) -> float:
    """Return epsilon = Phi^-1((p + 1) / 2) sqrt(2) beta: two equals draw with probability p.

    Infinite for p = 1. (scipy's quantile is as exact, but takes a tenth of a second to import.)
    """
    p = (draw_probability + 1.0) / 2.0
    return NormalDist().inv_cdf(p) * math.sqrt(2.0) * beta if p < 1.0 else math.inf


@dataclass(frozen=True)
class TrueSkill:
    """TrueSkill's parameters, on the scale of mu; the defaults are the authors'.

    mu, sigma: the prior of a model never seen. beta: the spread of one performance. tau: what a
    model's sigma gains before each of its votes. draw_probability: how often two equals tie, from
    0 up to 1, or "auto": the share of ties among the votes.
    """

    mu: float = 25.0
    sigma: float = 25.0 / 3.0
    beta: float = 25.0 / 6.0
    tau: float = 25.0 / 300.0
    draw_probability: float | str = 0.10

    def fit(
        self,
        votes: pl.DataFrame | Comparisons | None = None,
        prior: Ratings | pl.DataFrame | None = None,
        rankings: pl.DataFrame | None = None,
    ) -> Ratings:
        """Rate the models by one pass over the votes in time order.

        votes: pairwise votes. prior: earlier ratings to go on from, with `votes` only the newer
        ones; then every one of these models is in the result, and "auto" keeps the draw probability
        that they were made with. rankings: K-wise votes (see `Rankings.of`), each one free-for-all
        update, after the pairwise votes of its time or earlier; not among `votes` as pairs too.
        Raises ValueError for parameters out of range, and for ties where draws have no probability.
        """
        self._validate()
        start = _prior_table(prior)
        pairs = Comparisons.of(votes if votes is not None else _NO_VOTES)
        ranked = Rankings.of(rankings) if rankings is not None else None
        models = sorted({*pairs.models, *start["model"], *(ranked.models if ranked else ())})
        pairs = _recoded(pairs, models)
        every = _joined(pairs, _recoded(ranked.pairs(), models)) if ranked else pairs
        draw_probability = self._draw_probability(every, prior)
        if draw_probability == 0.0 and np.any((every.outcome == TIE) & (every.a != every.b)):
            raise ValueError("the votes have ties, so draw_probability must be above 0, or auto")
        epsilon = draw_margin(draw_probability, self.beta)
        known = np.searchsorted(models, start["model"].to_list())
        mu, sigma = np.full(len(models), float(self.mu)), np.full(len(models), float(self.sigma))
        mu[known], sigma[known] = start["mu"].to_numpy(), start["sigma"].to_numpy()
        world = self.beta**2, self.tau**2, epsilon
        if ranked is None:
            traverse(mu, sigma, pairs.a, pairs.b, pairs.outcome, *world)
        else:
            member = np.searchsorted(models, ranked.models).astype(np.int32)[ranked.member]
            schedule = _before(votes, ranked), ranked.start, member, ranked.tied
            traverse_with_rankings(mu, sigma, pairs.a, pairs.b, pairs.outcome, *schedule, *world)
        return Ratings(
            table=_table(every, mu, sigma, start, known),
            estimator="trueskill",
            parameters={
                "mu": float(self.mu),
                "sigma": float(self.sigma),
                "beta": float(self.beta),
                "tau": float(self.tau),
                "draw_probability": draw_probability,
                "epsilon": epsilon,
            },
        )

    def _validate(self) -> None:
        for name, low in (("sigma", 0.0), ("beta", 0.0)):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > low):
                raise ValueError(f"{name} must be above {low:g}, not {getattr(self, name)}")
        if not math.isfinite(self.mu):
            raise ValueError(f"mu must be a number, not {self.mu}")
        if not (math.isfinite(self.tau) and self.tau >= 0.0):
            raise ValueError(f"tau must be 0 or above, not {self.tau}")
        p = self.draw_probability
        if p != "auto" and not (isinstance(p, int | float) and 0.0 <= p < 1.0):
            raise ValueError(f"draw_probability must be from 0 up to 1, or auto, not {p}")

    def _draw_probability(self, votes: Comparisons, prior: Ratings | pl.DataFrame | None) -> float:
        if self.draw_probability != "auto":
            return float(self.draw_probability)
        if prior is None:
            # Among real votes few models are equal, so the tie rate is a little below the
            # probability for equals; it is the usual estimate and needs no fit. Were every vote a
            # tie, the margin would be infinite: then one vote more is taken to be none.
            met = int((votes.a != votes.b).sum())
            return min(votes.tie_rate(), met / (met + 1.0))
        if isinstance(prior, pl.DataFrame):
            raise ValueError(
                "a table of earlier ratings does not say its draw probability: give "
                "draw_probability, or the Ratings that hold it"
            )
        kept = prior.parameters["draw_probability"]
        print(f"draw probability {kept:.4g}, as in the earlier ratings", file=sys.stderr)
        return kept


_NO_VOTES = Comparisons([], np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int8))


def _recoded(votes: Comparisons, models: list[str]) -> Comparisons:
    """Return the votes with their codes as positions in `models`, sorted names that hold theirs."""
    if votes.models == models:
        return votes
    code = np.searchsorted(models, votes.models).astype(np.int32)
    return Comparisons(models, code[votes.a], code[votes.b], votes.outcome)


def _joined(one: Comparisons, two: Comparisons) -> Comparisons:
    both = zip((one.a, one.b, one.outcome), (two.a, two.b, two.outcome), strict=True)
    return Comparisons(one.models, *(np.concatenate(columns) for columns in both))


def _before(votes: pl.DataFrame | Comparisons | None, rankings: Rankings) -> np.ndarray:
    """Return how many pairwise votes come before each K-wise vote: those that are not later."""
    if votes is None:
        return np.zeros(len(rankings), np.int64)
    if isinstance(votes, Comparisons):
        raise ValueError(
            "comparisons do not hold their times: give the votes as a table to rate them together "
            "with rankings"
        )
    return np.searchsorted(np.sort(when(votes)), rankings.time, side="right")


def _prior_table(prior: Ratings | pl.DataFrame | None) -> pl.DataFrame:
    if prior is None:
        return pl.DataFrame(schema=RATINGS)
    return prior.table if isinstance(prior, Ratings) else prior


def _table(
    votes: Comparisons, mu: np.ndarray, sigma: np.ndarray, start: pl.DataFrame, known: np.ndarray
) -> pl.DataFrame:
    """Return the ratings with tallies and groups of the earlier and the new votes together."""
    wins, ties = votes.counts()
    tallies = {
        "votes": wins.sum(1) + wins.sum(0) + ties.sum(1),
        "wins": wins.sum(1),
        "losses": wins.sum(0),
        "ties": ties.sum(1),
    }
    compared = (wins + wins.T + ties).astype(np.float64)
    for name, tally in tallies.items():
        tally[known] += start[name].to_numpy()
    # Models of one group were linked by the earlier votes: a chain with their votes as weight
    # links them again, and counts each vote once (each of them has two models).
    for _, members in start.with_columns(place=known).group_by("group"):
        chain, weight = members["place"].to_numpy(), members["votes"].to_numpy() / 2
        compared[chain[:-1], chain[1:]] += weight[:-1]
        compared[chain[-1], chain[0]] += weight[-1]
    table = pl.DataFrame(
        {"model": votes.models, "mu": mu, "sigma": sigma, **tallies, "group": groups(compared)},
        schema=RATINGS,
    )
    return table.sort("mu", "model", descending=[True, False])
