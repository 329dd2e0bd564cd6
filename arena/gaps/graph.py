"""Votes as a graph of images: who met whom, judged by whom, in which connected component.

The arrays that `sweeps` works on, built from a votes table. What the variances of the variables
are, `inference` decides.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components

from arena.gaps.solving import NOBODY
from arena.gaps.truncated_vote import LOSS, TIED, WIN
from arena.ratings.comparisons import tallied
from arena.schema import OUTCOMES

# A component holds its full covariance where n^3, a sweep's cost, is at most this many operations
# for each factor: up to 10 variables always, 100 with 1,000 factors, 1,000 with a million.
DENSE = 3_000


@dataclass(frozen=True)
class Graph:
    """Votes over Gaussian variables, each connected component's rows contiguous.

    A variable is an image, or a rater's taste for an image. All votes on the same difference are
    one factor. ends: (F, 4) int32, its variables, d = x[0] - x[1] + x[2] - x[3]: two images and
    their rater's two tastes, NOBODY where nothing shares such a taste. count: (F, 3) int64, its
    votes for d > 0, for d < 0 and for a tie. model: (V,) of each variable's image. taste: (V,)
    bool. seen: (V,) bool, whether an image's only rater judged it more than once: the image and
    that rater's taste are then one variable, since no vote tells the two apart. variable_start,
    factor_start: (C + 1,) where the components begin. dense: (C,) bool, which components hold a
    covariance matrix.
    """

    ends: np.ndarray
    count: np.ndarray
    model: np.ndarray
    taste: np.ndarray
    seen: np.ndarray
    variable_start: np.ndarray
    factor_start: np.ndarray
    dense: np.ndarray

    @staticmethod
    def of(votes: pl.DataFrame, models: pl.Enum) -> "tuple[Graph, Places]":
        """Build the graph of a votes table whose models are all in `models`.

        Votes are the columns of `schema.VOTES`; rater and the three counts may be missing. An image
        is told by its string and its model. A vote without both images is not in the graph, nor is
        one of an image that met itself.
        """
        kind = votes["outcome"].cast(pl.Enum(OUTCOMES)).to_physical().to_numpy()
        shown = votes.select(pl.all_horizontal(pl.col("image_a", "image_b").is_not_null()))
        rows = np.flatnonzero(shown.to_series().to_numpy())
        image, model, names = _images(votes[rows], models)
        met = image[:, 0] != image[:, 1]
        rows, image = rows[met], image[met]
        kept = votes[rows]
        summed = tallied(kept, kind[rows])  # of a, b and tie, which are WIN, LOSS and TIED
        count = np.eye(3, dtype=np.int64)[kind[rows]] if summed is None else summed
        rater = np.full(len(rows), NOBODY, np.int64)
        if "rater" in kept.columns:
            rater = _codes(kept["rater"])[0]
        tastes, of_image, sole = _tastes(image, rater, count.sum(1), len(model))
        images = len(model)
        name = np.where(sole, NOBODY, images + np.cumsum(~sole) - 1)
        ends = np.hstack([image, np.append(name, NOBODY)[tastes]]).astype(np.int32)
        of_variable = np.concatenate([np.arange(images), of_image[~sole]])
        seen = np.zeros(len(of_variable), bool)
        seen[of_image[sole]] = True
        taste = np.arange(len(of_variable)) >= images
        graph, factor, flipped = _arranged(ends, count, model[of_variable], taste, seen)
        places = Places(
            factor=np.full(votes.height, NOBODY, np.int64),
            flipped=np.zeros(votes.height, bool),
            shown=shown.to_series().to_numpy(),
            kind=kind.astype(np.int64),
            twice=images - names,
        )
        places.factor[rows], places.flipped[rows] = factor, flipped
        swap = places.flipped & (places.kind != TIED)
        places.kind[swap] = WIN + LOSS - places.kind[swap]
        return graph, places

    def sample(self, factors: int, seed: int = 0) -> "Graph":
        """Return about this many factors that keep their images' other factors.

        Whole components in random order; of one that is larger than what is left to pick, the
        variables nearest to a random one. Independent of every outcome.
        """
        if len(self.ends) <= factors:
            return self
        rng = np.random.default_rng(seed)
        size = np.diff(self.factor_start)
        order = rng.permutation(len(size))
        whole = order[np.cumsum(size[order]) <= factors]
        kept = np.isin(self.component(), whole)
        partial, left = order[len(whole)], factors - int(kept.sum())
        inside = np.arange(*self.factor_start[partial : partial + 2])
        start = rng.integers(*self.variable_start[partial : partial + 2])
        near = breadth_first_order(_links(self.ends, len(self.model)), start, directed=False)[0]
        rank = np.full(len(self.model) + 1, -1, np.int64)  # the last is NOBODY's
        rank[near] = np.arange(len(near))
        # A factor is inside a ball when its farthest variable is.
        farthest = rank[self.ends[inside]].max(axis=1)
        kept[inside[np.argsort(farthest, kind="stable")[:left]]] = True
        variables = np.unique(self.ends[kept])
        variables = variables[variables != NOBODY]
        place = np.full(len(self.model) + 1, NOBODY, np.int32)
        place[variables] = np.arange(len(variables))
        return _arranged(
            place[self.ends[kept]],
            self.count[kept],
            self.model[variables],
            self.taste[variables],
            self.seen[variables],
        )[0]

    def component(self) -> np.ndarray:
        """Return the component of each factor: (F,)."""
        return np.repeat(np.arange(len(self.dense)), np.diff(self.factor_start))


@dataclass(frozen=True)
class Places:
    """Where the rows of a votes table are in its graph: (n,) each.

    factor: NOBODY where an image is missing or met itself. flipped: whether the factor's difference
    is b minus a. kind: the outcome's column of `Graph.count`. shown: whether both images are known.
    twice: how many images have the name of one before, but another model.
    """

    factor: np.ndarray
    flipped: np.ndarray
    shown: np.ndarray
    kind: np.ndarray
    twice: int


def _codes(column: pl.Series) -> tuple[np.ndarray, int]:
    """Return each value's code (NOBODY for null), and how many there are."""
    coded = column.rechunk().to_arrow().dictionary_encode()
    codes = coded.indices.fill_null(NOBODY).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, len(coded.dictionary)


