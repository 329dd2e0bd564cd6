"""Every estimator and every baseline on the same later votes, split in time several times.

The votes after `FIRST` of them are cut into blocks of equal count, and each block is predicted

    frozen   from everything before the block, once: do the ratings hold for what comes?
    online   from everything before each vote: what following along adds, where a method can

so the past grows and nothing is ever predicted from its own future. One split could be lucky; the
blocks show how much a score varies.
"""

from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, fields
from itertools import pairwise

import numpy as np
import polars as pl

from arena.prediction.baselines import constant, constant_online, elo, elo_online
from arena.prediction.calibration import Score, between_models, foretell, log_losses, score
from arena.prediction.evidence import foresee
from arena.ratings.comparisons import Comparisons
from arena.ratings.table import Estimator
from arena.ratings.trueskill import TrueSkill

FIRST = 0.5
BLOCKS = 5
BASELINES = ("constant", "elo, K=24")


@dataclass(frozen=True)
class Evaluation:
    """How well each method predicted later votes.

    table: a row a method, prediction (frozen or online) and block, and one with block null for all
    blocks together: votes, the columns of `Score`, unrated (votes that the method says nothing of,
    see `foretell`), gain (nats a vote won over the better baseline, predicting in the same way the
    same votes) and gain_half (half the width of its 95% interval, from the votes' differences).
    probability: (n, 3) by (method, prediction). outcome: (n,), of all blocks.
    """

    table: pl.DataFrame
    probability: dict[tuple[str, str], np.ndarray]
    outcome: np.ndarray

    def overall(self) -> pl.DataFrame:
        """Return the rows of all blocks together, the best first."""
        return self.table.filter(pl.col("block").is_null()).drop("block").sort("log_loss")


def evaluate(
    votes: pl.DataFrame | Comparisons, estimators: Mapping[str, Estimator], blocks: int = BLOCKS
) -> Evaluation:
    """Score estimators by name, and the baselines, on the later votes.

    Raises ValueError where there are too few votes between different models for the blocks.
    """
    comparisons = between_models(votes)
    edges = block_edges(len(comparisons), blocks)
    if edges[0] < 1 or np.any(np.diff(edges) < 1):
        raise ValueError(
            f"{len(comparisons)} votes between different models are too few to predict "
            f"{blocks} blocks of later ones; {2 * blocks} would do"
        )
    outcome = comparisons.outcome[edges[0] :]
    parts = {None: slice(None)} | {
        block: slice(start - edges[0], stop - edges[0])
        for block, (start, stop) in enumerate(pairwise(edges), start=1)
    }
    predictions = {
        (name, kind): (probability, unrated)
        for name, kind, probability, unrated in _predictions(comparisons, estimators, edges)
    }
    losses = {key: log_losses(p, outcome) for key, (p, _) in predictions.items()}
    rows = []
    for (name, kind), (probability, unrated) in predictions.items():
        for block, part in parts.items():
            best = min((losses[baseline, kind][part] for baseline in BASELINES), key=np.mean)
            gain = best - losses[name, kind][part]
            half = 1.96 * gain.std() / np.sqrt(len(gain))
            said = astuple(score(probability[part], outcome[part]))
            silent = int(unrated[part].sum())
            rows.append((name, kind, block, len(gain), *said, silent, gain.mean(), half))
    columns = ["method", "prediction", "block", "votes", *(f.name for f in fields(Score))]
    return Evaluation(
        table=pl.DataFrame(rows, [*columns, "unrated", "gain", "gain_half"], orient="row"),
        probability={key: p for key, (p, _) in predictions.items()},
        outcome=outcome,
    )


def block_edges(n: int, blocks: int = BLOCKS) -> np.ndarray:
    """Return where each block of n votes begins, and n: (blocks + 1,) positions."""
    return np.linspace(round(n * FIRST), n, blocks + 1).round().astype(int)


def _predictions(
    votes: Comparisons, estimators: Mapping[str, Estimator], edges: np.ndarray
) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Yield (method, prediction, probability (n, 3), unrated (n,)) of the votes from edges[0]."""
    start, all_rated = edges[0], np.zeros(len(votes) - edges[0], bool)
    blocks = [(votes.part(0, i), votes.part(i, j)) for i, j in pairwise(edges)]
    for name, frozen in (("constant", _constant), ("elo, K=24", elo)):
        yield name, "frozen", np.concatenate([frozen(*block) for block in blocks]), all_rated
    yield "constant", "online", constant_online(votes, start), all_rated
    yield "elo, K=24", "online", elo_online(votes, start), all_rated
    for name, estimator in estimators.items():
        said = [foretell(estimator, *block) for block in blocks]
        probability, unrated = (np.concatenate(part) for part in zip(*said, strict=True))
        yield name, "frozen", probability, unrated
        if isinstance(estimator, TrueSkill):
            # Whatever the fit takes from the votes (auto) is taken before the first block.
            p = estimator.fit(votes.part(0, start)).parameters
            online = foresee(votes, p["sigma"], p["beta"], p["tau"], p["epsilon"])
            yield name, "online", online[start:], all_rated


def _constant(past: Comparisons, future: Comparisons) -> np.ndarray:
    return constant(past, len(future))
