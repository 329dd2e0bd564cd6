"""The one rule by which a policy is called better, wherever that is said.

The terminal, the check, the champion and the summary say the same of the same numbers. By scores:
the headline scorer's, over the same prompts and noise, with Holm's correction over every policy and
scorer that is compared at once. By votes: people's about the images of each version, as the ratings
sum them up, with Holm's correction over every version that is compared at once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.special import ndtr

from arena.ratings.leaderboards import HALF
from arena.ratings.table import Ratings
from evaluation.comparison.intervals import ALPHA, holm
from evaluation.comparison.statistics import Comparison, compare, with_holm

RULES = {
    "scores": f"win_rate > 0.5 and p_holm < {ALPHA}",
    "votes": f"difference of the ratings by votes > 0 and p_holm < {ALPHA}",
}
BETTER, WORSE, NOT_TOLD_APART, ITSELF = "better", "worse", "not told apart", "the baseline"
TOO_FEW = "too few votes"


@dataclass(frozen=True)
class Rated:
    """How people rate a model beside another one.

    votes: about this one. difference: of the two ratings, with its 95% interval from low to high;
    NaN where one of the two has no rating. p_holm: NaN where the verdict is TOO_FEW.
    """

    votes: int = 0
    difference: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p_holm: float = math.nan
    verdict: str = TOO_FEW


def by_votes(
    ratings: Ratings, standing: str, models: Sequence[str], least: int
) -> dict[str, Rated]:
    """Return model -> how people rate it beside the one that stands.

    The difference of two ratings is N(mean, variance) (`Ratings.difference`), and
    p = 2 Phi(-|mean| / sd), corrected by Holm over all models that can be called anything. That
    takes `least` votes about the model and about the one that stands, and a chain of votes from one
    to the other: without these a rating is what was assumed of a model before any vote.
    """
    table = ratings.table
    row = {model: place for place, model in enumerate(table["model"])}
    rated = [model for model in models if {model, standing} <= row.keys() and model != standing]
    places = np.array([row[model] for model in rated], dtype=np.int64)
    mean, variance = ratings.difference(places, np.full(len(rated), row.get(standing, 0)))
    sd = np.sqrt(variance)
    votes, group = table["votes"].to_list(), table["group"].to_list()
    enough = [
        min(votes[row[model]], votes[row[standing]]) >= least
        and group[row[model]] == group[row[standing]]
        for model in rated
    ]
    p = 2.0 * ndtr(-np.abs(mean) / sd)
    corrected = iter(holm(p[enough].tolist()))
    found = {model: Rated(votes[row[model]] if model in row else 0) for model in models}
    for model, d, half, told in zip(rated, mean.tolist(), HALF * sd, enough, strict=True):
        p_holm = next(corrected) if told else math.nan
        told_apart = p_holm < ALPHA
        said = (BETTER if d > 0 else WORSE) if told_apart else NOT_TOLD_APART
        ends = d - float(half), d + float(half)
        found[model] = Rated(found[model].votes, d, *ends, p_holm, said if told else TOO_FEW)
    return found


def verdict(row: Comparison) -> str:
    """Return in two words how a policy stands to the baseline."""
    if row.policy == row.baseline:
        return ITSELF
    return {"better": BETTER, "worse": WORSE, "open": NOT_TOLD_APART}[row.verdict]


def compared(
    scores: pl.DataFrame, baseline: str, headline: str, scorers: Sequence[str]
) -> dict[str, Comparison]:
    """Return policy -> its comparison with the baseline by the headline scorer.

    scores: as `evaluation.comparison.statistics.compare` takes them; scorers: all that are shown
    together with the headline, for Holm's correction.
    """
    rows = [
        row
        for scorer in scorers
        if scorer in scores.columns
        for row in compare(scores, baseline, scorer).values()
    ]
    return {row.policy: row for row in with_holm(rows) if row.scorer == headline}
