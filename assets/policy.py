"""The policy: one partition a policy of the study, trained by a child process in the pool `gpu`."""

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np

from arena.atomic import replacing
from assets.jobs import POOL, numbers, plain, run_job
from assets.lake import Lake, combined_hash, content_hash
from assets.lineage import latest
from assets.study import Study
from assets.tracking import Tracking
from training.config import FREE, WITHOUT_GAPS

# What a policy was trained on, in its own folder.
PAIRS = "training_set.parquet"
# The base counts by its content: its path differs from machine to machine. What may change between
# the parts of one run changes no weight, unless it decides when the run is over.
UNRELATED = FREE - {"steps", "patience", "validate_every"}


def policy_stage(study: Study, policies: dg.StaticPartitionsDefinition) -> list[Any]:
    """Return the observed recipes, the asset `policy` and its checks."""
    lake = Lake(study.lake)

    @dg.observable_source_asset(
        partitions_def=policies,
        group_name="training",
        description="What each policy starts from and how it is trained, by content.",
    )
    def recipe() -> dg.DataVersionsByPartition:
        return dg.DataVersionsByPartition(recipes(study))

    @dg.asset(
        deps=["training_set", recipe],
        partitions_def=policies,
        group_name="training",
        kinds={"torch", "mlflow"},
        pool=POOL,
        code_version="1",
        description="The fine-tuned weights, or the untouched base where nothing is trained.",
    )
    def policy(
        context: dg.AssetExecutionContext, tracking: Tracking
    ) -> "dg.MaterializeResult[Any]":
        name = context.partition_key
        with tracking.run(context, policy_parameters(study, name)) as run:
            if study.policies[name] is None:
                return run.result(recipes(study)[name], {"base": study.base, "objective": "none"})
            data = content_hash(lake.table("training_set"))
            inputs = training_inputs(study, name, data)
            folder = lake.folder("policies", name, inputs)
            # Its own copy: the table may move on while this trains, and what the policy saw stays.
            table = folder / PAIRS
            with replacing(table) as aside:
                shutil.copyfile(lake.table("training_set"), aside)
            if content_hash(table) != data:
                raise RuntimeError("the training set was replaced while it was read; run it again")
            run.dataset("training_set", data, table, "train")
            version, reported = run_job(
                context,
                study,
                run,
                [
                    *("training", str(study.path), "--policy", name, "--out", str(folder)),
                    *("--resume", "--set", f"training_set.pairs={table}"),
                    *("--set", f"cache.root={lake.root / 'cache'}"),
                ],
            )
            run.metrics({f"final.{key}": value for key, value in numbers(reported).items()})
            run.artifact(folder / "metrics.jsonl")
            model_id, model_version = run.model(
                f"{study.name}-{name}",
                folder / "policy",
                registered=study.name,
                parameters=policy_parameters(study, name) | {"training_set": data},
                tags={"policy": name, "data_version": version, "training_set": data},
            )
            lake.publish("policies", name, inputs)
            return run.result(
                version,
                {
                    **reported,
                    "weights": dg.MetadataValue.path(folder / "policy"),
                    "mlflow_model_id": model_id,
                    "mlflow_model_version": model_version,
                    "training_set": data,
                },
                model_id=model_id,
            )

    @dg.asset_check(asset=policy, blocking=True, partitions_def=policies)
    def weights_are_finite(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        """Every saved weight is a finite number, and some of them is not zero."""
        name = context.partition_key
        if study.policies[name] is None:
            return dg.AssetCheckResult(passed=True, description="the base itself: nothing trained")
        return check_weights(lake.current("policies", name) / "policy")

    @dg.asset_check(asset=policy, partitions_def=policies)
    def policy_prefers_winners(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        """On prompts it never saw, the policy moved towards the winners more than the losers."""
        name = context.partition_key
        if study.policies[name] is None:
            return dg.AssetCheckResult(passed=True, description="the base itself: nothing trained")
        made = latest(context.instance, dg.AssetKey("policy"), name)
        return check_preference(made.metadata if made else {})

    return [recipe, policy, weights_are_finite, policy_prefers_winners]


def recipes(study: Study) -> dict[str, str]:
    """Return a hash of everything but the data that decides each policy's weights."""
    local = Path(study.base)
    base = content_hash(local) if local.exists() else study.base
    hashes = {}
    for name, config in study.policies.items():
        settings = dataclasses.asdict(config) if config else {}
        for key in UNRELATED:
            settings.pop(key, None)
        hashes[name] = combined_hash(base, json.dumps(settings, sort_keys=True))
    return hashes


def training_inputs(study: Study, name: str, data: str) -> str:
    """Return the name of the folder that a policy is trained in, by all that goes into it.

    data: the content hash of the training set.
    """
    return combined_hash(recipes(study)[name], data)


def policy_parameters(study: Study, name: str) -> dict[str, Any]:
    """Return what tells policies apart when their runs are compared in MLflow."""
    config = study.policies[name]
    gap: dict[str, Any] = {"gap_spread": study.gap.spread, "gap_signed": study.gap.signed}
    if config is None:
        base = Path(study.base).name
        return {"policy": name, "objective": "none", "gap_estimator": "none", "base": base}
    settings = dataclasses.asdict(config)
    if config.objective in WITHOUT_GAPS:
        gap = {"gap_estimator": "none"}
    settings.update(policy=settings.pop("name"), base=Path(study.base).name, **gap)
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
