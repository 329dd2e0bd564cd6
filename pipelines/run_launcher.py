"""Dagster's own run launcher, whose runs can be asked whether their process still lives.

Run monitoring fails a run whose process is gone only where the launcher can tell, which Dagster's
own cannot: its code server tells, and a code server that was killed too leaves its runs started,
with their places in the pools, for ever.
"""

from typing import Any

import psutil
from dagster import DagsterEventType, DagsterRun, DefaultRunLauncher

from assets.dagster_internals import CheckRunHealthResult, WorkerStatus


class WatchedRunLauncher(DefaultRunLauncher):
    """Launches runs as processes of this machine and knows which of them live."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Run monitoring may ask."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Look for the run's process; one without a known process is somebody else's to watch."""
        begun = self._begun(run.run_id)
        if begun is None or lives(*begun):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, f"its process {begun[0]} is gone")

    def _begun(self, run_id: str) -> tuple[int, float] | None:
        """Return the run's process id and when it said so, as a time of the epoch."""
        records = self._instance.get_records_for_run(
            run_id, of_type=DagsterEventType.ENGINE_EVENT
        ).records
        for record in records:
            event: Any = record.event_log_entry.dagster_event
            pid = event.engine_event_data.metadata.get("pid")
            if pid is not None and event.message.startswith("Started process for run"):
                return int(pid.value), record.event_log_entry.timestamp
        return None


def lives(pid: int, seen: float) -> bool:
    """Tell whether the process that had this id at the time `seen` is still running."""
    try:
        process = psutil.Process(pid)
        return process.create_time() <= seen and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
