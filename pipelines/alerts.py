"""Alerts: a failed run, a check that says no, a new champion, told to what the study names.

Dagster's own event log is read from where the last look ended, which stands in the lake: so the
daemon's sensor and `python -m pipelines run` tell each event once between them, in whichever of the
two it happened. What cannot be told is logged and never fails a run.
"""

import http.client
import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
from dagster._core.event_api import RunStatusChangeRecordsFilter
from dagster._core.storage.asset_check_execution_record import (
    COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES,
)

from arena.atomic import replacing
from assets.lake import Lake
from assets.lineage import DATA_VERSION, RUN_LINK, latest
from assets.study import Study
from pipelines.failures import reason_of_run

# More than this between two looks is a storm, of which the rest is told at the next one.
MOST_AT_ONCE = 100
SECONDS = 10
Say = Callable[[str], object]


@dataclass(frozen=True)
class Event:
    """What happened, as it is told; text: one sentence; link: its page in MLflow."""

    id: str
    event: str  # run_failed, check_failed, new_champion
    text: str
    study: str
    at: str  # UTC, ISO 8601
    run_id: str = ""
    job: str = ""
    asset: str = ""
    policy: str = ""
    check: str = ""
    severity: str = ""
    link: str = ""


def tell(study: Study, instance: dg.DagsterInstance, say: Say) -> list[Event]:
    """Tell what happened since the last look, each event once; return what was told.

    The first look of a study tells nothing: what happened before alerts were asked for is history.
    say: called with one line for each alert that could not be delivered.
    """
    if not (study.alerts.command or study.alerts.webhook):
        return []
    lake, told = Lake(study.lake), []
    with lake.held("alerts", say):
        path = lake.root / "alerts" / "told.json"
        state = json.loads(path.read_text()) if path.exists() else None
        if state is None:
            state = {"since": time.time(), "run": _last_failure(instance), "checks": {}}
            state["champion"] = _champion(instance)
        # The place is kept after each event: a stop in between repeats one and loses none.
        for event in _news(study, instance, state):
            deliver(study, event, say)
            told.append(event)
            _write(path, state)
        _write(path, state)
    return told


def _write(path: Path, state: dict[str, Any]) -> None:
    with replacing(path) as aside:
        aside.write_text(json.dumps(state))


def _news(study: Study, instance: dg.DagsterInstance, state: dict[str, Any]) -> Iterator[Event]:
    """Go through what happened since `state`, which is moved on with every event."""
    yield from _failed_runs(study, instance, state)
    yield from _checks(study, instance, state)
    standing = _champion(instance)
    if standing != state["champion"]:
        state["champion"] = standing
        made = latest(instance, dg.AssetKey("champion"), None)
        said = str(made.metadata["decision"].value) if made else ""
        yield Event(
            f"champion-{standing}",
            "new_champion",
            f"{study.name}: {said}",
            study.name,
            _time(time.time()),
            asset="champion",
            link=_link(instance, "champion", None),
        )


def _failed_runs(
    study: Study, instance: dg.DagsterInstance, state: dict[str, Any]
) -> Iterator[Event]:
    after = RunStatusChangeRecordsFilter(
        dg.DagsterEventType.RUN_FAILURE, after_storage_id=state["run"]
    )
    failures = instance.fetch_run_status_changes(after, MOST_AT_ONCE, ascending=True)
    for record in failures.records:
        state["run"] = record.storage_id
        run = instance.get_run_by_id(record.run_id)
        if run is None:
            continue
        policy = run.tags.get("dagster/partition", "")
        event = record.event_log_entry.dagster_event
        said = reason_of_run(instance, run.run_id) or (event.message if event else "") or "unknown"
        yield Event(
            f"run-{run.run_id}",
            "run_failed",
            f"{study.name}: {run.job_name}{f' of {policy}' if policy else ''} failed: {said}",
            study.name,
            _time(record.timestamp),
            run_id=run.run_id,
            job=run.job_name,
            policy=policy,
        )


