"""Gaps to training set: winner, loser and gap of every vote with images, split by prompt."""

from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from assets.evaluation_prompts import as_table
from assets.lake import Lake, table_name
from assets.lineage import SUCH_AS
from assets.movement import moved_since_training
from assets.pictures import markdown
from assets.stage import Chain
from assets.study import Study
from assets.tables import described
from assets.tracking import tracked
from evaluation.prompts import HELD_OUT
from training.building import build_pairs


def training_set_stage(study: Study, chain: Chain) -> list[Any]:
    """Return the asset `training_set` and its check."""
    lake, stage = Lake(study.lake), chain["training_set"]

    @stage.asset(
        study,
        group_name="arena",
        kinds={"pyarrow", "parquet"},
        description="Winner, loser and gap of every vote with images, split by prompt.",
    )
    def training_set(context: dg.AssetExecutionContext) -> "dg.MaterializeResult[Any]":
        with tracked(study, chain, context, study.training_set.model_dump()) as run:
            for name in ("votes", "gaps", "images"):
                run.dataset(name, lake.version(name), "pair")
            broken = lake.read("images", "image", "fault").drop_nulls("fault")
            pairs = build_pairs(
                pq.read_table(lake.table("votes")),
                pq.read_table(lake.table("gaps")),
                held_out=study.training_set.held_out,
                seed=study.seed,
                broken=broken["image"].to_list(),
            )
            if study.generation.prompts is not None:
                drawn = as_table(study.generation.prompts)["prompt"]
                pairs = hold_out(pairs, drawn.to_list())
            with lake.writing(table_name("training_set")) as aside:
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
            version = lake.version("training_set")
            run.metrics(summary, dataset=("training_set", version))
            moved = moved_since_training(study, lake)
            said = [(name, str(each or "never trained")) for name, each in moved.items()]
            since = pl.DataFrame(said, schema=["policy", "since it was trained"], orient="row")
            return run.result(
                version,
                {
                    **summary,
                    **described(lake, "training_set", lineage_of(study)),
                    "moved": dg.MetadataValue.md(markdown(since)),
                },
            )

    @stage.check(study, "splits_share_no_prompt")
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
                SUCH_AS: ", ".join(shared["prompt"].head(3).to_list()) or "none",
            },
        )

    return [training_set, splits_share_no_prompt]


def hold_out(pairs: pa.Table, prompts: list[str]) -> pa.Table:
    """Return the pairs with those about these prompts held out.

    People vote about what the policies drew of the evaluation prompts: that rates the policies, and
    must not train the next ones, which are compared on these prompts.
    """
    drawn = pc.is_in(pairs["prompt"], value_set=pa.array(prompts, pa.string()))
    split = pc.if_else(drawn, HELD_OUT, pairs["split"])
    return pairs.set_column(pairs.schema.get_field_index("split"), "split", split)


def lineage_of(study: Study) -> dict[str, list[tuple[dg.AssetKey, str]]]:
    """Return what each column of a pair is made from."""
    votes, gaps = study.key("votes"), study.key("gaps")
    found = {name: [(votes, name)] for name in ("vote_id", "prompt")}
    found["split"] = found["prompt"]
    for what in ("image", "model"):
        sources = [(votes, name) for name in ("outcome", f"{what}_a", f"{what}_b")]
        found |= {f"{what}_{side}": sources for side in ("winner", "loser")}
    return found | {name: [(gaps, name)] for name in ("gap", "gap_sd", "probability")}
