"""Which pair comes next: the one whose answer tells most about what the study asks.

The worth of a pair of models is the mutual information of the vote's outcome o and the difference d
of the two capabilities (all that o depends on), times how much the study asks about the two:

    I(o; d) = H(E[p(o | d)]) - E[H(p(o | d))],   d ~ N(m, s^2)
    p(a | d) = Phi((d - epsilon) / c),   p(b | d) = Phi((-d - epsilon) / c),   c = sqrt(2) beta

by Gauss-Hermite quadrature; Lindley (1956), and Houlsby et al. (2011) for pairs. Among the prompts
of the pair with most worth, one with few votes is taken.
"""

import random
import time
from collections import Counter, deque
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import polars as pl
from scipy.special import entr, ndtr

from arena.ratings.gaussian import draw_probability
from arena.ratings.leaderboards import BETA, SIGMA
from arena.ratings.table import Ratings, as_ratings
from arena.ratings.trueskill import TrueSkill
from arena.schema import RATINGS
from voting.catalogue import Catalogue, Item

# How much more than any other a pair is asked about: a policy's newest version against the
# champion (until there is one, the baseline), and two policies.
AGAINST_STANDING, AMONG_POLICIES = 3.0, 2.0
CLEAR = 0.95  # a pair with a favourite this likely measures raters, and no model
AT_ONCE_SECONDS = 20.0  # pairs shown within are taken to be under way
LOOKED_AT = 64  # prompts of which the one with fewest votes is taken

_NODES, _WEIGHTS = np.polynomial.hermite.hermgauss(32)
Pair = frozenset[str]


def information(mean: np.ndarray, variance: np.ndarray, beta: float, epsilon: float) -> np.ndarray:
    """Return I(o; d) in nats, in the shape of mean: what one vote tells of a pair's difference.

    mean, variance: of the difference of the two capabilities. beta: the spread of one performance.
    epsilon: the draw margin; 0 leaves no ties.
    """
    d = mean[..., None] + np.sqrt(2.0 * variance)[..., None] * _NODES
    c = np.sqrt(2.0) * beta
    a, b = ndtr((d - epsilon) / c), ndtr((-d - epsilon) / c)
    outcomes = np.stack([a, b, np.maximum(1.0 - a - b, 0.0)])
    weights = _WEIGHTS / _WEIGHTS.sum()
    told = entr(outcomes @ weights).sum(0) - (entr(outcomes).sum(0) @ weights)
    return np.maximum(told, 0.0)


def rated(
    base: Ratings, models: Sequence[str], votes: pl.DataFrame, rankings: pl.DataFrame | None
) -> Ratings:
    """Return the ratings after the page's votes: TrueSkill goes on from the lake's.

    models: all that are asked about; those without a rating start from the prior. votes, rankings:
    as `Comparisons.of` takes them. Ratings by another estimator are where TrueSkill starts.
    """
    told = base.parameters
    new = [model for model in models if model not in set(base.table["model"])]
    mean = base.table["mu"].mean() if base.table.height else None
    start = {
        "mu": told.get("mu", mean if isinstance(mean, float) else 0.0),
        "sigma": told.get("sigma", SIGMA * told["beta"] / BETA),
    }
    fresh = pl.DataFrame({"model": new}, schema={"model": pl.String}).with_columns(
        **{name: pl.lit(value) for name, value in start.items()}
    )
    known = base.table.select(*RATINGS)
    prior = as_ratings(pl.concat([known, fresh], how="diagonal").fill_null(0))
    draws = max(draw_probability(told["epsilon"], told["beta"]), 0.01)
    tau = told.get("tau", 0.0)
    sensor = TrueSkill(start["mu"], start["sigma"], told["beta"], tau, draws)
    return sensor.fit(votes, prior=prior, rankings=rankings)