def _checks(study: Study, instance: dg.DagsterInstance, state: dict[str, Any]) -> Iterator[Event]:
    """A blocking check whenever it fails, any other one when it did not fail the time before."""
    from pipelines.definitions import build_definitions

    seen: dict[str, tuple[float, bool]] = state["checks"]
    keys = build_definitions(study).resolve_asset_graph().asset_check_keys
    for key in sorted(keys, key=lambda key: key.to_user_string()):
        history = instance.event_log_storage.get_asset_check_execution_history(
            key, MOST_AT_ONCE, status=COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES
        )
        of_time = [
            (record.event.timestamp, record.event.dagster_event.asset_check_evaluation_data, record)
            for record in history
            if record.event and record.event.dagster_event
        ]
        for at, found, record in sorted(of_time, key=lambda each: each[0]):
            place = f"{key.to_user_string()}[{found.partition or ''}]"
            last, passed = seen.get(place, (0.0, True))
            if at <= last:
                continue
            seen[place] = (at, found.passed)
            if at < state["since"] or found.passed or not (found.blocking or passed):
                continue
            asset, policy = found.asset_key.to_user_string(), found.partition or ""
            verdict = "failed" if found.blocking else "says no"
            yield Event(
                f"check-{record.run_id}-{place}",
                "check_failed",
                f"{study.name}: check {found.check_name} of {asset}"
                f"{f' of {policy}' if policy else ''} {verdict}",
                study.name,
                _time(at),
                run_id=record.run_id,
                asset=asset,
                policy=policy,
                check=found.check_name,
                severity=found.severity.value,
                link=_link(instance, asset, found.partition),
            )


def _last_failure(instance: dg.DagsterInstance) -> int:
    newest = instance.fetch_run_status_changes(dg.DagsterEventType.RUN_FAILURE, 1).records
    return newest[0].storage_id if newest else 0


def _champion(instance: dg.DagsterInstance) -> str:
    made = latest(instance, dg.AssetKey("champion"), None)
    return ((made.tags or {}).get(DATA_VERSION) if made else None) or "none"


def _link(instance: dg.DagsterInstance, asset: str, partition: str | None) -> str:
    made = latest(instance, dg.AssetKey(asset), partition)
    found = made.metadata.get(RUN_LINK) if made else None
    return str(found.value) if found is not None else ""


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def deliver(study: Study, event: Event, say: Say) -> None:
    """Give an event to the command and the webhook; say what could not be delivered."""
    body = json.dumps(asdict(event))
    for name, send in (("command", _run_command), ("webhook", _post)):
        if getattr(study.alerts, name):
            try:
                send(study, event, body)
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                say(f"alerts.{name} could not be told of {event.id}: {_in_short(error)}")


def _run_command(study: Study, event: Event, body: str) -> None:
    fields = {f"ARENAPO_ALERT_{key.upper()}": value for key, value in asdict(event).items()}
    done = subprocess.run(
        study.alerts.command,
        cwd=study.path.parent,
        input=body,
        env={**os.environ, **fields},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=SECONDS,
        check=False,
    )
    if done.returncode:
        words = done.stderr.strip().splitlines()
        raise ValueError(f"exit status {done.returncode}{f': {words[-1]}' if words else ''}")


def _post(study: Study, event: Event, body: str) -> None:
    address = study.alerts.webhook or ""
    if address.startswith("$"):
        named = os.environ.get(address[1:], "")
        if not named.startswith(("http://", "https://")):
            raise ValueError(f"the environment variable {address[1:]} holds no http(s) address")
        address = named
    headers = {"Content-Type": "application/json", "User-Agent": "arenapo"}
    request = urllib.request.Request(address, body.encode(), headers, method="POST")
    try:
        urllib.request.urlopen(request, timeout=SECONDS).close()
    except (OSError, http.client.HTTPException) as error:
        # The address itself may be a secret, so only its host is said.
        raise ValueError(f"{urlsplit(address).hostname}: {error}") from None


def _in_short(error: Exception) -> str:
    if isinstance(error, subprocess.TimeoutExpired):
        return f"it took longer than {SECONDS} s"
    return str(error)
