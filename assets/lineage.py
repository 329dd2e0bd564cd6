"""Where a thing came from: the newest records of what is upstream, and the code that made it."""

import subprocess
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import dagster as dg

# What every materialisation carries, so that Dagster's page leads to MLflow's.
RUN_ID = "mlflow_run_id"
RUN_LINK = "mlflow_run"
DATA_VERSION = "dagster/data_version"


def latest(
    instance: dg.DagsterInstance, asset: dg.AssetKey, partition: str | None
) -> dg.AssetMaterialization | None:
    """Return the newest materialisation of an asset, or of one of its partitions."""
    record = latest_record(instance, asset, partition)
    return record.asset_materialization if record else None


def latest_record(
    instance: dg.DagsterInstance, asset: dg.AssetKey, partition: str | None
) -> dg.EventLogRecord | None:
    """Return the newest materialisation with its run and its time."""
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset, asset_partitions=[partition] if partition else None), limit=1
    ).records
    return records[0] if records else None


def observation(
    instance: dg.DagsterInstance, asset: dg.AssetKey, partition: str | None
) -> dg.AssetObservation | None:
    """Return the newest observation of a source, or of one of its partitions."""
    records = instance.fetch_observations(
        dg.AssetRecordsFilter(asset, asset_partitions=[partition] if partition else None), limit=1
    ).records
    return records[0].asset_observation if records else None


def upstream(
    instance: dg.DagsterInstance, assets: Sequence[dg.AssetKey], partition: str | None
) -> dict[str, tuple[str | None, str | None]]:
    """Return asset -> (its MLflow run, its content hash) for what lies directly upstream.

    Of a partitioned asset the same partition counts. A source has a hash and no run.
    """
    found: dict[str, tuple[str | None, str | None]] = {}
    for key in sorted(assets):
        made = (partition and latest(instance, key, partition)) or latest(instance, key, None)
        seen: dg.AssetMaterialization | dg.AssetObservation | None = made
        if seen is None:
            seen = (partition and observation(instance, key, partition)) or None
            seen = seen or observation(instance, key, None)
        if seen is not None:
            run = made.metadata.get(RUN_ID) if made else None
            found[key.to_user_string()] = (
                str(run.value) if run else None,
                (seen.tags or {}).get(DATA_VERSION),
            )
    return found


@cache
def code_version() -> str:
    """Return the commit this code is of, "-dirty" where files differ from it.

    Where it was installed without its repository, the package's version.
    """
    try:
        found = subprocess.run(
            [
                "git",
                "describe",
                "--always",
                "--dirty",
                "--exclude=*",
                "--abbrev=40",
            ],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
        return found.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        pass
    try:
        return version("arenapo")
    except PackageNotFoundError:
        return "unknown"
