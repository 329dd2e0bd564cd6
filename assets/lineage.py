"""What Dagster recorded: the newest records, what each was made from, and which checks stand.

The one place that asks Dagster's event log. "Newest" is what every other file means by it.
"""

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import dagster as dg

from assets.dagster_internals import newest_evaluation
from assets.stage import Chain, Place, Stage
from assets.study import Study

# What every materialisation carries, so that Dagster's page leads to MLflow's.
RUN_ID = "mlflow_run_id"
RUN_LINK = "mlflow_run"
# What it was made from: place -> version, and the values of the TOML that it read.
INPUTS = "inputs"
SETTINGS = "settings"
# A check's foreign words stand in this text, which is shown as it is; a description is markdown.
SUCH_AS = "such_as"
DATA_VERSION = "dagster/data_version"
CODE_VERSION = "dagster/code_version"


def named(name: str, policy: str | None) -> str:
    """Return an asset, or a policy's part of it, as people read it: votes, policy[dpo]."""
    return f"{name}[{policy}]" if policy else name


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


def current_version(
    instance: dg.DagsterInstance, study: Study, chain: Chain, place: Place
) -> str | None:
    """Return the version that was last recorded of an asset or a source, None where none was."""
    key, policy = study.key(place[0]), place[1]
    look = latest if place[0] in chain else observation
    found = look(instance, key, policy)
    return (found.tags or {}).get(DATA_VERSION) if found else None


def plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata as plain values."""
    return {key: getattr(value, "value", value) for key, value in metadata.items()}


def told(
    instance: dg.DagsterInstance, study: Study, name: str, policy: str | None
) -> dict[str, Any]:
    """Return the metadata of the newest materialisation as plain values; {} where there is none."""
    made = latest(instance, study.key(name), policy)
    return plain(made.metadata) if made else {}


def made_from(made: dg.AssetMaterialization) -> tuple[dict[str, str | None], dict[str, Any]]:
    """Return what a materialisation was made from: place -> version, and TOML key -> value."""
    said = plain(made.metadata)
    return json.loads(said.get(INPUTS, "{}")), json.loads(said.get(SETTINGS, "{}"))


class Blocked(RuntimeError):
    """A blocking check of something upstream failed, so nothing downstream of it runs."""


@dataclass(frozen=True)
class Finding:
    """What a check found; why: its reason in words; current: it looked at the newest version."""

    check: str
    asset: str
    policy: str | None
    passed: bool
    why: str
    current: bool = True

    def __str__(self) -> str:
        return f"check {self.check} of {named(self.asset, self.policy)} failed: {self.why}"


def findings(
    instance: dg.DagsterInstance, study: Study, stage: Stage, policy: str | None
) -> Iterator[Finding]:
    """Return what the blocking checks say of the newest materialisation; none where none is.

    A check that did not come to its end for it (its process was killed) is not current.
    """
    record = latest_record(instance, study.key(stage.name), policy) if stage.blocking else None
    if record is None:
        return
    for name in stage.blocking:
        key = dg.AssetCheckKey(study.key(stage.name), name)
        found = newest_evaluation(instance, key, policy)
        target = found.target_materialization_data if found else None
        if found is None or target is None or target.storage_id != record.storage_id:
            yield Finding(name, stage.name, policy, False, "it was not evaluated", current=False)
        else:
            yield Finding(name, stage.name, policy, found.passed, why(found))


def why(found: dg.AssetCheckEvaluation | dg.AssetCheckResult) -> str:
    """Return a check's reason in words: its description, else the short values it measured."""
    values = plain(found.metadata)
    if found.description:
        return ": ".join([found.description, *([values[SUCH_AS]] if SUCH_AS in values else [])])
    short = [
        f"{key.replace('_', ' ')}: {value:.4g}" if isinstance(value, float) else
        f"{key.replace('_', ' ')}: {value}"
        for key, value in values.items()
        if isinstance(value, int | float | str) and "\n" not in str(value) and len(str(value)) < 200
    ]  # fmt: skip
    return ", ".join(short) or "it gave no reason"


def upstream(study: Study, chain: Chain, name: str, policy: str | None) -> list[Place]:
    """Return all assets that a stage follows, however far upstream, the nearest first."""
    found: dict[Place, None] = {}
    open_ = [(name, policy)]
    while open_:
        stage, part = open_.pop(0)
        above: list[Place] = [(each, None) for each in chain[stage].after]
        for place in [*above, *chain[stage].places(study, part)]:
            if place not in found and place[0] in chain:
                found[place] = None
                open_.append(place)
    return list(found)


def obstacles(
    instance: dg.DagsterInstance, study: Study, chain: Chain, name: str, policy: str | None
) -> list[Finding]:
    """Return the failed blocking checks that forbid a stage to run.

    One policy's failed check forbids what is that policy's; what is made over all policies goes on
    without it.
    """
    return [
        finding
        for asset, part in upstream(study, chain, name, policy)
        if part is None or policy is not None
        for finding in findings(instance, study, chain[asset], part)
        if not finding.passed and finding.current
    ]


@cache
def code_version() -> str:
    """Return the commit this code is of, "-dirty" where files differ from it.

    Where it was installed without its repository, the package's version.
    """
    command = ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]
    try:
        found = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
        return found.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        pass
    try:
        return version("arenapo")
    except PackageNotFoundError:
        return "unknown"
