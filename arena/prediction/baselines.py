"""What an estimator has to beat: the outcomes' shares, and Elo as on the early leaderboards.

Both come frozen, from past votes only, and online, where every vote is predicted from all before
it. Every function returns (n, 3): the probability of a, b and tie.
"""

import numpy as np

from arena.compiled import compiled
from arena.ratings.comparisons import A_WINS, TIE, Comparisons

K = 24.0


def constant(past: Comparisons, n: int) -> np.ndarray:
    """Return the past shares of wins, losses and ties, whoever plays, for n votes."""
    _, outcome = past.single_votes()
    share = np.bincount(outcome, minlength=3) + 1.0  # one more of each: none is impossible
    return np.tile(share / share.sum(), (n, 1))


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
    return _with_ties(expected, constant(past, len(future))[:, TIE])


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
