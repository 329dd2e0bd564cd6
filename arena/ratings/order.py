"""How much the order of the votes decides, where they have no times: what `fit` must say."""

from dataclasses import asdict
from typing import Any

import numpy as np

from arena.ratings.comparisons import SINGLE, Comparisons
from arena.ratings.table import HALF, Estimator
from arena.ratings.trueskill import TrueSkill

# More votes are not shuffled.
MOST_SHUFFLED = 1_000_000


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
    fixed = TrueSkill(**{**asdict(chosen), "draw_probability": p})
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
