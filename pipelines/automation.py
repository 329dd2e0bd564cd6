"""When stages run by themselves: when content moved enough, not when somebody clicked.

While the daemon runs, new votes are rated once so many of them wait or so many hours went by; a
policy is trained again once its training set moved by more than the study says. Every look says on
Dagster's page what it decided and why.
"""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES
from dagster._core.storage.tags import MAX_RETRIES_TAG

from arena.votes.deliveries import fingerprint
from arena.votes.sources import File, as_url, expanded, remote_rows
from assets.jobs import MOST_RETRIES
from assets.lake import Lake
from assets.lineage import DATA_VERSION, latest
from assets.movement import moved_since_training
from assets.ratings import REFIT
from assets.study import Study
from assets.votes import observed
from pipelines.alerts import tell

VOTE_FILES_TAKEN = "dagster/input_data_version/vote_files"
LONGEST_PAUSE = 24 * 3600
FIRST_PAUSE = 300
CLEAN = "clean_up"

# Runs that will still do something. One that was never launched (NOT_STARTED) may have lost who
# would have done so, and would block for ever.
AT_WORK = [*IN_PROGRESS_RUN_STATUSES, dg.DagsterRunStatus.QUEUED]
# Fires when an upstream's data version moved since this asset was last asked for, never for a
# materialisation that changed nothing (which AutomationCondition.eager() would follow too).
CONTENT_MOVED = (
    dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed()).since(
        dg.AutomationCondition.newly_requested() | dg.AutomationCondition.newly_updated()
    )
    & ~dg.AutomationCondition.any_deps_missing()
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
)


def follow_content(
    definitions: Iterable[dg.AssetsDefinition], names: Iterable[str]
) -> list[dg.AssetsDefinition]:
    """Give CONTENT_MOVED to the assets called `names` and leave the others as they are."""
    keys = {dg.AssetKey(name) for name in names}
    return list(
        dg.map_asset_specs(
            lambda spec: (
                spec.replace_attributes(automation_condition=CONTENT_MOVED)
                if spec.key in keys
                else spec
            ),
            definitions,
        )
    )


