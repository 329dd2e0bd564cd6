"""The prompts that every policy draws: a set that the study names, or held-out ones, frozen.

Held-out prompts are taken once and kept while votes come and go, so that scores stay comparable and
nothing is drawn twice. They are taken anew when a person asks for it, and when one of them has
moved into the training split.
"""

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from assets import inputs
from assets.content import frame_version
from assets.lake import Lake
from assets.pictures import markdown
from assets.stage import Chain
from assets.study import Study
from assets.tables import described
from assets.tracking import tracked
from evaluation.prompts import HELD_OUT, TRAIN, read_prompts

# The tag of a run in which a person asks for other held-out prompts.
RENEW = "arenapo/new_prompts"
SCHEMA = {"prompt_id": pl.String, "prompt": pl.String, "category": pl.String}


def evaluation_prompts_stage(study: Study, chain: Chain) -> list[Any]:
    """Return the observed set of prompts, the asset `evaluation_prompts` and its check."""
    lake, stage = Lake(study.lake), chain["evaluation_prompts"]

    @dg.observable_source_asset(
        key=study.key("prompt_files"),
        group_name="data",
        description="The set of prompts that the study names, by content.",
    )
    def prompt_files() -> dg.DataVersion:
        return dg.DataVersion(inputs.prompt_files(study))

    @stage.asset(
        study,
        group_name="evaluation",
        kinds={"parquet"},
        description="The prompts that every policy draws.",
    )
    def evaluation_prompts(context: dg.AssetExecutionContext) -> "dg.MaterializeResult[Any]":
        named = study.generation.prompts
        with tracked(study, chain, context, {"held_out": named is None}) as run:
            table, said = chosen(study, lake, renew=RENEW in context.run.tags)
            lake.write("evaluation_prompts", table)
            run.metrics({"prompts": table.height})
            shown = table.head(10) if not run.private else table.head(0)
            return run.result(
                frame_version(table),
                {
                    "prompts": table.height,
                    "came_from": said,
                    "such_as": dg.MetadataValue.md(markdown(shown)),
                    **described(lake, "evaluation_prompts"),
                },
            )

    @stage.check(study, "no_prompt_was_trained_on")
    def no_prompt_was_trained_on() -> dg.AssetCheckResult:
        """No prompt that is drawn is one of the training pairs', word for word."""
        drawn = lake.read("evaluation_prompts")
        seen = drawn.join(trained_prompts(lake), on="prompt", how="semi")
        return dg.AssetCheckResult(
            passed=seen.is_empty(),
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"prompts": drawn.height, "trained_on": seen.height},
        )

    return [prompt_files, evaluation_prompts, no_prompt_was_trained_on]


def chosen(study: Study, lake: Lake, renew: bool = False) -> tuple[pl.DataFrame, str]:
    """Return the prompts to draw, and in words where they are from.

    Raises EvaluationError for a set that cannot be read, ValueError where nothing is held out.
    """
    named = study.generation.prompts
    if named is not None:
        return as_table(named), named.name
    if lake.table("evaluation_prompts").exists() and not renew:
        frozen = lake.read("evaluation_prompts")
        ours = set(SCHEMA) == set(frozen.columns)
        if ours and frozen.join(trained_prompts(lake), on="prompt", how="semi").is_empty():
            return frozen, "held out before, and kept"
    pairs = lake.read("training_set", "split")
    if pairs.filter(pl.col("split") == HELD_OUT).is_empty():
        raise ValueError(
            "the training set holds out no prompt, so there is nothing to draw; name a set in "
            "generation.prompts, or raise training_set.held_out"
        )
    return as_table(lake.table("training_set")), "held out of the training set now"


def as_table(path: Path) -> pl.DataFrame:
    """Return a set of prompts in any published layout as a table of prompt_id, prompt, category."""
    rows = [(one.prompt_id, one.prompt, one.category) for one in read_prompts(path)]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def trained_prompts(lake: Lake) -> pl.DataFrame:
    """Return the prompts of the training pairs."""
    pairs = lake.read("training_set", "prompt", "split")
    return pairs.filter(pl.col("split") == TRAIN).select("prompt").unique()
