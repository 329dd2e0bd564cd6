"""From votes to training pairs: joined with their gaps, split by prompt. Needs what `arena` needs.

The pipeline's training_set stage builds its table by `build_pairs`; a training job that is started
without the pipeline takes the first stages itself, by `pairs_of_study`.
"""

import hashlib
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from training.pairs import COUNTED, SCHEMA, PairsError, refuse_unusable, some
from training.study_file import gap_estimators

TEXTS = ("vote_id", "prompt", "image_a", "image_b", "model_a", "model_b", "outcome")
COUNTS = ("votes_a", "votes_b")


def build_pairs(
    votes: pa.Table,
    gaps: pa.Table,
    held_out: float,
    seed: int,
    broken: Collection[str] = (),
) -> pa.Table:
    """Join votes and gaps (design.md section 3, arena.gaps.pairwise) into the table of SCHEMA.

    Columns of further gap estimators (joint_gap, ...) follow those of SCHEMA. Left out, and counted
    in the schema's metadata under `left_out`: ties, votes without a prompt or an image, votes of
    an image against itself, and those of a `broken` image. A prompt's pairs are held out together,
    by a hash of (seed, prompt): a share `held_out` of prompts, the same whatever else the votes
    hold.
    Raises PairsError for a vote without a gap, a gap that is not finite, or equal vote ids.
    """
    counts = COUNTS if set(COUNTS) <= set(votes.column_names) else ()
    voted = pl.DataFrame(votes.select([*TEXTS, *counts])).cast(dict.fromkeys(TEXTS, pl.String))
    numbers = [n for n in gaps.column_names if n in SCHEMA.names and n != "vote_id"]
    numbers += [n for n in gaps.column_names if n.endswith(("_gap", "_gap_sd", "_probability"))]
    found = pl.DataFrame(gaps.select(["vote_id", *numbers]))
    found = found.cast({"vote_id": pl.String, **dict.fromkeys(numbers, pl.Float64)})
    for where, frame in (("votes", voted), ("gaps", found)):
        twice = frame["vote_id"].filter(frame["vote_id"].is_duplicated())
        if len(twice):
            ids = some(twice.unique(maintain_order=True).to_list())
            raise PairsError(f"{where}: vote ids must differ, but occur twice: {ids}")

    images = pl.col("image_a", "image_b")
    left_out = {}
    for reason, at_fault in (
        ("tie", pl.col("outcome") == "tie"),
        ("no prompt", pl.col("prompt").fill_null("") == ""),
        ("no image", pl.any_horizontal(images.fill_null("") == "")),
        ("same image", pl.col("image_a") == pl.col("image_b")),
        ("broken image", pl.any_horizontal(images.is_in(list(broken)))),
    ):
        kept = voted.filter(~at_fault.fill_null(False))
        left_out[reason] = voted.height - kept.height
        voted = kept
    missing = voted.filter(~pl.col("vote_id").is_in(found["vote_id"].to_list()))["vote_id"]
    if len(missing):
        raise PairsError(f"{len(missing)} votes have no gap: {some(missing.to_list())}")

    prompts = voted["prompt"].unique().to_list()
    held = [prompt for prompt in prompts if _share(prompt, seed) < held_out]
    a_won, columns = pl.col("outcome") == "a", {}
    for what in ("image", "model"):
        a, b = pl.col(f"{what}_a"), pl.col(f"{what}_b")
        columns[f"{what}_winner"] = pl.when(a_won).then(a).otherwise(b)
        columns[f"{what}_loser"] = pl.when(a_won).then(b).otherwise(a)
    columns["split"] = pl.when(pl.col("prompt").is_in(held)).then(pl.lit("held_out")).otherwise(
        pl.lit("train"))  # fmt: skip
    if counts:
        a, b = (pl.col(name).cast(pl.Float64) for name in COUNTS)
        columns[COUNTED] = (pl.when(a_won).then(a).otherwise(b) + 0.5) / (a + b + 1)
    pairs = voted.with_columns(**columns).join(found, on="vote_id", maintain_order="left")
    others = [n for n in (COUNTED, *numbers) if n in pairs.columns and n not in SCHEMA.names]
    schema = pa.schema([*SCHEMA, *((name, pa.float64()) for name in others)])
    table = pairs.select(schema.names).to_arrow().cast(schema)
    refuse_unusable(table["gap"], table["vote_id"], "gaps")
    return table.replace_schema_metadata({"left_out": json.dumps(left_out)})


def pairs_of_study(study: dict[str, Any], held_out: float, seed: int) -> pa.Table:
    """Read the study's votes, rate its models and return the pairs: the pipeline's first stages.

    `study` is `read_study`'s.
    """
    from arena.gaps.table import gaps_by
    from arena.ratings.table import estimator
    from arena.votes.read import read_votes
    from arena.votes.sources import present

    votes_section = dict(study["votes"])
    arena_section = dict(study.get("arena", {}))
    gap_section = dict(study.get("gap", {}))
    told = ("format", "columns", "outcomes", "dimension")
    votes = read_votes(
        present(votes_section["sources"]),
        images="ids" if "images" in votes_section else "resolved",
        **{key: votes_section[key] for key in told if key in votes_section},
        salt=os.environ.get(votes_section.get("rater_salt", "")),
        image_roots=[Path(root) for root in votes_section.get("image_roots", [])],
    ).votes
    ratings = estimator(arena_section.pop("estimator", "trueskill"), **arena_section).fit(votes)
    gap_section.pop("estimator", None)
    gaps, _ = gaps_by(gap_estimators(study), votes, ratings, **gap_section)
    return build_pairs(votes.to_arrow(), gaps.to_arrow(), held_out, seed)


def _share(prompt: str, seed: int) -> float:
    """A number from 0 to 1 that depends on the prompt and the seed alone."""
    digest = hashlib.sha256(f"{seed}\n{prompt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
