"""Whether the arena can be believed: it predicts later votes, beside the same baselines.

The votes after the first ones are cut into blocks of equal count in time, and each is predicted

    frozen   from everything before the block, once: do the ratings hold for what comes?
    online   from everything before each vote: what following along adds, where a method can

so the past grows and nothing is ever predicted from its own future. One split could be lucky; the
blocks show how much a score varies. The baselines are what an estimator has to beat: the outcomes'
shares, and Elo as on the early leaderboards.
"""

from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

from arena.compiled import compiled
from arena.prediction.calibration import Score, log_losses, predict, predict_online, score
from arena.ratings.comparisons import A_WINS, SINGLE, TIE, Comparisons
from arena.ratings.table import HALF, Estimator
from arena.ratings.trueskill import TrueSkill

FIRST = 0.5
BLOCKS = 5
K = 24.0
BASELINES = ("constant", "elo, K=24")


@dataclass(frozen=True)
class Evaluation:
    """How well each method predicted later votes.

    table: a row per method, prediction (frozen or online) and block, and one with block null for
    all blocks together: votes, the columns of `Score`, unrated (votes with a model that the past
    never saw, which has only the prior), gain (nats per vote won over the better baseline,
    predicting in the same way the same votes) and gain_half (half the width of its 95% interval,
    from the votes' differences). probability: (n, 3) by (method, prediction). outcome: (n,), of all
    blocks.
    """

    table: pl.DataFrame
    probability: dict[tuple[str, str], np.ndarray]
    outcome: np.ndarray

    def overall(self) -> pl.DataFrame:
        """Return the rows of all blocks together, the best first."""
        return self.table.filter(pl.col("block").is_null()).drop("block").sort("log_loss")


def evaluate(
    votes: Any, estimators: Mapping[str, Estimator], blocks: int = BLOCKS, first: float = FIRST
) -> Evaluation:
    """Score estimators by name, and the baselines, on the votes after the share `first` of them.

    votes: see `Comparisons.of`; only those between two models count. Where a row sums several
    raters, each one's vote is scored. Raises ValueError where there are too few votes for the
    blocks.
    """
    comparisons = Comparisons.of(votes).between_models()
    edges = block_edges(comparisons, blocks, first)
    if edges[0] < 1 or np.any(np.diff(edges) < 1):
        raise ValueError(
            f"{len(comparisons)} votes between different models are too few to predict "
            f"{blocks} blocks of later ones; {2 * blocks} would do"
        )
    later = comparisons.part(edges[0], len(comparisons))
    row, outcome = later.single_votes()
    parts = {None: slice(None)} | {
        block: slice(*np.searchsorted(row, [start - edges[0], stop - edges[0]]))
        for block, (start, stop) in enumerate(pairwise(edges), start=1)
    }
    unseen = np.concatenate([_unseen(comparisons, i, j) for i, j in pairwise(edges)])[row]
    predictions = dict(_predictions(comparisons, estimators, edges, row))
    losses = {key: log_losses(p, outcome) for key, p in predictions.items()}
    rows = []
    for (name, kind), probability in predictions.items():
        prior_only = unseen & (name in estimators) & (kind == "frozen")
        for block, part in parts.items():
            best = min((losses[baseline, kind][part] for baseline in BASELINES), key=np.mean)
            gain = best - losses[name, kind][part]
            half = HALF * gain.std() / np.sqrt(len(gain))
            said = astuple(score(probability[part], outcome[part]))
            unrated = int(prior_only[part].sum())
            rows.append((name, kind, block, len(gain), *said, unrated, gain.mean(), half))
    columns = ["method", "prediction", "block", "votes", *(f.name for f in fields(Score))]
    return Evaluation(
        table=pl.DataFrame(rows, [*columns, "unrated", "gain", "gain_half"], orient="row"),
        probability=predictions,
        outcome=outcome,
    )


def block_edges(votes: Comparisons, blocks: int = BLOCKS, first: float = FIRST) -> np.ndarray:
    """Return where each block of n votes begins, and n: (blocks + 1,) positions.

    A block never begins inside of a K-wise vote.
    """
    n = len(votes)
    edges = np.linspace(round(n * first), n, blocks + 1).round().astype(int)
    if votes.ranking is not None:
        inside = (votes.ranking != SINGLE) & (votes.ranking == np.roll(votes.ranking, 1))
        begins = np.append(np.flatnonzero(~inside), n)
        edges = begins[np.searchsorted(begins, edges)]
    return edges


