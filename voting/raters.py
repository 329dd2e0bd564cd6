"""How well each rater's votes can be trusted, for the study's owner.

Three agreements, each a share of votes with a winner: with the rater's own earlier vote about the
same pair, with the favourite where the ratings are all but sure (`choice.CLEAR`), and with the
favourite whatever the odds. A rater who presses keys at random has one half in each.
"""

from collections import defaultdict
from collections.abc import Iterable
from statistics import median
from typing import Any

from arena.ratings.table import Ratings
from voting.choice import CLEAR


def agreements(votes: Iterable[dict[str, Any]], ratings: Ratings) -> list[dict[str, Any]]:
    """Return for each rater: rater, votes, left, ties, seconds, repeats, known, arena, last.

    votes: pairwise votes of the page, in time order. left, ties: shares of the votes; seconds: the
    median; repeats, known, arena: [agreeing, counted]; last: when the newest vote was.
    """
    by_rater = defaultdict(list)
    for vote in votes:
        if "outcome" in vote:
            by_rater[vote["rater"]].append(vote)
    return [_of(rater, own, ratings) for rater, own in sorted(by_rater.items())]


def _of(rater: str, votes: list[dict[str, Any]], ratings: Ratings) -> dict[str, Any]:
    counted = {name: [0, 0] for name in ("repeats", "known", "arena")}
    before: dict[frozenset[str], str | None] = {}
    models = set(ratings.table["model"])

    def count(name: str, agrees: bool) -> None:
        counted[name][0] += agrees
        counted[name][1] += 1

    for vote in votes:
        winner = {"a": 0, "b": 1}.get(vote["outcome"])
        shown = frozenset(vote["items"])
        chosen = None if winner is None else vote["items"][winner]
        if chosen is not None and before.get(shown) is not None:
            count("repeats", before[shown] == chosen)
        before[shown] = chosen
        a, b = vote["model_a"], vote["model_b"]
        if winner is None or not {a, b} <= models:
            continue
        chances = ratings.win_probability(a, b), ratings.win_probability(b, a)
        favourite = chances.index(max(chances))
        count("arena", winner == favourite)
        if max(chances) >= CLEAR:
            count("known", winner == favourite)
    return {
        "rater": rater,
        "votes": len(votes),
        "left": sum(vote["outcome"] == "a" for vote in votes) / len(votes),
        "ties": sum(vote["outcome"] in ("tie", "both_bad") for vote in votes) / len(votes),
        "seconds": median(vote["seconds"] for vote in votes),
        **counted,
        "last": votes[-1]["created_at"],
    }
