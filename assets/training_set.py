"""Gaps to training set: winner, loser and gap of every vote with images, split by prompt."""

from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pyarrow.parquet as pq

from arena.atomic import replacing
from arena.votes.images import faults
from assets.lake import Lake, content_hash
from assets.movement import moved_since_training
from assets.pictures import markdown
from assets.study import Study
from assets.tracking import Tracking
from training.pairs import build_pairs


def training_set_stage(study: Study) -> list[Any]:
    """Return the asset `training_set` and its check."""
    lake = Lake(study.lake)

    @dg.asset(
        deps=["votes", "gaps"],
        group_name="arena",
        kinds={"pyarrow", "parquet"},
        code_version=f"1-{study.version('training_set')}",
        description="Winner, loser and gap of every vote with images, split by prompt.",
    )
    def training_set(
        context: dg.AssetExecutionContext, tracking: Tracking
    ) -> "dg.MaterializeResult[Any]":
        with tracking.run(context, study.training_set.model_dump()) as run:
            for name in ("votes", "gaps"):
                run.dataset(name, content_hash(lake.table(name)), lake.table(name), "pair")
            broken = broken_images(study, lake)
            lake.write("broken_images", broken)
            pairs = build_pairs(
                pq.read_table(lake.table("votes")),
                pq.read_table(lake.table("gaps")),
                held_out=study.training_set.held_out,
                seed=study.seed,
                broken=broken["image"].to_list(),
            )
            with replacing(lake.table("training_set")) as aside:
                pq.write_table(pairs, aside)
            frame = lake.read("training_set")
            train = frame.filter(pl.col("split") == "train")
            summary = {
                "pairs": frame.height,
                "train": train.height,
                "held_out": frame.height - train.height,
                "left_out": lake.read("votes").height - frame.height,
                "broken_images": broken.height,
                "images": pl.concat([frame["image_winner"], frame["image_loser"]]).n_unique(),
                "prompts": frame["prompt"].n_unique(),
                "mean_gap": float(np.mean(train["gap"].to_numpy())) if train.height else 0.0,
            }
            run.metrics(summary)
            moved = moved_since_training(study, lake)
            said = [(name, str(each or "never trained")) for name, each in moved.items()]
            since = pl.DataFrame(said, schema=["policy", "since it was trained"], orient="row")
            return run.result(
                content_hash(lake.table("training_set")),
                {
                    **summary,
                    "broken": dg.MetadataValue.md(markdown(broken.head(10))),
                    "moved": dg.MetadataValue.md(markdown(since)),
                    "table": dg.MetadataValue.path(lake.table("training_set")),
                },
            )

    @dg.asset_check(asset=training_set, blocking=True)
    def splits_share_no_prompt() -> dg.AssetCheckResult:
        """No prompt is both trained on and held out, and there is something to train on."""
        frame = lake.read("training_set")
        splits = frame.group_by("prompt").agg(pl.col("split").n_unique().alias("splits"))
        shared = splits.filter(pl.col("splits") > 1)
        train = frame.filter(pl.col("split") == "train").height
        return dg.AssetCheckResult(
            passed=shared.is_empty() and train > 0,
            metadata={
                "shared": shared.height,
                "train": train,
                "such_as": ", ".join(shared["prompt"].head(3).to_list()) or "none",
            },
        )

    return [training_set, splits_share_no_prompt]


def broken_images(study: Study, lake: Lake) -> pl.DataFrame:
    """Return (image, reason) of every image among the votes that cannot be trained on."""
    found: dict[str, str] = {}
    if study.training_set.check_images:
        votes = lake.read("votes")
        names = pl.concat([votes["image_a"], votes["image_b"]]).drop_nulls().unique().sort()
        network = study.training_set.network
        if study.votes.images:
            found = faults(names.to_list(), [study.votes.images], network=network)
        else:
            # The votes tell a path from the study's folder, where the training job works too.
            whole = {as_path(study.path.parent, name): name for name in names}
            faulty = faults(list(whole), network=network)
            found = {whole[path]: reason for path, reason in faulty.items()}
    schema = {"image": pl.String, "reason": pl.String}
    return pl.DataFrame(sorted(found.items()), schema=schema, orient="row")


def as_path(folder: Path, name: str) -> str:
    """Return an image's name as this process can open it: a path below `folder`, else as it is."""
    try:
        return str(folder / name) if (folder / name).is_file() else name
    except (OSError, ValueError):  # a URL or a text too long to be a path
        return name