def _unseen(votes: Comparisons, start: int, stop: int) -> np.ndarray:
    """Return (stop - start,) bool: votes with a model that no vote before start had."""
    seen = np.zeros(len(votes.models), bool)
    seen[votes.a[:start]] = seen[votes.b[:start]] = True
    return ~(seen[votes.a[start:stop]] & seen[votes.b[start:stop]])


def _predictions(
    votes: Comparisons, estimators: Mapping[str, Estimator], edges: np.ndarray, row: np.ndarray
) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    """Yield ((method, prediction), probability (N, 3)) of every single vote from edges[0].

    row: (N,), the comparison after edges[0] that each of them is in.
    """
    start = edges[0]
    blocks = [(votes.part(0, i), votes.part(i, j)) for i, j in pairwise(edges)]
    for name, frozen in (("constant", constant), ("elo, K=24", elo)):
        yield (name, "frozen"), np.concatenate([frozen(*block) for block in blocks])[row]
    yield ("constant", "online"), constant_online(votes, start)[row]
    yield ("elo, K=24", "online"), elo_online(votes, start)[row]
    for name, one in estimators.items():
        said = [predict(one.fit(past), future) for past, future in blocks]
        yield (name, "frozen"), np.concatenate(said)[row]
        if isinstance(one, TrueSkill):
            # Whatever the fit takes from the votes (auto) is taken before the first block.
            p = one.fit(votes.part(0, start)).parameters
            world = p["sigma"], p["beta"], p["tau"], p["epsilon"]
            if one.counts == "each":
                yield (name, "online"), predict_online(votes.each_rater(), *world)[-len(row) :]
            else:
                yield (name, "online"), predict_online(votes, *world)[start:][row]


def constant(past: Comparisons, future: Comparisons) -> np.ndarray:
    """Return (n, 3): the past shares of wins, losses and ties, whoever plays."""
    _, outcome = past.single_votes()
    share = np.bincount(outcome, minlength=3) + 1.0  # one more of each: none is impossible
    return np.tile(share / share.sum(), (len(future), 1))


def constant_online(votes: Comparisons, start: int) -> np.ndarray:
    """Return `constant` of all votes before each one from position start on."""
    happened = np.eye(3)[votes.outcome] if votes.tally is None else votes.tally
    share = np.cumsum(happened, axis=0)[start:] - happened[start:] + 1.0
    return share / share.sum(1, keepdims=True)


def elo(past: Comparisons, future: Comparisons) -> np.ndarray:
    """Predict by Elo ratings of the past votes, K = 24.

    Elo gives an expected score and no ties: the past share of ties is taken from both sides alike.
    """
    rating = np.zeros(len(past.models))
    _elo(rating, past.a, past.b, past.outcome, np.empty(len(past)))
    expected = 1.0 / (1.0 + 10.0 ** ((rating[future.b] - rating[future.a]) / 400.0))
    return _with_ties(expected, constant(past, future)[:, TIE])


def elo_online(votes: Comparisons, start: int) -> np.ndarray:
    """Return `elo` of all votes before each one from position start on."""
    expected = np.empty(len(votes))
    _elo(np.zeros(len(votes.models)), votes.a, votes.b, votes.outcome, expected)
    return _with_ties(expected[start:], constant_online(votes, start)[:, TIE])


def _with_ties(expected: np.ndarray, tie: np.ndarray) -> np.ndarray:
    return np.stack([(1.0 - tie) * expected, (1.0 - tie) * (1.0 - expected), tie], axis=1)


@compiled
def _elo(
    rating: np.ndarray, a: np.ndarray, b: np.ndarray, outcome: np.ndarray, expected: np.ndarray
) -> None:
    """Take rating (M,) through the votes; expected (n,): a's expected score before each."""
    for n in range(len(a)):
        i, j = a[n], b[n]
        expected[n] = 1.0 / (1.0 + 10.0 ** ((rating[j] - rating[i]) / 400.0))
        scored = 1.0 if outcome[n] == A_WINS else (0.5 if outcome[n] == TIE else 0.0)
        rating[i] += K * (scored - expected[n])
        rating[j] -= K * (scored - expected[n])
