"""Which part of the vote graph makes the joint gap true: the same inference on more and more of it.

Every vote's gap is inferred from its scope alone, with the settings (rho and the capabilities) of
the whole arena, so scopes differ in the votes that they see and in nothing else:

    own vote     this vote alone: what the pairwise gap knows, with the images' spread
    own pair     and the other votes on the very same two images
    own images   and the votes of either image against third images, known by their models alone
    all          the whole graph: third images are known by their own votes too
    no names     the whole graph, where every model has one and the same capability
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from arena.gaps.graph import Graph
from arena.gaps.inference import Inference, Settings
from arena.gaps.settings import infer_settings
from arena.ratings.table import estimator
from studies.world import WORLDS, Arena, hold_arena

SCOPES = ("own vote", "own pair", "own images", "all", "no names")


def parts_of_graph(world: str, seed: int) -> list[dict[str, object]]:
    """Return for every scope the Pearson correlation of its gaps with the latent difference."""
    arena = hold_arena(WORLDS[world], seed)
    truth = arena.difference()
    return [
        {
            "world": world,
            "seed": seed,
            "scope": scope,
            "votes": len(truth),
            "correlation": float(np.corrcoef(gap, truth)[0, 1]),
        }
        for scope, gap in gaps_by_scope(arena).items()
    ]


def gaps_by_scope(arena: Arena) -> dict[str, np.ndarray]:
    """Return the signed joint gap (n,) of every vote, inferred from each of `SCOPES`."""
    ratings = estimator("trueskill", draw_probability=0.0).fit(arena.votes)
    models = pl.Enum(ratings.table["model"])
    settings = infer_settings(Graph.of(arena.votes, models)[0], ratings)
    found = {}
    for scope in SCOPES[:3]:
        votes, focus = in_scope(arena.votes, scope)
        found[scope] = _gaps(votes, models, settings)[focus]
    found["all"] = _gaps(arena.votes, models, settings)
    nameless = replace(ratings, table=ratings.table.with_columns(mu=pl.lit(0.0)))
    unknown = infer_settings(Graph.of(arena.votes, models)[0], nameless)
    found["no names"] = _gaps(arena.votes, models, unknown)
    return found


def in_scope(votes: pl.DataFrame, scope: str) -> tuple[pl.DataFrame, np.ndarray]:
    """Return the votes in every vote's scope, each scope a graph of its own, and the votes' rows.

    An image counts as another one in each scope: its name begins with the number of the vote whose
    scope it is. A scope begins with that vote itself; rows (n,) says where.
    """
    numbered = votes.with_row_index("vote")
    pair = pl.concat_list(
        pl.min_horizontal("image_a", "image_b"), pl.max_horizontal("image_a", "image_b")
    )
    if scope == "own vote":
        seen = numbered.select("vote", other="vote")
    elif scope == "own pair":
        keys = numbered.select("vote", key=pair.list.join("\n"))
        seen = keys.join(keys.rename({"vote": "other"}), on="key").select("vote", "other")
    else:
        shown = pl.concat([numbered.select("vote", image=f"image_{side}") for side in "ab"])
        seen = shown.join(shown.rename({"vote": "other"}), on="image").select("vote", "other")
    seen = seen.unique().sort("vote", pl.col("other") != pl.col("vote"), "other")
    prefix = pl.col("vote").cast(pl.String) + "/"
    scoped = (
        seen.join(numbered.rename({"vote": "other"}), on="other", maintain_order="left")
        .with_columns(image_a=prefix + pl.col("image_a"), image_b=prefix + pl.col("image_b"))
        .with_columns(vote_id=pl.int_range(pl.len()).cast(pl.String))
    )
    own = (scoped["vote"] == scoped["other"]).to_numpy()
    return scoped.drop("vote", "other"), np.flatnonzero(own)


def _gaps(votes: pl.DataFrame, models: pl.Enum, settings: Settings) -> np.ndarray:
    graph, places = Graph.of(votes, models)
    inference = Inference(graph)
    gap, _, _ = inference.of_votes(places, inference.run(settings), settings)
    return gap


def every_part(worlds: Sequence[str], seeds: int) -> pl.DataFrame:
    """Return `parts_of_graph` of every world, for seeds 0 to `seeds`."""
    rows = [row for world in worlds for seed in range(seeds) for row in parts_of_graph(world, seed)]
    return pl.DataFrame(rows)
