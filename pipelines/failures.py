"""Why a run failed, in the words of what failed and not of what wraps it."""

import re
from collections.abc import Iterable

import dagster as dg

WRAPPER = re.compile("Dagster|RetryRequested")


def reason(events: Iterable[dg.DagsterEvent]) -> str | None:
    """Return the first step that failed and what it raised; None where no step did."""
    for event in events:
        if event.is_step_failure and event.step_key:
            error = event.step_failure_data.error
            # What a stage raised is the reason, not what wraps it nor what that came from.
            while error and error.cause and WRAPPER.match(error.cls_name or ""):
                error = error.cause
            # A step is called by its study and its asset.
            asset = event.step_key.rpartition("__")[2]
            if error is None:
                return f"{asset}: no error was recorded"
            said = re.sub(rf"^[\w.]*{error.cls_name}: ", "", error.message.strip())
            return f"{asset}: {said}"
    return None


def interrupted(events: Iterable[dg.DagsterEvent]) -> bool:
    """Tell whether a person's interrupt ended the run, and not a failure."""
    errors = [e.step_failure_data.error for e in events if e.is_step_failure]
    while errors:
        error = errors.pop()
        if error is not None:
            if error.cls_name in ("DagsterExecutionInterruptedError", "KeyboardInterrupt"):
                return True
            errors.append(error.cause)
    return False


def reason_of_run(instance: dg.DagsterInstance, run_id: str) -> str | None:
    """Return the same of a run that is recorded."""
    entries = instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    return reason(entry.dagster_event for entry in entries if entry.dagster_event)