def automation(study: Study, reported: Iterable[str]) -> list[dg.SensorDefinition]:
    """Return the sensors of a study; they start with the daemon.

    reported: the assets that follow finished scorecards by themselves.
    """
    lake = Lake(study.lake)

    @dg.sensor(
        job_name="rate_votes",
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        description="Looks at the vote files; rates them when enough new votes wait.",
    )
    def new_votes(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return look_at_votes(study, lake, context, time.time())

    @dg.sensor(
        job_name="train_and_evaluate",
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=60,
        description="Trains a policy again when its training set moved enough.",
    )
    def moved_policies(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return look_at_policies(study, lake, context)

    following = dg.AutomationConditionSensorDefinition(
        "finished_scorecards",
        target=dg.AssetSelection.assets(*reported),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        description="Names the champion and writes the report after a scorecard changed.",
    )

    @dg.sensor(
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        description="Tells of failed runs, checks that say no and a new champion.",
    )
    def alerts(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        told = tell(study, context.instance, context.log.warning)
        return dg.SkipReason("; ".join(event.text for event in told) or "nothing to tell")

    asked = study.alerts.command or study.alerts.webhook
    return [new_votes, moved_policies, following, *([alerts] if asked else [])]


def schedules(study: Study) -> list[dg.ScheduleDefinition]:
    """Return the nightly look, which waits for no number of votes, and the weekly full refit.

    With a [retention] section, what is old is removed every night too.
    """

    @dg.schedule(
        cron_schedule="0 3 * * *",
        job_name="rate_votes",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Rates whatever votes came since the last time, however few.",
    )
    def nightly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        version = observed(study)
        if version == taken(context.instance):
            return dg.SkipReason("the vote files hold nothing new")
        context.instance.report_runless_asset_event(seen(version))
        return dg.RunRequest()

    @dg.schedule(
        cron_schedule="0 4 * * 0",
        job_name="rate_votes",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Fits every rating anew from all votes, whatever could be continued.",
    )
    def weekly_refit(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        context.instance.report_runless_asset_event(seen(observed(study)))
        return dg.RunRequest(tags={REFIT: "true"})

    @dg.schedule(
        cron_schedule="0 5 * * *",
        job_name=CLEAN,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Removes what is old and not needed, as [retention] says.",
    )
    def nightly_clean(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        unfinished = dg.RunsFilter(statuses=AT_WORK)
        if runs := context.instance.get_runs(unfinished, limit=1):
            return dg.SkipReason(f"run {runs[0].run_id[:8]} of {runs[0].job_name} is going on")
        return dg.RunRequest()

    return [nightly, weekly_refit, *([nightly_clean] if "retention" in study.raw else [])]


def clean_job(study: Study) -> dg.JobDefinition:
    """Return the job that removes what is old, for the page and the schedule."""

    @dg.op(description="Removes what is old and not needed, as [retention] says.")
    def remove_what_is_old(context: dg.OpExecutionContext) -> None:
        from pipelines.retention import clean

        said = clean(study, context.instance, context.log.info, own_run=context.run_id)
        context.log.info(said)

    @dg.job(name=CLEAN)
    def job() -> None:
        remove_what_is_old()

    return job


def look_at_votes(
    study: Study, lake: Lake, context: dg.SensorEvaluationContext, now: float
) -> dg.SensorResult:
    """Ask for a run when the files changed and enough votes wait, or say why not.

    The cursor holds what was asked for last and since when something waits. What was really taken
    in is told by the newest votes, so a run that failed is asked for again, with growing pauses.
    """
    state: dict[str, Any] = json.loads(context.cursor or "{}")
    version = observed(study)
    before = taken(context.instance)
    if version == before:
        return skipped("the vote files hold nothing new", {})
    if state.get("asked") == before:  # what was asked for is done: this is newer
        state = {}
    if run := in_progress(context.instance, "rate_votes"):
        return skipped(f"run {run[:8]} is rating votes; this is looked at again after it", state)
    since = state.get("since", now)
    tries = state.get("tries", 0) if state.get("asked") == version else 0
    if tries:
        pause = min(FIRST_PAUSE * 2 ** (tries - 1), LONGEST_PAUSE)
        if now < state["at"] + pause:
            left = state["at"] + pause - now
            said = f"the run for these files failed {tries} times; tried again in {left:.0f} s"
            return skipped(said, state)
    rows, wanted = waiting(study, lake), study.automation.votes
    waited = (now - since) / 3600
    if not tries and rows < wanted and waited < study.automation.hours:
        said = (
            f"{rows} new rows wait for {waited:.2f} h: rated from {wanted} rows or "
            f"{study.automation.hours:g} h on"
        )
        return skipped(said, {"since": since})
    cursor = {"since": since, "asked": version, "tries": tries + 1, "at": now}
    return dg.SensorResult(
        run_requests=[dg.RunRequest()], asset_events=[seen(version)], cursor=json.dumps(cursor)
    )


def look_at_policies(
    study: Study, lake: Lake, context: dg.SensorEvaluationContext
) -> dg.SensorResult:
    """Ask for a run of every policy whose training set moved enough, or say why of none.

    The cursor holds, by policy, the training set that was asked for: one that fails is not asked
    for again before the votes change. A run whose process died Dagster starts again by itself.
    """
    state: dict[str, str] = json.loads(context.cursor or "{}")
    made = latest(context.instance, dg.AssetKey("training_set"), None)
    if made is None:
        return skipped("there is no training set yet", state)
    content, above = (made.tags or {}).get(DATA_VERSION, ""), study.automation.retrain_above
    requests, said = [], []
    for name, found in moved_since_training(study, lake).items():
        if found is None:
            said.append(f"{name}: never trained, a person starts it first")
        elif above is None:
            said.append(f"{name}: {found}; automation.retrain_above is not set")
        elif found.change <= above:
            said.append(f"{name}: {found}, not above {above:g}")
        elif state.get(name) == content:
            said.append(f"{name}: was asked for already with this training set")
        elif run := in_progress(context.instance, "train_and_evaluate", name):
            said.append(f"{name}: run {run[:8]} is at work")
        else:
            state[name] = content
            tags = {"arenapo/why": f"{found}, above {above:g}", MAX_RETRIES_TAG: str(MOST_RETRIES)}
            requests.append(dg.RunRequest(partition_key=name, tags=tags))
    if not requests:
        return skipped("; ".join(said), state)
    return dg.SensorResult(run_requests=requests, cursor=json.dumps(state))


def skipped(said: str, state: dict[str, Any]) -> dg.SensorResult:
    """Return a look that asks for nothing, with its reason for the page."""
    return dg.SensorResult(skip_reason=dg.SkipReason(said), cursor=json.dumps(state))


def seen(version: str) -> dg.AssetObservation:
    """Return the observation of the vote files that the next votes are made from."""
    return dg.AssetObservation("vote_files", tags={DATA_VERSION: version})


def taken(instance: dg.DagsterInstance) -> str | None:
    """Return the version of the vote files that the newest votes were made from."""
    made = latest(instance, dg.AssetKey("votes"), None)
    return (made.tags or {}).get(VOTE_FILES_TAKEN) if made else None


def in_progress(instance: dg.DagsterInstance, job: str, partition: str | None = None) -> str | None:
    """Return the id of a run of a job that is at work or queued, None where there is none."""
    tags = {"dagster/partition": partition} if partition else {}
    unfinished = dg.RunsFilter(job_name=job, tags=tags, statuses=AT_WORK)
    runs = instance.get_runs(unfinished, limit=1)
    return runs[0].run_id if runs else None


def waiting(study: Study, lake: Lake) -> int:
    """Count the rows of files whose content is in no earlier intake, those known of them aside."""
    before = lake.read("intake") if lake.table("intake").exists() else None
    known = set(before["fingerprint"]) if before is not None else set()
    rows = dict(before.select("file", "rows").iter_rows()) if before is not None else {}
    count = 0
    for source in study.votes.sources:
        url = as_url(source)
        if url is not None:
            count += max(remote_rows(url) - rows.get(url, 0), 0)
            continue
        for path in expanded(Path(source)):
            if fingerprint(File(path, str(path))) not in known:
                count += max(rows_of(path) - rows.get(str(path), 0), 0)
    return count


def rows_of(path: Path) -> int:
    """Estimate a file's rows without reading its votes: a parquet's footer, else its lines."""
    if path.suffix == ".parquet":
        try:
            return int(pq.read_metadata(path).num_rows)
        except (OSError, ValueError):
            return 1
    with path.open("rb") as stream:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: stream.read(1 << 20), b"")) or 1
