"""The K-Sort rating: where a policy stands among known models (K-Sort Eval)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from assets.generations import WEIGHTS
from assets.jobs import POOL, numbers, run_job
from assets.lake import Lake
from assets.lineage import told
from assets.policy import policy_parameters
from assets.stage import Chain
from assets.store import private_folder
from assets.study import Study
from assets.tracking import tracked

# K-Sort Eval's own rule for a rating that has settled (arXiv 2602.09411).
SETTLED_SIGMA = 0.75


def ksort_rating_stage(study: Study, chain: Chain) -> list[Any]:
    """Return the asset `ksort_rating` and its check; nothing for a study without [ksort]."""
    ksort = study.ksort
    if ksort is None:
        return []
    lake, stage = Lake(study.lake), chain["ksort_rating"]

    @stage.asset(
        study,
        group_name="evaluation",
        kinds={"trueskill"},
        pool=POOL,
        description="The policy's rating among known models (K-Sort Eval).",
    )
    def ksort_rating(context: dg.AssetExecutionContext) -> "dg.MaterializeResult[Any]":
        name = context.partition_key
        drawn = told(context.instance, study, "generations", name)
        parameters = policy_parameters(study, name) | {"judge": ksort.judge}
        parameters["training_set"] = drawn.get("training_set")
        with tracked(study, chain, context, parameters) as run:
            result = lake.ksort(name)
            private_folder(result.parent)
            weights = lake.current("policies", name, "policy")
            version, reported = run_job(
                context,
                study,
                run,
                [
                    *("evaluation", "ksort", "--dataset", str(ksort.dataset)),
                    # Drawn for the instances that are met only, by the weights of these images.
                    *("--images", str(ksort_images(lake, name)), "--base", study.base),
                    *(("--policy", str(weights)) if study.policies[name] else ()),
                    *("--steps", str(study.generation.steps)),
                    *("--guidance", str(study.generation.guidance)),
                    *("--judge", study.judge, "--orders", str(ksort.orders)),
                    *("--out", str(result), "--seed", str(study.seed)),
                ],
            )
            lake.put(result)
            measured = {f"ksort.{key}": value for key, value in numbers(reported).items()}
            on = ("ksort", run.inputs.get("yardsticks") or "")
            run.metrics(measured, drawn.get("mlflow_model_id"), on)
            run.artifact(result, texts=True)
            return run.result(
                version,
                {
                    **reported,
                    WEIGHTS: drawn.get(WEIGHTS, ""),
                    "rounds_table": dg.MetadataValue.path(
                        lake.where(f"judgments/{name}/ksort.json")
                    ),
                },
            )

    @stage.check(study, "ksort_rating_settled")
    def ksort_rating_settled(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        """K-Sort Eval stopped because the rating was certain, not because instances ran out."""
        return check_settled(json.loads(lake.ksort(context.partition_key).read_text()))

    return [ksort_rating, ksort_rating_settled]


def ksort_images(lake: Lake, name: str) -> Path:
    """Return the folder of the images that K-Sort Eval drew by a policy's present weights."""
    return lake.cache / "ksort" / str(lake.current_version("generations", name))


def check_settled(result: Mapping[str, Any]) -> dg.AssetCheckResult:
    """Look whether K-Sort Eval's rating became as certain as its authors ask for."""
    return dg.AssetCheckResult(
        passed=result["sigma"] < SETTLED_SIGMA,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"sigma": result["sigma"], "rounds": len(result["rounds"])},
    )
