"""Jobs that need the GPU, as child processes: this process orchestrates and never loads torch.

A child reports through Dagster Pipes and logs to the MLflow run it is given. What it prints appears
in the run's own output.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from assets.study import Study
from assets.tracking import Run

POOL = "gpu"


def run_job(
    context: dg.AssetExecutionContext,
    pipes: dg.PipesSubprocessClient,
    study: Study,
    run: Run,
    command: Sequence[str],
) -> tuple[str, dict[str, Any]]:
    """Run `python -m COMMAND` and return what it reported: its data version and its metadata.

    Raises what Pipes raises when the child failed, and RuntimeError when it reported nothing.
    """
    completed = pipes.run(
        context=context,
        command=[sys.executable, "-m", *command],
        cwd=str(study.path.parent),
        env=run.environment,
    )
    result = completed.get_materialize_result()
    if result.data_version is None:
        raise RuntimeError(f"python -m {command[0]} ended well but reported no data version")
    return result.data_version.value, plain(result.metadata or {})


def plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata as the plain values the child sent."""
    return {key: getattr(value, "value", value) for key, value in metadata.items()}


def numbers(metadata: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers among the metadata, for MLflow's metrics."""
    return {
        key: float(value)
        for key, value in metadata.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
