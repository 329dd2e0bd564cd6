"""Alerts: a failed run, a check that says no, a new champion, told to what the study names.

Dagster's own event log is read from where the last look ended, which stands in the lake: so the
daemon's sensor and `python -m pipelines run` tell each event once between them, in whichever of the
two it happened. What cannot be told stays in the lake and is told at the next look; nothing here
fails a run. How an event is delivered is in `pipelines.delivery`.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from assets.dagster_internals import evaluations
from assets.lake import Lake
from assets.lineage import DATA_VERSION, RUN_LINK, latest, named, told, why
from assets.pictures import in_plain_text
from assets.stage import Chain
from assets.study import Study
from assets.turns import turn
from pipelines.delivery import undelivered
from pipelines.failures import reason_of_run
from pipelines.runs import is_of, job_of

# More than this between two looks is a storm, of which the rest is told at the next one.
MOST_AT_ONCE = 100
# What nobody could be told for so long is given up, with a line in the log.
LONGEST_SECONDS = 7 * 24 * 3600
TOLD = "alerts/told.json"
Say = Callable[[str], object]


@dataclass(frozen=True)
class Event:
    """What happened, as it is told; text: one sentence, harmless; link: its page in MLflow."""

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

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", in_plain_text(self.text))


def tell(study: Study, chain: Chain, instance: dg.DagsterInstance, say: Say) -> list[Event]:
    """Tell what happened since the last look, each event at least once; return what was told.

    The first look of a study tells nothing: what happened before alerts were asked for is history.
    say: called with one line for each alert that could not be delivered yet.
    """
    if not (study.alerts.command or study.alerts.webhook):
        return []
    lake, done = Lake(study.lake), []
    with turn(lake, instance, "alerts", say):
        path = lake.at(TOLD)
        state = json.loads(path.read_text()) if path.exists() else None
        if state is None:
            state = {"since": time.time(), "run": _last_failure(instance), "checks": {}}
            state |= {"champion": _champion(study, instance), "waiting": []}
        for event in _news(study, chain, instance, state):
            state["waiting"].append({"event": asdict(event), "to": ["command", "webhook"]})
        # Kept before anybody is told: a stop in between repeats an event and loses none.
        _write(lake, state)
        for one in list(state["waiting"]):
            event = Event(**one["event"])
            one["to"] = undelivered(study, one["event"], one["to"], say)
            old = time.time() - datetime.fromisoformat(event.at).timestamp() > LONGEST_SECONDS
            if not one["to"]:
                done.append(event)
            elif old:
                say(f"{event.id} could not be told for a week and is given up: {event.text}")
            if not one["to"] or old:
                state["waiting"].remove(one)
            _write(lake, state)
    return done


def _write(lake: Lake, state: dict[str, Any]) -> None:
    with lake.writing(TOLD) as aside:
        aside.write_text(json.dumps(state))


def _news(
    study: Study, chain: Chain, instance: dg.DagsterInstance, state: dict[str, Any]
) -> Iterator[Event]:
    """Go through what happened since `state`, which is moved on with every event."""
    yield from _failed_runs(study, instance, state)
    yield from _checks(study, chain, instance, state)
    standing = _champion(study, instance)
    if standing != state["champion"]:
        state["champion"] = standing
        said = told(instance, study, "champion", None)
        yield Event(
            f"champion-{standing}",
            "new_champion",
            f"{study.name}: {said.get('decision', '')}",
            study.name,
            _time(time.time()),
            asset="champion",
            link=str(said.get(RUN_LINK, "")),
        )


def _failed_runs(
    study: Study, instance: dg.DagsterInstance, state: dict[str, Any]
) -> Iterator[Event]:
    after = dg.RunStatusChangeRecordsFilter(
        dg.DagsterEventType.RUN_FAILURE, after_storage_id=state["run"]
    )
    for record in instance.fetch_run_status_changes(after, MOST_AT_ONCE, ascending=True).records:
        state["run"] = record.storage_id
        run = instance.get_run_by_id(record.run_id)
        if run is None or not is_of(study, run):
            continue
        policy, job = run.tags.get("dagster/partition", ""), job_of(study, run)
        event = record.event_log_entry.dagster_event
        said = reason_of_run(instance, run.run_id) or (event.message if event else "") or "unknown"
        yield Event(
            f"run-{run.run_id}",
            "run_failed",
            f"{study.name}: {job}{f' of {policy}' if policy else ''} failed: {said}",
            study.name,
            _time(record.timestamp),
            run_id=run.run_id,
            job=job,
            policy=policy,
        )


def _checks(
    study: Study, chain: Chain, instance: dg.DagsterInstance, state: dict[str, Any]
) -> Iterator[Event]:
    """A blocking check whenever it fails, any other one when it did not fail the time before."""
    seen: dict[str, tuple[float, bool]] = state["checks"]
    keys = [
        dg.AssetCheckKey(study.key(stage.name), check)
        for stage in chain.values()
        for check in (*stage.blocking, *stage.checks)
    ]
    for key in keys:
        for record, found, at in evaluations(instance, key, MOST_AT_ONCE):
            place = f"{key.to_user_string()}[{found.partition or ''}]"
            last, passed = seen.get(place, (0.0, True))
            if at <= last:
                continue
            seen[place] = (at, found.passed)
            if at < state["since"] or found.passed or not (found.blocking or passed):
                continue
            asset, policy = found.asset_key.path[-1], found.partition or ""
            verdict = "failed" if found.blocking else "says no"
            yield Event(
                f"check-{record.run_id}-{place}",
                "check_failed",
                f"{study.name}: check {found.check_name} of {named(asset, policy or None)} "
                f"{verdict}: {why(found)}",
                study.name,
                _time(at),
                run_id=record.run_id,
                asset=asset,
                policy=policy,
                check=found.check_name,
                severity=found.severity.value,
                link=str(told(instance, study, asset, found.partition).get(RUN_LINK, "")),
            )


def _last_failure(instance: dg.DagsterInstance) -> int:
    newest = instance.fetch_run_status_changes(dg.DagsterEventType.RUN_FAILURE, 1).records
    return newest[0].storage_id if newest else 0


def _champion(study: Study, instance: dg.DagsterInstance) -> str:
    made = latest(instance, study.key("champion"), None)
    return ((made.tags or {}).get(DATA_VERSION) if made else None) or "none"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
