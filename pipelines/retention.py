"""`python -m pipelines clean`: remove what is old and what nothing needs any more.

What an alias, a newest materialisation, a resumable training or the next `run` needs stays,
whatever its age; votes and rejections always stay. docs/pipeline.md states the policy.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import dagster as dg
from dagster._core.definitions.data_version import DataProvenance
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager

from assets.lake import Lake, content_hash
from assets.lineage import latest_record
from assets.policy import training_inputs
from assets.study import Study
from assets.yardsticks import drawing_inputs
from pipelines.automation import AT_WORK
from pipelines.costs import as_bytes, size
from pipelines.definitions import ARENA, OBSERVED, POLICY, REPORT, build_definitions
from pipelines.registry import old_models, old_runs, policies_with_an_alias

DAY = 24 * 3600.0


@dataclass(frozen=True)
class Removal:
    """One thing to remove; bytes: of files, what databases give back is not counted."""

    kind: str
    name: str
    bytes: int
    remove: Callable[[], object]


def clean(
    study: Study,
    instance: dg.DagsterInstance,
    say: Callable[[str], object],
    dry_run: bool = False,
    own_run: str | None = None,
) -> str:
    """Remove what the study's [retention] lets go, and return what that was.

    dry_run: only look. own_run: the Dagster run that this is called from. Waits for a `run` from a
    terminal. Raises ValueError while any other run is going on.
    """
    lake = Lake(study.lake)
    with ExitStack() as held:
        if not dry_run:
            for part in ("chain", "study", *(f"policy {name}" for name in study.policies)):
                held.enter_context(lake.held(part, say))
        going = instance.get_runs(dg.RunsFilter(statuses=AT_WORK))
        for run in going:
            if run.run_id != own_run and not dry_run:
                raise ValueError(
                    f"run {run.run_id} of {run.job_name} is going on; clean when it has ended"
                )
        found = list(removals(study, instance, time.time() - study.retention.days * DAY))
        for removal in found:
            say(f"{removal.kind} {removal.name}: {as_bytes(removal.bytes)}")
            if not dry_run:
                removal.remove()
    kinds = list(dict.fromkeys(removal.kind for removal in found))
    lines = []
    for kind in kinds:
        some = [removal.bytes for removal in found if removal.kind == kind]
        lines.append(f"{kind:<22} {len(some):>6} {as_bytes(sum(some)):>9}")
    verb = "would free" if dry_run else "freed"
    total = as_bytes(sum(removal.bytes for removal in found))
    return "\n".join([*lines, f"{verb} {total} of {study.name}"])


def removals(study: Study, instance: dg.DagsterInstance, before: float) -> Iterator[Removal]:
    """Find what may go, older than `before` (seconds since 1970). This only reads."""
    yield from _of_the_lake(study, before)
    for version, model, bytes_, remove in old_models(study, instance):
        yield Removal("model versions", f"{version} ({model})", bytes_, remove)
    for run, name, bytes_, remove in old_runs(study, instance, before):
        yield Removal("MLflow runs", f"{run} ({name})", bytes_, remove)
    yield from _of_dagster(study, instance, before)


def _of_the_lake(study: Study, before: float) -> Iterator[Removal]:
    lake = Lake(study.lake)
    serving = policies_with_an_alias(study)
    needed = _resumable(study, lake)
    for stage in ("policies", "generations", "judgments"):
        for folder in sorted((lake.root / stage).glob("*")):
            name = folder.name
            if name not in study.policies:
                if name not in serving and newest(folder) < before:
                    yield _folder("policies given up", folder)
                continue
            current = lake.current(stage, name).resolve().name
            for version in sorted(folder.iterdir()) if stage != "judgments" else ():
                if version.is_symlink() or not version.is_dir() or version.name == current:
                    continue
                if version.name != needed.get((stage, name)) and newest(version) < before:
                    yield _folder("unfinished work", version)
            checkpoints = lake.current(stage, name).resolve() / "checkpoints"
            # What continues a training has no use once it is finished.
            if (checkpoints.parent / "result.json").exists() and any(checkpoints.glob("*")):
                yield _folder("checkpoints", checkpoints)
    for path in sorted(lake.root.rglob(".*.partial")):
        if path.is_file() and path.stat().st_mtime < before:
            yield Removal("half-written files", str(path), path.stat().st_size, path.unlink)


def _resumable(study: Study, lake: Lake) -> dict[tuple[str, str], str]:
    """Return (stage, policy) -> the folder that the next run would work in."""
    found = {}
    table = lake.table("training_set")
    data = content_hash(table) if table.exists() else None
    for name, config in study.policies.items():
        if config is not None and data is not None:
            found["policies", name] = training_inputs(study, name, data)
        if config is None or (lake.current("policies", name) / "policy").exists():
            found["generations", name] = drawing_inputs(study, lake, name)
    return found


def _folder(kind: str, folder: Path) -> Removal:
    return Removal(kind, str(folder), size(folder), lambda: shutil.rmtree(folder))


def newest(folder: Path) -> float:
    """Return when the newest file of a folder was written, or the folder itself."""
    return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))


def _of_dagster(study: Study, instance: dg.DagsterInstance, before: float) -> Iterator[Removal]:
    kept = needed_runs(study, instance)
    for record in instance.get_run_records():
        run = record.dagster_run
        if (
            run.is_finished
            and run.run_id not in kept
            and record.create_timestamp.timestamp() < before
        ):
            yield Removal(
                "Dagster runs",
                f"{run.run_id} ({run.job_name})",
                sum(size(path) for path in _files_of(instance, run.run_id)),
                partial(_forget, instance, run.run_id),
            )


def _forget(instance: dg.DagsterInstance, run_id: str) -> None:
    files = _files_of(instance, run_id)
    instance.delete_run(run_id)
    for path in files:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _files_of(instance: dg.DagsterInstance, run_id: str) -> list[Path]:
    """Return a run's own event log and output, which Dagster leaves behind when it forgets it."""
    files = []
    log, output = instance.event_log_storage, instance.compute_log_manager
    if isinstance(log, SqliteEventLogStorage):
        files.append(Path(log.path_for_shard(run_id)))
    if isinstance(output, LocalComputeLogManager):
        files.append(
            Path(output.get_captured_local_path([run_id, "compute_logs", "x"], "y")).parents[1]
        )
    return [path for path in files if path.exists()]


