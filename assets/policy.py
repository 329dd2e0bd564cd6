"""The policy: each one of the study's, trained by a child process in the pool `gpu`."""

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np

from arena.atomic import replacing
from assets import inputs, model_registry
from assets.brought import images_of
from assets.content import content_hash
from assets.jobs import POOL, numbers, run_job
from assets.lake import Lake
from assets.lineage import DATA_VERSION, plain, told
from assets.movement import TRAINED_ON
from assets.stage import Chain
from assets.study import Study
from assets.tracking import tracked

UNTRAINED = "the base itself: nothing trained"


def policy_stage(study: Study, chain: Chain) -> list[Any]:
    """Return the observed base and recipes, the asset `policy` and its checks."""
    lake, stage = Lake(study.lake), chain["policy"]

    @dg.observable_source_asset(
        key=study.key("base_model"),
        group_name="training",
        description="The model that every policy starts from, by content.",
    )
    def base_model() -> dg.DataVersion:
        return dg.DataVersion(inputs.base_model(study))

    # What a policy is trained from is known before anything is trained, and is no table of its own:
    # the pipeline reports its version whenever the training set, the base or the settings move.
    recipe = dg.AssetSpec(
        study.key("recipe"),
        deps=[study.key(name) for name in ("training_set", "images", "base_model")],
        partitions_def=study.partitions,
        group_name="training",
        description="What each policy starts from, how it is trained and on which columns.",
    )

    @stage.asset(
        study,
        group_name="training",
        kinds={"torch", "mlflow"},
        pool=POOL,
        description="The fine-tuned weights, or the untouched base where nothing is trained.",
    )
    def policy(context: dg.AssetExecutionContext) -> "dg.MaterializeResult[Any]":
        name = context.partition_key
        with tracked(study, chain, context, policy_parameters(study, name)) as run:
            made_from = inputs.recipe(study, name)
            context.instance.report_runless_asset_event(recipe_seen(study, name, made_from))
            run.inputs[f"recipe[{name}]"] = made_from
            if study.policies[name] is None:
                return run.result(made_from, {"base": study.base, "objective": "none"})
            data = lake.version("training_set")
            run.dataset("training_set", data, "train")
            images = images_of(study)
            with lake.working("policies", name, made_from) as folder:
                copy_pairs(lake, folder / TRAINED_ON)
                version, reported = run_job(
                    context,
                    study,
                    run,
                    [
                        *("training", str(study.path), "--policy", name, "--out", str(folder)),
                        *("--resume", "--set", f"training_set.pairs={folder / TRAINED_ON}"),
                        *("--set", f"cache.root={lake.cache}"),
                        *(("--set", f"votes.images={images}") if images else ()),
                    ],
                )
            final = {f"final.{key}": value for key, value in numbers(reported).items()}
            run.artifact(folder / "metrics.jsonl")
            parameters = policy_parameters(study, name) | {"training_set": data}
            model_id = model_registry.log_weights(
                run.client,
                run.experiment,
                run.id,
                f"{study.name}-{name}",
                folder / "policy",
                f"./{Path(study.base).name}" if run.private else study.base,
                parameters,
            )
            run.metrics(final, model_id, ("training_set", data))
            found = check_weights(folder / "policy")
            registered = {}
            if found.passed:  # weights that are no numbers are nobody's candidate
                tags = {"policy": name, "data_version": version, "training_set": data}
                number = model_registry.register(
                    run.client, study.name, model_id, run.id, tags | {"base": Path(study.base).name}
                )
                registered = {"mlflow_model_version": number}
            lake.publish("policies", name, made_from)
            return run.result(
                version,
                {
                    **reported,
                    "weights": dg.MetadataValue.path(
                        lake.where(f"policies/{name}/{made_from}/policy")
                    ),
                    "mlflow_model_id": model_id,
                    **registered,
                    "training_set": data,
                },
                model_id=model_id,
            )

    @stage.check(study, "weights_are_finite")
    def weights_are_finite(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        """Every saved weight is a finite number, and some of them is not zero."""
        name = context.partition_key
        if study.policies[name] is None:
            return dg.AssetCheckResult(passed=True, description=UNTRAINED)
        return check_weights(lake.current("policies", name, "policy"))

    @stage.check(study, "policy_prefers_winners")
    def policy_prefers_winners(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        """On prompts it never saw, the policy moved towards the winners more than the losers."""
        name = context.partition_key
        if study.policies[name] is None:
            return dg.AssetCheckResult(passed=True, description=UNTRAINED)
        return check_preference(told(context.instance, study, "policy", name))

    return [base_model, recipe, policy, weights_are_finite, policy_prefers_winners]


def recipe_seen(study: Study, name: str, version: str) -> dg.AssetObservation:
    """Return the observation of what a policy is made from."""
    return dg.AssetObservation(study.key("recipe"), partition=name, tags={DATA_VERSION: version})


def copy_pairs(lake: Lake, table: Path) -> None:
    """Give a policy its own copy: the table may move on while it trains, what it saw stays.

    Raises RuntimeError where the table was replaced meanwhile.
    """
    with replacing(table) as aside:
        shutil.copyfile(lake.table("training_set"), aside)
    if content_hash(table) != content_hash(lake.table("training_set")):
        raise RuntimeError("the training set was replaced while it was read; run it again")


def policy_parameters(study: Study, name: str) -> dict[str, Any]:
    """Return what tells policies apart when their runs are compared in MLflow."""
    config = study.policies[name]
    gap: dict[str, Any] = {"gap_spread": study.gap.spread, "gap_signed": study.gap.signed}
    base = Path(study.base).name
    if config is None:
        return {"policy": name, "objective": "none", "gap_estimator": "none", "base": base}
    settings = dataclasses.asdict(config)
    if not config.reads_gap:
        gap = {"gap_estimator": "none"}
    settings.update(policy=settings.pop("name"), base=base, **gap)
    return settings


def check_preference(metadata: Mapping[str, Any]) -> dg.AssetCheckResult:
    """Look at a policy's implicit accuracy on held-out pairs: above one half, or it says no."""
    reported = plain(metadata).get("held_out_accuracy")
    accuracy = float("nan") if reported is None else float(reported)
    return dg.AssetCheckResult(
        passed=accuracy > 0.5,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"held_out_accuracy": accuracy},
    )


def _floats(file: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every tensor of a safetensors file as fp32; numpy has no bf16, its upper half."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
    header.pop("__metadata__", None)
    content = np.memmap(file, mode="r", offset=8 + size)
    kinds = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "U8": "u1"}
    for key, about in header.items():
        raw = content[slice(*about["data_offsets"])].view(kinds[about["dtype"]])
        if about["dtype"] == "BF16":
            raw = (raw.astype(np.uint32) << 16).view(np.float32)
        yield key, raw.astype(np.float32)


def check_weights(folder: Path) -> dg.AssetCheckResult:
    """Read every safetensors file under `folder` and look at every number in it."""
    files = sorted(folder.rglob("*.safetensors"))
    bad, largest, count = [], 0.0, 0
    for file in files:
        for key, values in _floats(file):
            count += values.size
            if not np.isfinite(values).all():
                bad.append(f"{file.name}: {key}")
            elif values.size:
                largest = max(largest, float(np.abs(values).max()))
    return dg.AssetCheckResult(
        passed=bool(files) and not bad and largest > 0,
        metadata={
            "files": len(files),
            "weights": count,
            "largest": largest,
            "not_finite": ", ".join(bad[:5]) or "none",
        },
    )