def _images(votes: pl.DataFrame, models: pl.Enum) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the images (n, 2) of each vote, the model (I,) of each, and how many names it took."""
    image, images = _codes(pl.concat([votes["image_a"], votes["image_b"]]))
    model = np.concatenate(
        [votes[name].cast(models).to_physical().to_numpy() for name in ("model_a", "model_b")]
    ).astype(np.int64)
    of_image = np.zeros(images, np.int64)
    of_image[image] = model
    if (of_image[image] != model).any():  # one string, two models: two images
        pairs, image = np.unique(image * len(models.categories) + model, return_inverse=True)
        of_image = pairs % len(models.categories)
    return image.reshape(2, -1).T, of_image, images


def _tastes(
    image: np.ndarray, rater: np.ndarray, votes: np.ndarray, images: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find which rater judged which image more than once: a taste that votes share.

    Returns (taste (n, 2) of each image of a row, NOBODY where there is none; image (T,) of each
    taste; sole (T,) bool, whether all the image's votes are this rater's).
    """
    known = rater != NOBODY
    key = (rater[:, None] * images + image)[known]
    pairs, place = np.unique(key, return_inverse=True)
    place = place.reshape(-1, 2)
    count = np.bincount(place.ravel(), np.repeat(votes[known], 2), len(pairs))
    of_image = pairs % max(images, 1)
    shared = count > 1
    taste = np.full(image.shape, NOBODY, np.int64)
    taste[known] = np.where(shared, np.cumsum(shared) - 1, NOBODY)[place]
    total = np.bincount(image.ravel(), np.repeat(votes, 2), images)
    return taste, of_image[shared], (count == total[of_image])[shared]


def _links(ends: np.ndarray, variables: int) -> csr_matrix:
    """Every factor's second to fourth variable is linked to its first."""
    first, other = np.repeat(ends[:, 0], 3), ends[:, 1:].ravel()
    there = other != NOBODY
    one = np.ones(there.sum(), np.int8)
    return csr_matrix((one, (first[there], other[there])), shape=(variables, variables))


def _arranged(
    ends: np.ndarray, count: np.ndarray, model: np.ndarray, taste: np.ndarray, seen: np.ndarray
) -> tuple[Graph, np.ndarray, np.ndarray]:
    """Sort rows by component and put those that judged the same difference together.

    Returns (graph, each row's factor (n,), whether the factor's difference is the row's turned
    round (n,)).
    """
    component = connected_components(_links(ends, len(model)), directed=False)[1]
    order = np.argsort(component, kind="stable")
    place = np.empty(len(model) + 1, np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    place[NOBODY] = NOBODY
    ends = place[ends]
    flipped = ends[:, 0] > ends[:, 1]
    ends = np.where(flipped[:, None], ends[:, [1, 0, 3, 2]], ends)
    count = np.where(flipped[:, None], count[:, [LOSS, WIN, TIED]], count)
    by_ends = np.lexsort(ends.T[::-1])
    ends = ends[by_ends]
    first = np.append(True, (ends[1:] != ends[:-1]).any(axis=1))[: len(ends)]
    factor = np.empty(len(ends), np.int64)
    factor[by_ends] = np.cumsum(first) - 1
    ends = np.ascontiguousarray(ends[first])
    merged = [np.bincount(factor, count[:, kind], len(ends)) for kind in (WIN, LOSS, TIED)]
    components = component.max(initial=-1) + 1
    variables = np.bincount(component, minlength=components)
    factors = np.bincount(component[order][ends[:, 0]], minlength=components)
    graph = Graph(
        ends=ends,
        count=np.ascontiguousarray(np.stack(merged, 1).astype(np.int64)),
        model=model[order],
        taste=taste[order],
        seen=seen[order],
        variable_start=np.concatenate([[0], np.cumsum(variables)]),
        factor_start=np.concatenate([[0], np.cumsum(factors)]),
        dense=variables.astype(float) ** 3 <= DENSE * factors,
    )
    return graph, factor, flipped
