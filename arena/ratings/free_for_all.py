"""One TrueSkill update of K models by one K-wise vote, as of K players in a free-for-all.

Herbrich, Minka and Graepel (2006), section 3: skills s_k ~ N(mu_k, sigma_k^2 + tau^2), performances
p_k ~ N(s_k, beta^2), and for neighbours in the ranking p_k - p_{k+1} > epsilon, or within epsilon
where their ranks are equal. Expectation propagation passes messages up and down the chain of K - 1
differences until they stay. For K = 2 it is `trueskill.update`. Reading K-wise votes is the work of
`arena.votes.rankings`.
"""

import math
from dataclasses import dataclass

import numpy as np
import polars as pl

from arena.ratings.comparisons import A_WINS, TIE, Comparisons
from arena.ratings.gaussian import above, between, compiled

# A sweep gains two digits or more; the truncations are log-concave, so they do not wander.
MOST_SWEEPS = 100
SETTLED = 1e-12  # change of a difference, in its own standard deviations


@compiled
def free_for_all(
    mu: np.ndarray, var: np.ndarray, tied: np.ndarray, beta2: float, epsilon: float
) -> None:
    """Update mu and var (K,), best first, in place; var already holds tau^2.

    tied: (K,), whether a player has the rank of the next one (the last entry is not read). Every
    truncation is kept as its share of variance, which does not cancel for upsets of 40 sigma.
    """
    k = len(mu)
    # What the comparison with the player before (0) and after (1) says of each performance, as
    # a Gaussian's precision and precision times mean.
    precision, shift = np.zeros((2, k)), np.zeros((2, k))
    known = np.full(k, np.inf)
    for _ in range(MOST_SWEEPS):
        change = 0.0
        for step in range(2 * k - 3):  # down the chain, and up again from the last but one
            i = step if step < k - 1 else 2 * k - 4 - step
            seen = _compare(i, mu, var, tied[i], beta2, epsilon, precision, shift)
            change = max(change, abs(seen - known[i]))
            known[i] = seen
        if change < SETTLED or k == 2:
            break
    for i in range(k):
        said = precision[0, i] + precision[1, i]
        heard = 1.0 + beta2 * said  # the performance's own noise dampens what is said of it
        var_i = 1.0 / (1.0 / var[i] + said / heard)
        mu[i] += var_i * (shift[0, i] + shift[1, i] - said * mu[i]) / heard
        var[i] = var_i


@compiled
def _compare(
    i: int,
    mu: np.ndarray,
    var: np.ndarray,
    tie: bool,
    beta2: float,
    epsilon: float,
    precision: np.ndarray,
    shift: np.ndarray,
) -> float:
    """Send the messages of the comparison of players i and j = i + 1 to both of them.

    Returns the mean of the truncated difference in standard deviations of the one that the others
    expect: what is still moving while the messages have not settled.
    """
    j = i + 1
    var_i = 1.0 / (1.0 / (var[i] + beta2) + precision[0, i])
    var_j = 1.0 / (1.0 / (var[j] + beta2) + precision[1, j])
    mean_i = var_i * (mu[i] / (var[i] + beta2) + shift[0, i])
    mean_j = var_j * (mu[j] / (var[j] + beta2) + shift[1, j])
    c = math.sqrt(var_i + var_j)
    t, e = (mean_i - mean_j) / c, epsilon / c
    if tie:
        mean, kept = between(t, e)
    else:
        mean, kept = above(t - e)
        mean += e
    # Truncated over expected: a Gaussian message to the difference, then on to each performance.
    pi = (1.0 / kept - 1.0) / (c * c)
    tau = (mean / kept - t) / c
    precision[1, i] = pi / (1.0 + var_j * pi)
    shift[1, i] = (tau + mean_j * pi) / (1.0 + var_j * pi)
    precision[0, j] = pi / (1.0 + var_i * pi)
    shift[0, j] = (mean_i * pi - tau) / (1.0 + var_i * pi)
    return mean


@dataclass(frozen=True)
class Rankings:
    """K-wise votes in time order as integer codes, the models of each vote best first.

    models: M names, sorted. start: (n + 1,) int64, vote r is at start[r] up to start[r + 1] of the
    flat arrays member, int32 positions in `models`, and tied, whether the next one has its rank.
    time: (n,) int64 microseconds since 1970, the largest int64 where unknown.
    """

    models: list[str]
    start: np.ndarray
    member: np.ndarray
    tied: np.ndarray
    time: np.ndarray

    @staticmethod
    def of(table: pl.DataFrame) -> "Rankings":
        """Return the rankings of a table with `models` and `ranks` (lists; equal ranks tie).

        By `created_at` where the table has it (unknown times last), then by position. Equal ranks
        keep their order in the list: the chain compares neighbours alone. A free-for-all has one
        performance a player: several images of one model in a vote stand at their mean rank, and a
        vote between images of one model alone says nothing of it and is left out. Raises ValueError
        for a vote whose lists differ in length.
        """
        sizes = table.select(pl.col("models", "ranks").list.len())
        wrong = (sizes["models"] != sizes["ranks"]).fill_null(True).arg_true()
        if len(wrong):
            m, r = sizes.row(wrong[0])
            raise ValueError(f"K-wise vote {wrong[0] + 1}: {m} models but {r} ranks; give one each")
        time = when(table)
        order = np.argsort(time, kind="stable")
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        players = (
            table.select("models", "ranks", vote=pl.Series(place))
            .explode("models", "ranks")
            .with_row_index("place")
            .group_by("vote", "models")
            .agg(rank=pl.col("ranks").mean(), place=pl.col("place").min())
            .filter(pl.len().over("vote") > 1)
            .sort("vote", "rank", "place")
        )
        names = players["models"].unique().sort()
        same = pl.col("vote") == pl.col("vote").shift(-1)
        tied = players.select(
            (same & (pl.col("rank") == pl.col("rank").shift(-1))).fill_null(False)
        )
        vote, count = np.unique(players["vote"].to_numpy(), return_counts=True)
        return Rankings(
            models=names.to_list(),
            start=np.concatenate([[0], np.cumsum(count)]).astype(np.int64),
            member=players["models"].cast(pl.Enum(names)).to_physical().cast(pl.Int32).to_numpy(),
            tied=tied.to_series().to_numpy(),
            time=time[order][vote],
        )

    def __len__(self) -> int:
        return len(self.time)

    def pairs(self) -> Comparisons:
        """Return the K (K - 1) / 2 comparisons of every vote, for tallies and groups."""
        return Comparisons(self.models, *_pairs(self.start, self.member, self.tied))


def when(table: pl.DataFrame) -> np.ndarray:
    """Return `created_at` in microseconds since 1970, the largest int64 where there is none."""
    never = np.iinfo(np.int64).max
    if "created_at" not in table.columns:
        return np.full(len(table), never)
    time = table["created_at"].cast(pl.Datetime("us")).to_physical()
    return time.fill_null(never).to_numpy()


@compiled
def _pairs(
    start: np.ndarray, member: np.ndarray, tied: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    k = np.diff(start)
    n = int((k * (k - 1) // 2).sum())
    a, b, outcome = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.int8)
    at = 0
    for r in range(len(start) - 1):
        for i in range(start[r], start[r + 1] - 1):
            tie = True
            for j in range(i + 1, start[r + 1]):
                tie = tie and tied[j - 1]
                a[at], b[at], outcome[at] = member[i], member[j], TIE if tie else A_WINS
                at += 1
    return a, b, outcome
