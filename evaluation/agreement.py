"""How often does a scorer agree with people, with the other scorers, and people with themselves?

Every two images of one ranking that a person did not tie are a judged pair. A scorer's accuracy is
the share of judged pairs in which it gives the better image the higher score, equal scores counted
half: the number by which PickScore, HPS and ImageReward are judged by their own authors. Pairs of
one prompt are not independent, so intervals are over prompts. How often two people who judged the
same pair agree is the measure beside it: a scorer that only repeated one person would get that.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import nan

import numpy as np

from arena.votes.images import Images
from evaluation.comparison.intervals import rate_interval
from evaluation.errors import EvaluationError
from evaluation.human_votes import Ranking
from evaluation.kept import Kept
from evaluation.pictures import Pictures
from evaluation.score import score_images, tasks_of
from evaluation.scorers.naming import Named

Key = tuple[str, str]  # prompt, image


@dataclass(frozen=True)
class Pair:
    """Two images of a prompt of which a person found the first better."""

    prompt: str
    better: str
    worse: str


@dataclass(frozen=True)
class Accuracy:
    """Share of judged pairs that a scorer orders as people did, with its 95% interval."""

    scorer: str
    accuracy: float
    low: float
    high: float
    pairs: int
    prompts: int


def judged_pairs(rankings: Sequence[Ranking]) -> tuple[list[Pair], int]:
    """Every strict pair of every ranking, and the number of ties that are left out."""
    pairs, ties = [], 0
    for one in rankings:
        for (a, rank_a), (b, rank_b) in combinations(zip(one.images, one.ranks, strict=True), 2):
            if rank_a == rank_b:
                ties += 1
            else:
                pairs.append(Pair(one.prompt, *((a, b) if rank_a < rank_b else (b, a))))
    return pairs, ties


def score_pairs(
    pairs: Sequence[Pair], scorers: Sequence[Named], source: Images
) -> tuple[dict[str, dict[Key, float]], list[str]]:
    """Score each image of the pairs once for its prompt, one scorer after the other.

    Returns scorer -> (prompt, image) -> score, and one sentence for each image that could not be
    read and each score that is missing; their pairs are not counted for that scorer.
    """
    keys = list(dict.fromkeys((p.prompt, image) for p in pairs for image in (p.better, p.worse)))
    names = [image for _, image in keys]
    images, kept = Pictures([prompt for prompt, _ in keys], names, source, names), Kept(None)
    groups = tasks_of(scorers, measures=False)
    problems = [said for tasks in groups for said in score_images(images, tasks, kept)]
    scores = {}
    for task in (task for group in groups for task in group):
        found, _ = kept.get(task.content, images.first)
        rows = zip(keys, images.keys, strict=True)
        scores[task.label] = {key: float(found[known][0]) for key, known in rows if known in found}
    return scores, [*images.problems(), *problems]


def differences(pairs: Sequence[Pair], scores: Mapping[Key, float]) -> np.ndarray:
    """Score of each pair's better image less that of its worse one (n,), NaN where one has none."""
    ends = ((one.prompt, one.better, one.worse) for one in pairs)
    some = [
        (scores.get((p, better), nan), scores.get((p, worse), nan)) for p, better, worse in ends
    ]
    found = np.array(some, dtype=float).reshape(-1, 2)
    return np.where(np.isfinite(found).all(axis=1), found[:, 0] - found[:, 1], nan)


def accuracy(scorer: str, pairs: Sequence[Pair], scores: Mapping[Key, float]) -> Accuracy:
    """A scorer's accuracy over the pairs whose images both have a score.

    The mean over pairs; its interval is over prompts, each counted by its pairs.
    Raises EvaluationError when no pair has two scores.
    """
    right: dict[str, list[float]] = {}
    for pair, difference in zip(pairs, differences(pairs, scores).tolist(), strict=True):
        if difference == difference:
            right.setdefault(pair.prompt, []).append((difference > 0) + 0.5 * (difference == 0))
    if not right:
        raise EvaluationError(f"{scorer} scored no pair of images that a person told apart")
    shares = np.array([np.mean(one) for one in right.values()])
    counts = np.array([len(one) for one in right.values()], dtype=float)
    low, high = rate_interval(shares, counts)
    mean = float(np.average(shares, weights=counts))
    return Accuracy(scorer, mean, low, high, int(counts.sum()), len(shares))


def same_order(a: Mapping[Key, float], b: Mapping[Key, float], pairs: Sequence[Pair]) -> float:
    """Share of different pairs of images that two scorers order alike; NaN where there is none.

    Pairs that either scorer ties are left out: it says nothing about them.
    """
    once = list({(p.prompt, *sorted((p.better, p.worse))): p for p in pairs}.values())
    alike = np.sign(differences(once, a)) * np.sign(differences(once, b))
    told = alike[np.abs(alike) > 0]  # False for NaN
    return float((told > 0).mean()) if len(told) else nan


def human_agreement(pairs: Sequence[Pair]) -> tuple[float, int]:
    """(share of agreeing votes, pairs of votes) over all two votes on the same two images.

    NaN and 0 where no pair of images was judged twice.
    """
    counts = Counter(pairs)
    agreeing = disagreeing = 0
    for pair, count in counts.items():
        agreeing += count * (count - 1) // 2
        turned = Pair(pair.prompt, pair.worse, pair.better)
        disagreeing += count * counts[turned] if pair.better < pair.worse else 0
    total = agreeing + disagreeing
    return (agreeing / total if total else nan), total
