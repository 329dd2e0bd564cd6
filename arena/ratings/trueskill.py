"""The paper's arena: TrueSkill by one traversal of the votes in time order.

Herbrich, Minka and Graepel (2006), two players, one a side; method 1. Each vote moves both models
by the moments of a truncated Gaussian, so the order matters and going on from earlier ratings with
the new votes alone gives what one pass over all of them gives. A K-wise vote (K-Sort Arena) is one
free-for-all update: `free_for_all`. The ratings of estimators that do not depend on the order are
in `batch`; `order_note` says how much it decides where votes have no times.

    ratings = TrueSkill().fit(votes)
    later = TrueSkill().fit(newer_votes, prior=ratings)
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from arena.compiled import compiled
from arena.ratings.batch import likely_draw_probability
from arena.ratings.comparisons import A_WINS, SINGLE, TIE, Comparisons
from arena.ratings.free_for_all import free_for_all, standing
from arena.ratings.gaussian import draw_margin, v_w_draw, v_w_strict
from arena.ratings.leaderboards import BETA, DRAW_PROBABILITY, MU, SIGMA, TAU, refuse_out_of_range
from arena.ratings.table import (
    HALF,
    LEADERBOARD,
    Estimator,
    Ratings,
    as_ratings,
    groups,
    ratings_table,
    sampled,
)

# With fewer votes a draw probability cannot be estimated: the authors' is taken.
LEAST_VOTES = 20
# More votes are not shuffled to measure what their order decides.
MOST_SHUFFLED = 1_000_000

World = tuple[float, float, float]  # beta^2, tau^2, epsilon


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
    mu: np.ndarray, sigma: np.ndarray, a: np.ndarray, b: np.ndarray, outcome: np.ndarray, w: World
) -> None:
    """Take mu and sigma (M,) through the votes (n,) in order, in place.

    sigma is kept rather than its square, so that going on from written ratings is identical to the
    last bit. A vote between a model and itself says nothing and is skipped, its tau with it.
    """
    beta2, tau2, epsilon = w
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
    ranking: np.ndarray,
    w: World,
) -> None:
    """As `traverse`, with the pairs of each K-wise vote (n,) together as one update of K models."""
    start, (beta2, tau2, epsilon) = 0, w
    while start < len(a):
        stop = start + 1
        while stop < len(a) and ranking[stop] == ranking[start]:
            stop += 1
        one = slice(start, stop)
        if ranking[start] == SINGLE:
            traverse(mu, sigma, a[one], b[one], outcome[one], w)
        else:
            member, size = standing(a[one], b[one], outcome[one])
            mean, var = np.empty(len(member)), np.empty(len(member))
            for k in range(len(member)):
                mean[k], var[k] = mu[member[k]], sigma[member[k]] * sigma[member[k]] + tau2
            if len(member) == 2:
                mean[0], var[0], mean[1], var[1] = update(
                    mean[0], var[0], mean[1], var[1], beta2, epsilon, len(size) == 1
                )
            elif len(member) > 2:
                free_for_all(mean, var, size, beta2, epsilon)
            for k in range(len(member)):
                mu[member[k]], sigma[member[k]] = mean[k], math.sqrt(var[k])
        start = stop


@dataclass(frozen=True)
class TrueSkill:
    """TrueSkill's parameters, on the scale of mu; the defaults are the authors'.

    mu, sigma: the prior of a model never seen. beta: the spread of one performance. tau: what a
    model's sigma gains before each of its votes. draw_probability: how often two equals tie, from
    0 up to 1, or "auto": the most likely one given all wins and ties (`likely_draw_probability`;
    with fewer votes than `LEAST_VOTES` the authors' 0.10). counts: what a row that sums several
    raters is: one vote by its "majority" (the paper's, and the better prediction of later rows:
    docs/evidence/held_out.md), or "each" rater's own vote.
    """

    mu: float = MU
    sigma: float = SIGMA
    beta: float = BETA
    tau: float = TAU
    draw_probability: float | str = "auto"
    counts: str = "majority"

    def fit(self, votes: Any = None, prior: Any = None, rankings: Any = None) -> Ratings:
        """Rate the models by one pass over the votes in time order.

        votes, rankings: see `Comparisons.of`; every K-wise vote is one free-for-all update.
        prior: ratings to start from, with `votes` only the newer ones; every one of these models is
        in the result. Ratings by this estimator go on with their own parameters, and "auto" keeps
        their draw probability; a leaderboard (see `as_ratings`) only says where its models start.

        Raises ValueError for parameters out of range, for ties where draws have no probability, for
        a prior by another estimator or with other parameters, and for votes that it already has.
        """
        refuse_out_of_range(asdict(self))
        new = Comparisons.of(votes, rankings)
        p, before = self.draw_probability, None
        if prior is not None:
            before = as_ratings(prior)
            if before.estimator != LEADERBOARD:
                self._refuse_to_go_on(before, new)
                p = before.parameters["draw_probability"] if p == "auto" else p
            new = new.recoded(sorted({*new.models, *before.table["model"]}))
        models, (wins, ties) = new.models, new.counts()
        if p == "auto" and wins.sum() + ties.sum() / 2 < LEAST_VOTES:
            p = DRAW_PROBABILITY
        elif p == "auto":
            p = likely_draw_probability(wins, ties, self.sigma, self.beta)
        if p == 0.0 and ties.any():
            raise ValueError(
                "the votes have ties, so draw_probability must be above 0, or auto"
                + (", and the earlier ratings have 0: fit all votes again" if before else "")
            )
        epsilon = draw_margin(float(p), self.beta)
        mu, sigma = np.full(len(models), float(self.mu)), np.full(len(models), float(self.sigma))
        if before is not None:
            known = np.searchsorted(models, before.table["model"].to_list())
            mu[known] = before.table["mu"].to_numpy()
            sigma[known] = before.table["sigma"].to_numpy()
        ordered = new.each_rater() if self.counts == "each" else new
        codes = ordered.a, ordered.b, ordered.outcome
        w = float(self.beta) ** 2, float(self.tau) ** 2, epsilon
        if ordered.ranking is None:
            traverse(mu, sigma, *codes, w)
        else:
            traverse_with_rankings(mu, sigma, *codes, ordered.ranking, w)
        table = ratings_table(models, wins, ties, mu, sigma)
        if before is not None:
            table = _with_earlier(table, wins, ties, models, before)
        numbers = {name: float(getattr(self, name)) for name in ("mu", "sigma", "beta", "tau")}
        return Ratings(
            table=table,
            estimator="trueskill",
            parameters={**numbers, "draw_probability": float(p), "epsilon": epsilon},
            settings=asdict(self),
            ids=sampled(before.ids if before else [], new.ids),
        )

    def _refuse_to_go_on(self, before: Ratings, new: Comparisons) -> None:
        """Raise ValueError where these votes cannot go on from the earlier ratings."""
        if before.estimator != "trueskill":
            raise ValueError(
                f"the earlier ratings are by {before.estimator}, which has no order of time to go "
                "on in; fit all votes again, or give ratings by trueskill"
            )
        for name in ("mu", "sigma", "beta", "tau", "draw_probability"):
            mine, theirs = getattr(self, name), before.parameters[name]
            if mine != "auto" and not math.isclose(mine, theirs, rel_tol=1e-9):
                raise ValueError(
                    f"the earlier ratings were made with {name} {theirs:.6g}, not {mine:.6g}; go "
                    "on with theirs (`ratings.estimate_as()`), or fit all votes again"
                )
        if new.ids is not None and before.ids:
            again = new.ids.filter(new.ids.is_in(before.ids))
            if len(again):
                raise ValueError(
                    f"the earlier ratings already have vote {again[0]!r}; give only newer votes"
                )


def warmed_up(chosen: Estimator) -> Estimator:
    """Return the estimator after a fit of a few votes: what it compiles or loads is there then."""
    few = np.arange(LEAST_VOTES, dtype=np.int32) % 2
    chosen.fit(Comparisons(["a", "b"], few, 1 - few, np.zeros(LEAST_VOTES, np.int8)))
    return chosen


def _with_earlier(
    table: pl.DataFrame, wins: np.ndarray, ties: np.ndarray, models: list[str], before: Ratings
) -> pl.DataFrame:
    """Return the ratings with tallies and groups of the earlier and the new votes together."""
    tallies = ["votes", "wins", "losses", "ties"]
    earlier = before.table.select("model", *tallies, "group")
    table = table.join(earlier, on="model", how="left", suffix="_before", maintain_order="left")
    added = [pl.col(name) + pl.col(f"{name}_before").fill_null(0) for name in tallies]
    # Models of one group were linked by the earlier votes: a chain with their votes as weight
    # links them again, and counts each vote once (each of them has two models).
    compared = (wins + wins.T + ties).astype(np.float64)
    for _, members in earlier.group_by("group"):
        chain = np.searchsorted(models, members["model"].to_list())
        weight = np.maximum(members["votes"].to_numpy() / 2, 1e-9)
        np.add.at(compared, (chain, np.roll(chain, -1)), weight)
    label = dict(zip(models, groups(compared).tolist(), strict=True))
    return table.with_columns(
        *added, group=pl.col("model").replace_strict(label, return_dtype=pl.Int64)
    ).drop(pl.selectors.ends_with("_before"))


def order_note(votes: Any, chosen: Estimator, shuffles: int = 20, seed: int = 0) -> str:
    """Return what a reader must know where votes have no times: that their order decides.

    By how much is measured by rating them in `shuffles` other orders (at most a million votes,
    else the first million of them). Empty where every vote has its time, and for the estimators
    that do not depend on the order.
    """
    votes = Comparisons.of(votes)
    if votes.timed or len(votes) < 2 or not isinstance(chosen, TrueSkill):
        return ""
    some = votes.part(0, MOST_SHUFFLED)
    # What moves is a whole vote: one row, or all the pairs of a ranking.
    unit = np.arange(len(some))
    if some.ranking is not None:
        unit = np.cumsum((some.ranking == SINGLE) | (np.diff(some.ranking, prepend=-2) != 0)) - 1
    p = chosen.fit(votes).parameters["draw_probability"]
    fixed = replace(chosen, draw_probability=p)
    first = fixed.fit(some).table
    rng = np.random.default_rng(seed)
    swaps, moved = 0, 0.0
    for _ in range(shuffles):
        turn = rng.permutation(unit[-1] + 1)[unit]
        other = fixed.fit(some.only(np.argsort(turn, kind="stable"))).table
        swaps += other["model"].to_list() != first["model"].to_list()
        both = first.join(other, on="model", suffix="_other")
        shift = (both["mu"] - both["mu_other"]).to_numpy()
        # The level of the whole board moves too, and means nothing.
        shift = np.abs(shift - shift.mean()) / (HALF * both["sigma"].to_numpy())
        moved = max(moved, float(shift.max()))
    if not swaps and moved < 0.005:
        return ""
    n = f"the first {len(some):,} votes" if len(some) < len(votes) else "the votes"
    return (
        f"votes without a time are rated in the order of the file, and trueskill depends on it: in "
        f"{shuffles} other orders of {n} the ranking changed {swaps} times and a mu moved by up to "
        f"{moved:.0%} of its 95% interval; thurstone and bradley_terry do not depend on the order"
    )
