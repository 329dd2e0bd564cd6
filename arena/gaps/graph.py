"""Votes as a graph of images: who met whom, judged by whom, in which connected component.

The arrays that `propagation` sweeps, built from a votes table. What the variances of the variables
are, `joint` decides.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components

from arena.gaps.propagation import Graph
from arena.gaps.sweeps import NOBODY
from arena.gaps.truncated_vote import LOSS, TIED, WIN
from arena.ratings.comparisons import B_WINS, TIE
from arena.schema import OUTCOMES

# A dense sweep costs n^2 a vote: beyond this many variables a million votes would take minutes.
DENSE = 48


@dataclass(frozen=True)
class Meetings:
    """Votes between images as integer codes, in input order.

    winner, loser: (n,) images; a tie's winner is image_a. tie: (n,) bool. rater: (n,), NOBODY where
    unknown. model: (I,) the model of each image.
    """

    winner: np.ndarray
    loser: np.ndarray
    tie: np.ndarray
    rater: np.ndarray
    model: np.ndarray

    @staticmethod
    def of(votes: pl.DataFrame, models: pl.Enum) -> "Meetings":
        """Read the meetings of a votes table whose models are all in `models`.

        Raises ValueError where a vote lacks an image, or an image comes from two models.
        """
        for name in ("image_a", "image_b"):
            if name not in votes.columns or votes[name].null_count():
                raise ValueError(f"the joint gap needs {name} in every vote")
        n = votes.height
        image, names = _codes(pl.concat([votes["image_a"], votes["image_b"]]))
        model = np.concatenate(
            [votes[name].cast(models).to_physical().to_numpy() for name in ("model_a", "model_b")]
        ).astype(np.int32)
        model_of = np.empty(len(names), np.int32)
        model_of[image] = model
        if (model_of[image] != model).any():
            name = names[int(image[model_of[image] != model][0])]
            raise ValueError(f"image {name!r} comes from two models; give every image its own name")
        outcome = votes["outcome"].cast(pl.Enum(OUTCOMES)).to_physical().to_numpy()
        lost = outcome == B_WINS
        known = "rater" in votes.columns
        return Meetings(
            winner=np.where(lost, image[n:], image[:n]),
            loser=np.where(lost, image[:n], image[n:]),
            tie=outcome == TIE,
            rater=_codes(votes["rater"])[0] if known else np.full(n, NOBODY, np.int32),
            model=model_of,
        )

    def __len__(self) -> int:
        return len(self.winner)

    def only(self, kept: np.ndarray) -> "Meetings":
        """Return the meetings at some positions, with the images that they need."""
        ends = np.concatenate([self.winner[kept], self.loser[kept]])
        images, code = np.unique(ends, return_inverse=True)
        half = len(ends) // 2
        return Meetings(
            code[:half].astype(np.int32),
            code[half:].astype(np.int32),
            self.tie[kept],
            self.rater[kept],
            self.model[images],
        )

    def judged(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find which rater judged which image more than once: a taste that votes share.

        Returns (taste (n, 2) of each end of a vote, NOBODY where there is none; image (T,) of each
        taste; sole (T,) bool, whether all the image's votes are this rater's).
        """
        ends = np.stack([self.winner, self.loser], 1).astype(np.int64)
        key = self.rater[:, None] * np.int64(len(self.model)) + ends
        known = (self.rater != NOBODY) & (self.winner != self.loser)
        pairs, place, count = np.unique(key[known], return_inverse=True, return_counts=True)
        image = (pairs % max(len(self.model), 1)).astype(np.int32)
        shared = count > 1
        name = np.where(shared, np.cumsum(shared) - 1, NOBODY).astype(np.int32)
        taste = np.full(ends.shape, NOBODY, np.int32)
        taste[known] = name[place].reshape(-1, 2)
        met = self.winner != self.loser
        votes = np.bincount(ends[met].ravel(), minlength=len(self.model))
        return taste, image[shared], (count == votes[image])[shared]


def _codes(column: pl.Series) -> tuple[np.ndarray, pl.Series]:
    """Return each row's code (NOBODY for null) and the values by code."""
    coded = column.rechunk().to_arrow().dictionary_encode()
    codes = coded.indices.fill_null(NOBODY).to_numpy(zero_copy_only=False).astype(np.int32)
    return codes, pl.Series(coded.dictionary)