def needed_runs(study: Study, instance: dg.DagsterInstance) -> set[str]:
    """Return the Dagster runs whose records say what is up to date.

    These are, of every asset and partition, the run of the newest record, and those of the records
    of its inputs that it was made from: of a partition Dagster remembers only their place.
    """
    graph = build_definitions(study).resolve_asset_graph()
    kept = set()
    for name in (*OBSERVED, "recipe", *ARENA, *POLICY, *REPORT):
        key = dg.AssetKey(name)
        external = graph.get(key).is_external
        partitions = list(study.policies) if graph.get(key).is_partitioned else [None]
        for partition in partitions:
            newest_record = instance.get_latest_data_version_record(key, external, partition)
            if newest_record is not None:
                kept.add(newest_record.run_id)
            made = None if external else latest_record(instance, key, partition)
            if made is None or made.asset_materialization is None:
                continue
            provenance = DataProvenance.from_tags(made.asset_materialization.tags or {})
            for dep, place in (provenance.input_storage_ids if provenance else {}).items():
                node = graph.get(dep)
                for part in list(study.policies) if node.is_partitioned else [None]:
                    used = instance.get_latest_data_version_record(
                        dep, node.is_external, part, before_cursor=place + 1 if place else None
                    )
                    if used is not None:
                        kept.add(used.run_id)
    return kept
