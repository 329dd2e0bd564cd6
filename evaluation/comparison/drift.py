"""What a win rate does not see: does a policy darken, turn garish, or draw the same image again?

    brightness, saturation   of each image, from 0 to 1 (`pictures.light`)
    diversity                mean distance between the embeddings of a prompt's images, of which
                             there must be two or more
    FD                       Frechet distance between the embeddings of the policy's images and the
                             baseline's, where there are at least as many images as dimensions

Each as the policy's difference from the baseline over the prompts that both have, with a 95%
interval; preference tuning is known to darken and to collapse (Clark et al. 2024 among others).
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from evaluation.comparison.intervals import bootstrap_interval
from evaluation.comparison.scores import MEASURES, Scores

# Below the baseline's by this share, the interval wholly below zero, a measure has fallen.
FALLEN = 0.1


@dataclass(frozen=True)
class Drift:
    """One measure of a policy beside the baseline's.

    baseline : the baseline's mean over the prompts. difference, low, high : the policy's less the
    baseline's, with its 95% interval. prompts : over how many. fallen : whether the measure is
    lower beyond doubt, and by more than a tenth.
    """

    policy: str
    measure: str
    prompts: int
    baseline: float
    difference: float
    low: float
    high: float
    fallen: bool


def drifts(scores: Scores, baseline: str) -> list[Drift]:
    """Every measure that the table has, for every policy but the baseline."""
    measures = {name: scores.values[name] for name in MEASURES if name in scores.values}
    measures["diversity"] = diversity(scores)
    beside = {name: scores.beside(values, baseline)[0] for name, values in measures.items()}
    found = []
    for policy, column in scores.policies.items():
        for measure, means in beside.items() if policy != baseline else ():
            own = means[np.isfinite(means[:, column, 1]), column]
            if len(own):
                change = own[:, 1]
                numbers = (own[:, 0] - change).mean(), change.mean(), *bootstrap_interval(change)
                old, difference, low, high = map(float, numbers)
                fallen = high < 0 and difference < -FALLEN * old
                found.append(Drift(policy, measure, len(own), old, difference, low, high, fallen))
    return found


def diversity(scores: Scores) -> np.ndarray:
    """(n, P): mean distance of an image's embedding to those of the policy's other images of its
    prompt; NaN where there is no other."""
    found = np.full((len(scores.prompts), len(scores.policies)), np.nan)
    if scores.embeddings is not None:
        for prompt in np.flatnonzero(np.bincount(scores.prompt_of) > 1):
            rows = np.flatnonzero(scores.prompt_of == prompt)
            for column in scores.policies.values():
                some = scores.embeddings[rows, column].astype(float)
                known = np.isfinite(some).all(axis=1)
                if known.sum() > 1:
                    apart = cdist(some[known], some[known])
                    found[rows[known], column] = apart.sum(axis=1) / (known.sum() - 1)
    return found


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """FD of two sets of embeddings (n, d), (m, d): Dowson and Landau 1982, Heusel et al. 2017.

    |mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)); the last trace is the sum of the roots
    of C_a C_b's eigenvalues, which are real and not negative.
    """
    of_a, of_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    between = np.sqrt(np.maximum(np.linalg.eigvals(of_a @ of_b).real, 0)).sum()
    apart = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()
    return float(apart + np.trace(of_a) + np.trace(of_b) - 2 * between)


def distances(scores: Scores, baseline: str) -> dict[str, float]:
    """Policy -> FD to the baseline, for those with more images than dimensions."""
    if scores.embeddings is None:
        return {}
    sets = {}
    for policy, column in scores.policies.items():
        own = scores.embeddings[:, column].astype(float)
        own = own[np.isfinite(own).all(axis=1)]
        if len(own) > own.shape[1]:
            sets[policy] = own
    old = sets.pop(baseline, None)
    return {} if old is None else {name: frechet_distance(new, old) for name, new in sets.items()}