@dataclass(frozen=True)
class Layout:
    """A graph, and where its rows come from.

    graph: variables and factors by component. vote: (K,) positions among the meetings (an image
    that met itself has no row). factor: (K,) the factor of each of these votes, and kind: (K,) its
    column of `Graph.count`. sign: (K,) +1 where the factor's difference is winner minus loser,
    else -1. image: (V,) the image of each variable. taste: (V,) bool, whether it is a rater's taste
    for the image instead of the image itself. seen: (V,) bool, whether it is both in one, the image
    as its only rater sees it: no vote tells the two apart, and one variable is exact where two
    would be a cycle.
    """

    graph: Graph
    vote: np.ndarray
    factor: np.ndarray
    kind: np.ndarray
    sign: np.ndarray
    image: np.ndarray
    taste: np.ndarray
    seen: np.ndarray

    @staticmethod
    def of(meetings: Meetings) -> "Layout":
        """Lay the variables and factors out."""
        images = len(meetings.model)
        ends = np.full((len(meetings), 4), NOBODY, np.int32)
        ends[:, 0], ends[:, 1] = meetings.winner, meetings.loser
        tastes, of_image, sole = meetings.judged()
        name = np.where(sole, NOBODY, images + np.cumsum(~sole) - 1)
        ends[:, 2:] = np.append(name, NOBODY)[tastes]  # NOBODY is the last
        image = np.concatenate([np.arange(images, dtype=np.int32), of_image[~sole]])
        taste = np.arange(len(image)) >= images
        seen = np.zeros(len(image), bool)
        seen[of_image[sole]] = True
        component = _components(meetings)
        by_component = np.argsort(component[image], kind="stable").astype(np.int32)
        place = np.empty(len(image) + 1, np.int32)
        place[by_component] = np.arange(len(image), dtype=np.int32)
        place[NOBODY] = NOBODY
        vote = np.flatnonzero(meetings.winner != meetings.loser)
        ends, factor, flipped = _factors(place[ends[vote]])
        kind = np.where(meetings.tie[vote], TIED, np.where(flipped, LOSS, WIN))
        votes = np.bincount(3 * factor + kind, minlength=3 * len(ends)).reshape(-1, 3)
        count = component.max(initial=-1) + 1
        variables = np.bincount(component[image], minlength=count)
        factors = np.bincount(component[image[by_component[ends[:, 0]]]], minlength=count)
        # Without cycles (edges = nodes - 1) the sparse sums are the dense ones.
        edge = component[image[by_component[ends[ends != NOBODY]]]]
        cycles = np.bincount(edge, minlength=count) >= variables + factors
        graph = Graph(
            ends=ends,
            count=votes,
            variable_start=np.concatenate([[0], np.cumsum(variables)]),
            factor_start=np.concatenate([[0], np.cumsum(factors)]),
            dense=cycles & (variables <= DENSE),
        )
        sign = np.where(flipped, -1.0, 1.0)
        of_variable = image[by_component], taste[by_component], seen[by_component]
        return Layout(graph, vote, factor, kind, sign, *of_variable)


def _factors(ends: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Put votes (n, 4) that judged the same difference together.

    Returns (the factors' ends (F, 4), sorted; each vote's factor (n,); whether the factor's
    difference is the vote's turned round (n,)).
    """
    flipped = ends[:, 0] > ends[:, 1]
    ends = np.where(flipped[:, None], ends[:, [1, 0, 3, 2]], ends)
    order = np.lexsort(ends.T[::-1])
    ends = ends[order]
    first = np.append(True, (ends[1:] != ends[:-1]).any(axis=1))[: len(ends)]
    factor = np.empty(len(ends), np.int64)
    factor[order] = np.cumsum(first) - 1
    return np.ascontiguousarray(ends[first]), factor, flipped


def _links(meetings: Meetings) -> csr_matrix:
    n, images = len(meetings), len(meetings.model)
    return csr_matrix(
        (np.ones(n, np.int8), (meetings.winner, meetings.loser)), shape=(images, images)
    )


def _components(meetings: Meetings) -> np.ndarray:
    return connected_components(_links(meetings), directed=False)[1]


def neighbourhoods(meetings: Meetings, votes: int, seed: int) -> np.ndarray:
    """Pick about `votes` meetings that keep their images' other meetings: (n,) positions.

    Whole components in random order; of one that is larger than what is left to pick, the images
    nearest to a random one. Independent of every outcome.
    """
    if len(meetings) <= votes:
        return np.arange(len(meetings))
    component = _components(meetings)
    of_vote = component[meetings.winner]
    size = np.bincount(of_vote, minlength=component.max() + 1)
    order = np.random.default_rng(seed).permutation(len(size))
    taken = np.cumsum(size[order])
    whole = order[taken <= votes]
    kept = np.isin(of_vote, whole)
    left = votes - int(kept.sum())
    partial = order[len(whole)]
    images = np.flatnonzero(component == partial)
    start = np.random.default_rng(seed).choice(images)
    near = breadth_first_order(_links(meetings), start, directed=False)[0]
    rank = np.full(len(meetings.model), len(near), np.int64)
    rank[near] = np.arange(len(near))
    # A meeting is inside a ball when its farther image is.
    farther = np.maximum(rank[meetings.winner], rank[meetings.loser])
    inside = np.flatnonzero(of_vote == partial)
    kept[inside[np.argsort(farther[inside], kind="stable")[:left]]] = True
    return np.flatnonzero(kept)