class Chooser:
    """Pairs and fours of a catalogue's images. Not to be used by two threads at a time."""

    def __init__(self, catalogue: Catalogue, ratings: Ratings, seed: int | None = None):
        self.random = random.Random(seed)
        self.models = sorted({item.model for item in catalogue.items.values()})
        self.place = {model: place for place, model in enumerate(self.models)}
        self.counts = Counter(catalogue.counts)
        self.images: list[dict[str, list[Item]]] = [{} for _ in self.models]
        for item in catalogue.items.values():
            self.images[self.place[item.model]].setdefault(item.prompt, []).append(item)
        self.pairs = np.array(
            [
                (i, j)
                for i, j in combinations(range(len(self.models)), 2)
                if not self.images[i].keys().isdisjoint(self.images[j])
            ],
            dtype=np.int64,
        ).reshape(-1, 2)
        self.asked = np.array(
            [asked(catalogue, self.models[i], self.models[j]) for i, j in self.pairs]
        )
        self.prompts: dict[tuple[int, int], list[str]] = {}
        self.broken: set[str] = set()
        self._under_way: deque[tuple[float, int]] = deque()
        self.rate(ratings)

    def rate(self, ratings: Ratings) -> None:
        """Weigh the pairs by these ratings, which have every model."""
        rows = {model: row for row, model in enumerate(ratings.table["model"])}
        order = np.array([rows[model] for model in self.models], dtype=np.int64)
        a, b = order[self.pairs[:, 0]], order[self.pairs[:, 1]]
        mean, variance = ratings.difference(a, b)
        beta, epsilon = ratings.parameters["beta"], ratings.parameters["epsilon"]
        self.worth = self.asked * information(mean, variance, beta, epsilon)
        c = np.sqrt(2.0 * beta**2 + variance)
        self.clear = np.flatnonzero(ndtr((np.abs(mean) - epsilon) / c) >= CLEAR).tolist()

    def pair(self, seen: set[Pair]) -> tuple[Item, Item] | None:
        """Return the two images most worth asking, None where all were seen.

        seen: the pairs of ids that are not to be shown again.
        """
        now = time.monotonic()
        while self._under_way and self._under_way[0][0] < now - AT_ONCE_SECONDS:
            self._under_way.popleft()
        under_way = np.zeros(len(self.pairs))
        for _, k in self._under_way:
            under_way[k] += 1.0
        jitter = 1.0 + 1e-6 * np.array([self.random.random() for _ in self.pairs])
        for k in np.argsort(-self.worth / (1.0 + under_way) * jitter).tolist():
            found = self.images_of(k, seen)
            if found:
                self._under_way.append((now, k))
                return found
        return None

    def known_pair(self, seen: set[Pair]) -> tuple[Item, Item] | None:
        """Return images of two models of which one is far better, to measure the rater."""
        for k in self.random.sample(self.clear, min(len(self.clear), 8)):
            found = self.images_of(k, seen)
            if found:
                return found
        return None

    def images_of(self, k: int, seen: set[Pair]) -> tuple[Item, Item] | None:
        """Return two unseen images of a pair of models, of a prompt with few votes."""
        i, j = (int(each) for each in self.pairs[k])
        if (i, j) not in self.prompts:
            self.prompts[i, j] = sorted(self.images[i].keys() & self.images[j].keys())
        prompts = self.prompts[i, j]
        some = self.random.sample(prompts, min(len(prompts), LOOKED_AT))
        rest = prompts if len(prompts) > LOOKED_AT else []
        for prompt in [*sorted(some, key=self.counts.__getitem__), *rest]:
            pairs = [
                (one, two)
                for one in self.images[i][prompt]
                for two in self.images[j][prompt]
                if frozenset((one.id, two.id)) not in seen and not self.broken & {one.id, two.id}
            ]
            if pairs:
                one, two = self.random.choice(pairs)
                return (one, two) if self.random.random() < 0.5 else (two, one)
        return None

    def four(self, seen: set[Pair]) -> list[Item] | None:
        """Return one image of each of four models for one prompt, of most worth together.

        The prompt is one with few votes among those with four models; the pairs of its models that
        the rater has not seen count.
        """
        prompts = [prompt for prompt, count in self._models().items() if count >= 4]
        some = self.random.sample(prompts, min(len(prompts), LOOKED_AT))
        worth = {
            tuple(pair): value for pair, value in zip(self.pairs.tolist(), self.worth, strict=True)
        }
        for prompt in sorted(some, key=self.counts.__getitem__):
            items = [
                self.random.choice(images[prompt]) for images in self.images if prompt in images
            ]
            items = [item for item in items if item.id not in self.broken]
            self.random.shuffle(items)

            def value(one: Item, two: Item) -> float:
                if frozenset((one.id, two.id)) in seen:
                    return 0.0
                i, j = sorted((self.place[one.model], self.place[two.model]))
                return float(worth.get((i, j), 0.0))

            if len(items) < 4:
                continue
            together = {one.id: sum(value(one, two) for two in items) for one in items}
            chosen = sorted(items, key=lambda item: -together[item.id])[:4]
            if any(frozenset((a.id, b.id)) not in seen for a, b in combinations(chosen, 2)):
                self.random.shuffle(chosen)
                return chosen
        return None

    def _models(self) -> Counter[str]:
        """Count the models that have an image of each prompt."""
        return Counter(prompt for images in self.images for prompt in images)


def asked(catalogue: Catalogue, one: str, two: str) -> float:
    """Return how much the study asks about two models: policies against the champion first."""
    policies = len({one, two} & catalogue.policies)
    if policies < 2:
        return 1.0
    return AGAINST_STANDING if catalogue.standing in (one, two) else AMONG_POLICIES
