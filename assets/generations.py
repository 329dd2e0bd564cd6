"""The generations: every policy's images of the same prompts, from the same noise."""

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
from PIL import Image

from arena.atomic import replacing
from assets import inputs
from assets.content import combined_hash, content_hash
from assets.jobs import POOL, numbers, run_job
from assets.lake import Lake
from assets.lineage import DATA_VERSION, latest, plain
from assets.pictures import embedded
from assets.stage import Chain
from assets.study import Study
from assets.tracking import tracked

# In the metadata: which weights drew the images, what votes about them call the model, and under
# what they can be compared with others.
WEIGHTS = "weights_version"
VOTED_AS = "voted_as"
DRAWN_UNDER = "drawn_under"
# Beside the images, for the voting page: the name that stands in the metadata.
MODEL_FILE = "model.txt"


def generations_stage(study: Study, chain: Chain) -> list[Any]:
    """Return the asset `generations` and its check."""
    lake, stage = Lake(study.lake), chain["generations"]

    @stage.asset(
        study,
        group_name="evaluation",
        kinds={"diffusers"},
        pool=POOL,
        description="The policy's images: the same prompts, noise and steps for every policy.",
    )
    def generations(context: dg.AssetExecutionContext) -> "dg.MaterializeResult[Any]":
        name, settings = context.partition_key, study.generation
        parameters = settings.model_dump(exclude={"prompts"}) | {"policy": name}
        with tracked(study, chain, context, parameters) as run:
            drawn_by = weights_of(context.instance, study, name)
            made_by = folder_name(study, lake, name)
            trained = study.policies[name] is not None
            weights = lake.current("policies", name, "policy")
            with lake.working("generations", name, made_by) as folder:
                version, reported = run_job(
                    context,
                    study,
                    run,
                    [
                        *("evaluation", "generate", "--base", study.base, "--name", name),
                        *(("--policy", str(weights)) if trained else ()),
                        *("--prompts", str(lake.table("evaluation_prompts"))),
                        *("--out", str(folder)),
                        *("--images-per-prompt", str(settings.images_per_prompt)),
                        *("--steps", str(settings.steps), "--guidance", str(settings.guidance)),
                        *("--seed", str(settings.seed), "--batch-size", str(settings.batch_size)),
                        *(("--resolution", str(settings.size)) if settings.size else ()),
                    ],
                )
                with replacing(folder / MODEL_FILE) as aside:
                    aside.write_text(drawn_by[VOTED_AS])
            prompts = run.inputs["evaluation_prompts"] or ""
            run.metrics(numbers(reported), dataset=("evaluation_prompts", prompts))
            images = lake.publish("generations", name, made_by)
            # matplotlib, which import need not load
            from evaluation.comparison.figures import image_grid

            grid = image_grid({name: images / "images.parquet"}, prompts=8)
            run.figure("images.png", grid, pictures=True)
            return run.result(
                # Equal pictures of other weights are other evidence.
                combined_hash(version, drawn_by[WEIGHTS]),
                {
                    **reported,
                    **drawn_by,
                    DRAWN_UNDER: inputs.drawn_under(study, prompts),
                    "folder": dg.MetadataValue.path(lake.where(f"generations/{name}/{made_by}")),
                    "images_at_a_glance": embedded(grid, f"images of {name}"),
                },
            )

    @stage.check(study, "every_image_is_there")
    def every_image_is_there(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        """One readable image for each prompt and seed, and none of a single colour."""
        prompts = lake.read("evaluation_prompts", "prompt_id").height
        expected = prompts * study.generation.images_per_prompt
        return check_images(lake.current("generations", context.partition_key), expected)

    return [generations, every_image_is_there]


def weights_of(instance: dg.DagsterInstance, study: Study, name: str) -> dict[str, str]:
    """Return which weights a policy has now: version, LoggedModel, model version, name in votes.

    That name is `arenapo@3` by the version in MLflow; a model that was not trained has none there,
    so the first digits of its content's hash stand for it.
    """
    made = latest(instance, study.key("policy"), name)
    if made is None:
        raise RuntimeError(f"policy[{name}] was never made; materialise it first")
    said = plain(made.metadata)
    kept = ("mlflow_model_id", "mlflow_model_version", "training_set")
    version = (made.tags or {}).get(DATA_VERSION, "")
    found = {key: str(said[key]) for key in kept if key in said}
    number = found.get("mlflow_model_version", version[:8])
    return {WEIGHTS: version, VOTED_AS: f"{name}@{number}", **found}


def folder_name(study: Study, lake: Lake, name: str) -> str:
    """Return the name of the folder that a policy's images lie in, by all that goes into them."""
    trained = study.policies[name] is not None
    weights = lake.current("policies", name, "policy")
    prompts = lake.table("evaluation_prompts")
    return combined_hash(
        content_hash(weights) if trained else inputs.recipe(study, name),
        lake.version("evaluation_prompts") if prompts.exists() else "no prompts",
        study.version(*inputs.DRAWING),
    )


def check_images(folder: Path, expected: int) -> dg.AssetCheckResult:
    """Open every generated image of a policy and look for missing, broken and blank ones."""
    table = pl.read_parquet(folder / "images.parquet")
    broken, blank = [], []
    for name in table["image"]:
        try:
            with Image.open(folder / name) as image:
                extremes = image.convert("L").getextrema()
        except OSError:
            broken.append(name)
            continue
        if extremes[0] == extremes[1]:
            blank.append(name)
    return dg.AssetCheckResult(
        passed=table.height == expected and not broken and not blank,
        metadata={
            "images": table.height,
            "expected": expected,
            "broken": ", ".join(broken[:5]) or "none",
            "blank": ", ".join(blank[:5]) or "none",
        },
    )
