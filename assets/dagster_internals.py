"""Everything that is taken from Dagster's private modules, and nothing else; a test for each.

An upgrade of Dagster that moves one of these shows here first. The stores' modules are imported
where they are used: they load SQLAlchemy, which the definitions need not.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._core.storage.asset_check_execution_record import (
    COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES as COMPLETED,
)
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord

__all__ = [
    "DAEMON",
    "CheckRunHealthResult",
    "Pool",
    "WorkerStatus",
    "evaluations",
    "files_of_run",
    "free_pool_slots",
    "newest_evaluation",
    "open_instance",
    "store_id",
    "web_app",
]

# The daemon as a module that Python runs.
DAEMON = "dagster._daemon"


def open_instance(home: Path, config: Path) -> dg.DagsterInstance:
    """Open the instance whose history lies in `home`, as the dagster.yaml in `config` says."""
    from dagster._core.instance.ref import InstanceRef

    return dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home), config_dir=str(config)))


def newest_evaluation(
    instance: dg.DagsterInstance, check: dg.AssetCheckKey, partition: str | None
) -> dg.AssetCheckEvaluation | None:
    """Return what a check found when it last came to its end, None where it never did."""
    found = instance.event_log_storage.get_asset_check_execution_history(
        check, 1, status=COMPLETED, partition_filter=PartitionKeyFilter(key=partition)
    )
    return found[0].evaluation if found else None


def evaluations(
    instance: dg.DagsterInstance, check: dg.AssetCheckKey, most: int
) -> Iterator[tuple[AssetCheckExecutionRecord, dg.AssetCheckEvaluation, float]]:
    """Yield a check's last evaluations, the oldest first: (record, what it found, when)."""
    found = instance.event_log_storage.get_asset_check_execution_history(
        check, most, status=COMPLETED
    )
    for record in reversed(found):
        if record.event and record.evaluation:
            yield record, record.evaluation, record.event.timestamp


def store_id(instance: dg.DagsterInstance) -> str:
    """Return what tells this instance's history from every other one."""
    storage: Any = instance.run_storage
    return str(storage.get_run_storage_id())


@dataclass(frozen=True)
class Pool:
    """A pool with one place in Dagster's database, as one machine sees it; machine: its name."""

    instance: dg.DagsterInstance
    name: str
    machine: str

    def claimed(self) -> bool:
        """Ask for the place, in order of asking; tell whether this machine has it."""
        storage = self.instance.event_log_storage
        if self.name not in storage.get_concurrency_keys():
            storage.set_concurrency_slots(self.name, 1)
        return storage.claim_concurrency_slot(self.name, self._own, "turn").is_claimed

    def others(self) -> set[str]:
        """Return who else has the place or stands before it."""
        info = self.instance.event_log_storage.get_concurrency_info(self.name)
        waiting = {each.run_id for each in info.pending_steps if each.assigned_timestamp}
        return (waiting | {each.run_id for each in info.claimed_slots}) - {self._own}

    def put_out(self, other: str) -> None:
        """Take the place from another one."""
        self.instance.event_log_storage.free_concurrency_slots_for_run(other)

    def leave(self) -> None:
        """Give the place back, or stop waiting for it."""
        self.put_out(self._own)

    def sign(self) -> None:
        """Say that this machine lives."""
        value = str(time.time())
        self.instance.run_storage.set_cursor_values({self._own: value})

    def sign_of(self, other: str) -> str:
        """Return what another one said last."""
        return self.instance.run_storage.get_cursor_values({other}).get(other, "")

    @property
    def _own(self) -> str:
        return f"{self.machine} {self.name}"


def free_pool_slots(instance: dg.DagsterInstance, run_id: str) -> None:
    """Give back the places in the pools that a dead run holds."""
    instance.event_log_storage.free_concurrency_slots_for_run(run_id)


def files_of_run(instance: dg.DagsterInstance, run_id: str) -> list[Path]:
    """Return a run's own event log and output, which Dagster leaves behind when it forgets it."""
    from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
    from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager

    files = []
    log, output = instance.event_log_storage, instance.compute_log_manager
    if isinstance(log, SqliteEventLogStorage):
        files.append(Path(log.path_for_shard(run_id)))
    if isinstance(output, LocalComputeLogManager):
        kept = output.get_captured_local_path([run_id, "compute_logs", "x"], "y")
        files.append(Path(kept).parents[1])
    return [path for path in files if path.exists()]


@contextmanager
def web_app(instance: dg.DagsterInstance, module: str | None) -> Iterator[Any]:
    """Give Dagster's web server as an ASGI application, with nothing before it.

    module: of the code location; None serves the instance alone.
    """
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import EmptyWorkspaceTarget, ModuleTarget
    from dagster_webserver.app import create_app_from_workspace_process_context

    target = (
        ModuleTarget(module, None, working_directory=str(Path.cwd()), location_name=None)
        if module
        else EmptyWorkspaceTarget()
    )
    with instance, WorkspaceProcessContext(instance, workspace_load_target=target) as context:
        yield create_app_from_workspace_process_context(context)
