"""Go on from the ratings of before where new votes only came after them, else fit anew.

TrueSkill is one pass in time order, so going on with the later votes alone gives, to the last bit,
what one pass over all of them gives. Whether the earlier votes are still the same and still first
is told by a hash of them, kept beside the ratings.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from arena.atomic import replacing
from arena.ratings.comparisons import Comparisons
from arena.ratings.table import Estimator, Ratings
from arena.ratings.trueskill import TrueSkill

CHUNK = 1 << 22


def fit_or_continue(
    chosen: Estimator, comparisons: Comparisons, ratings: Path
) -> tuple[Ratings, str]:
    """Return (ratings, what was done and why); write both the ratings and their state.

    ratings: the parquet of the last time, where there is one; it is replaced.
    """
    prior, said = _prior(chosen, comparisons, ratings)
    if prior is None:
        fitted = chosen.fit(comparisons)
    else:
        assert isinstance(chosen, TrueSkill)
        before, n = prior
        later = comparisons.part(n, len(comparisons))
        fitted = chosen.fit(later, prior=before)
        said = f"continued: {len(later):,} votes after the {n:,} that were rated before"
    # The state goes first: a stop in between leaves one that fits no ratings, and all is fitted.
    state = state_of(ratings)
    state.unlink(missing_ok=True)
    fitted.write(ratings)
    note = {
        "estimator": repr(chosen),
        "ratings": hashlib.sha256(ratings.read_bytes()).hexdigest(),
        "votes": len(comparisons),
        "digest": digest(comparisons),
    }
    with replacing(state) as aside:
        aside.write_text(json.dumps(note))
    return fitted, said


def state_of(ratings: Path) -> Path:
    """Return where the state of a ratings file lies."""
    return ratings.with_name("state.json")


def _prior(
    chosen: Estimator, comparisons: Comparisons, path: Path
) -> tuple[tuple[Ratings, int] | None, str]:
    """Return (ratings and how many votes they rate, or None; why not)."""
    if not isinstance(chosen, TrueSkill):
        return None, "refitted: this estimator takes all votes at once"
    note = _note(path)
    if note is None:
        return None, "fitted: there were no ratings to go on from"
    if note["estimator"] != repr(chosen):
        return None, "refitted: the parameters are not those of before"
    if chosen.draw_probability == "auto":
        return None, "refitted: draw_probability is auto, the share of ties among all votes"
    n = note["votes"]
    if n > len(comparisons) or digest(comparisons.part(0, n)) != note["digest"]:
        return None, "refitted: votes came, changed or went before the last that was rated"
    return (Ratings.read(path), n), ""


def _note(path: Path) -> dict[str, Any] | None:
    """Return the state of the ratings, None where it is not theirs."""
    try:
        note: dict[str, Any] = json.loads(state_of(path).read_text())
        same = hashlib.sha256(path.read_bytes()).hexdigest() == note["ratings"]
    except FileNotFoundError:
        return None
    return note if same else None


def digest(comparisons: Comparisons) -> str:
    """Return a hash of the comparisons in order, by the models' names."""
    names = [hashlib.sha256(name.encode()).digest()[:8] for name in comparisons.models]
    name = np.frombuffer(b"".join(names), np.uint64)
    found = hashlib.sha256()
    for start in range(0, len(comparisons), CHUNK):
        some = comparisons.part(start, start + CHUNK)
        for values in (name[some.a], name[some.b], some.outcome):
            found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()
