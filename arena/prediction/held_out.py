"""Whether the arena can be believed: it predicts later votes, beside the same baselines.

The votes after the first ones are cut into blocks of equal count in time, and each is predicted

    frozen   from everything before the block, once: do the ratings hold for what comes?
    online   from everything before each vote: what following along adds, where a method can

so the past grows and nothing is ever predicted from its own future. One split could be lucky; the
blocks show how much a score varies.
"""

from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

from arena.prediction.baselines import constant, constant_online, elo, elo_online
from arena.prediction.calibration import Score, log_losses, predict, score
from arena.prediction.evidence import predict_online
from arena.ratings.comparisons import SINGLE, Comparisons
from arena.ratings.table import HALF, Estimator
from arena.ratings.trueskill import TrueSkill

FIRST = 0.5
BLOCKS = 5
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
    for name, frozen in (("constant", _constant), ("elo, K=24", elo)):
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


def _constant(past: Comparisons, future: Comparisons) -> np.ndarray:
    return constant(past, len(future))
