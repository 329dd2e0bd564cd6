"""When stages run by themselves: when content moved enough, not when somebody clicked.

While the daemon runs, new votes are rated once so many of them wait or so many hours went by; a
policy is trained again once its training set moved by more than the study says; images, scores,
champion and report follow what they are made from. Every look says on Dagster's page what it
decided and why.
"""

import json
import time
from collections.abc import Sequence
from typing import Any

import dagster as dg

from assets.content import known
from assets.images import changed_on_disk
from assets.lake import Lake
from assets.lineage import DATA_VERSION, current_version, latest, made_from, named
from assets.movement import moved_since_training
from assets.stage import Chain, Place
from assets.study import Study
from assets.votes import BY_SENSOR, SETTLED_SECONDS, NothingYet, observation, observed
from pipelines.alerts import tell
from pipelines.arrivals import waiting
from pipelines.chain import RATE, REPORT, SOURCES, TRAIN, in_order, of_job
from pipelines.retention import clean
from pipelines.runs import at_work
from pipelines.staleness import Staleness

LONGEST_PAUSE = 24 * 3600
FIRST_PAUSE = 300
CLEAN = "clean_up"
MAX_RETRIES = "dagster/max_retries"
WHY = "arenapo/why"


def sensors(study: Study, chain: Chain, jobs: Sequence[Any]) -> list[dg.SensorDefinition]:
    """Return the sensors of a study, which start with the daemon; jobs: all that they may ask."""
    lake = Lake(study.lake)
    running = dg.DefaultSensorStatus.RUNNING

    @dg.sensor(
        name=study.called("new_votes"),
        job_name=study.called(RATE),
        default_status=running,
        minimum_interval_seconds=30,
        description="Looks at the vote files and images; rates them when enough new votes wait.",
    )
    def new_votes(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        with known(lake.hashes):
            return look_at_votes(study, chain, context, time.time())

    @dg.sensor(
        name=study.called("moved_policies"),
        job_name=study.called(TRAIN),
        default_status=running,
        minimum_interval_seconds=60,
        description="Trains a policy again when its training set moved enough.",
    )
    def moved_policies(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return look_at_policies(study, chain, context)

    @dg.sensor(
        name=study.called("stale_evidence"),
        jobs=jobs,
        default_status=running,
        minimum_interval_seconds=30,
        description="Draws, scores and reports anew what follows a moved policy, prompt or scorer.",
    )
    def stale_evidence(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        with known(lake.hashes):
            return look_at_evidence(study, chain, context)

    @dg.sensor(
        name=study.called("alerts"),
        default_status=running,
        minimum_interval_seconds=30,
        description="Tells of failed runs, checks that say no and a new champion.",
    )
    def alerts(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        told = tell(study, chain, context.instance, context.log.warning)
        return dg.SkipReason("; ".join(event.text for event in told) or "nothing to tell")

    asked = study.alerts.command or study.alerts.webhook
    return [new_votes, moved_policies, stale_evidence, *([alerts] if asked else [])]


def schedules(study: Study) -> list[dg.ScheduleDefinition]:
    """Return, for a study with a [retention] section, the nightly removal of what is old."""
    if "retention" not in study.raw:
        return []

    @dg.schedule(
        name=study.called("nightly_clean"),
        cron_schedule="0 5 * * *",
        execution_timezone=study.retention.timezone,
        job_name=study.called(CLEAN),
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Removes what is old and not needed, as [retention] says.",
    )
    def nightly_clean(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        if run := at_work(study, context.instance):
            return dg.SkipReason(f"run {run.run_id[:8]} of {run.job_name} is going on")
        return dg.RunRequest()

    return [nightly_clean]


def clean_job(study: Study, chain: Chain) -> dg.JobDefinition:
    """Return the job that removes what is old, for the page and the schedule."""

    @dg.op(
        name=study.called("remove_what_is_old"),
        description="Removes what is old and not needed, as [retention] says.",
    )
    def remove_what_is_old(context: dg.OpExecutionContext) -> None:
        context.log.info(
            clean(study, chain, context.instance, context.log.info, own_run=context.run_id)
        )

    @dg.job(name=study.called(CLEAN))
    def job() -> None:
        remove_what_is_old()

    return job


def look_at_votes(
    study: Study, chain: Chain, context: dg.SensorEvaluationContext, now: float
) -> dg.SensorResult:
    """Ask for a run when the files changed and enough votes wait, or say why not.

    The cursor holds what was asked for last and since when something waits. What was really taken
    in is told by the newest votes, so a run that failed is asked for again, with growing pauses.
    """
    state: dict[str, Any] = json.loads(context.cursor or "{}")
    lake, settled = Lake(study.lake), now - SETTLED_SECONDS
    try:
        version = observed(study, settled)
    except NothingYet as nothing:
        return skipped(str(nothing), state)
    before = taken(context.instance, study)
    pictures = changed_on_disk(study, lake)
    # A person's run may have taken files that are younger than a look takes.
    if before in (version, observed(study)) and not pictures:
        return skipped("the vote files hold nothing new", {})
    if version == before:
        version = f"{version} {pictures}"
    if state.get("asked") == before:  # what was asked for is done: this is newer
        state = {}
    if run := at_work(study, context.instance, RATE, of_job(chain, RATE)):
        said = f"run {run.run_id[:8]} is rating votes; this is looked at again after it"
        return skipped(said, state)
    since = state.get("since", now)
    tries = state.get("tries", 0) if state.get("asked") == version else 0
    if tries:
        pause = min(FIRST_PAUSE * 2 ** (tries - 1), LONGEST_PAUSE)
        if now < state["at"] + pause:
            left = state["at"] + pause - now
            said = f"the run for these files failed {tries} times; tried again in {left:.0f} s"
            return skipped(said, state)
    rows, wanted = waiting(study, lake, settled), study.automation.votes
    waited = (now - since) / 3600
    if not tries and not pictures and rows < wanted and waited < study.automation.hours:
        said = (
            f"{rows} new rows wait for {waited:.2f} h: rated from {wanted} rows or "
            f"{study.automation.hours:g} h on"
        )
        return skipped(said, {"since": since})
    cursor = {"since": since, "asked": version, "tries": tries + 1, "at": now}
    events = [observation(study, version)] if not pictures else []
    request = dg.RunRequest(tags={BY_SENSOR: "true", WHY: pictures or f"{rows} new rows"})
    return dg.SensorResult(run_requests=[request], asset_events=events, cursor=json.dumps(cursor))


def look_at_policies(
    study: Study, chain: Chain, context: dg.SensorEvaluationContext
) -> dg.SensorResult:
    """Ask for a run of every policy whose training set moved enough, or say why of none.

    The cursor holds, by policy, the training set that was asked for: one that fails is not asked
    for again before the votes change. A run whose process died Dagster starts again by itself.
    """
    state: dict[str, str] = json.loads(context.cursor or "{}")
    content = current_version(context.instance, study, chain, ("training_set", None))
    above = study.automation.retrain_above
    if content is None:
        return skipped("there is no training set yet", state)
    requests, said = [], []
    staleness = Staleness(study, context.instance, chain)
    for name, found in moved_since_training(study, Lake(study.lake)).items():
        no = staleness.forbidden(["policy"], (), name).get("policy")
        if found is None:
            said.append(f"{name}: never trained, a person starts it first")
        elif above is None:
            said.append(f"{name}: {found}; automation.retrain_above is not set")
        elif found.change <= above:
            said.append(f"{name}: {found}, not above {above:g}")
        elif no is not None:
            said.append(f"{name}: {found}, but {no}")
        elif state.get(name) == content:
            said.append(f"{name}: was asked for already with this training set")
        elif run := at_work(study, context.instance, TRAIN, of_job(chain, TRAIN), name):
            said.append(f"{name}: run {run.run_id[:8]} is at work")
        else:
            state[name] = content
            tags = {WHY: f"{found}, above {above:g}", MAX_RETRIES: str(study.jobs.retries)}
            requests.append(dg.RunRequest(partition_key=name, tags=tags))
    if not requests:
        return skipped("; ".join(said), state)
    return dg.SensorResult(run_requests=requests, cursor=json.dumps(state))


def look_at_evidence(
    study: Study, chain: Chain, context: dg.SensorEvaluationContext
) -> dg.SensorResult:
    """Ask for what follows a policy that exists: its images, its scores, champion and report.

    The cursor holds, by policy, the reasons that were asked for: a run that failed for these is not
    asked for again before one of them changes.
    """
    state: dict[str, Any] = json.loads(context.cursor or "{}")
    said: list[str] = []
    requests: list[dg.RunRequest] = []
    seen: dict[Place, str] = {(name, None): SOURCES[name](study) for name in EVIDENCE}
    staleness = Staleness(study, context.instance, chain, seen)
    for job, policy, stages in evidence_stages(study, chain):
        label, first = policy or job, stages[0]
        before = upstream_of_all(study, first, policy)
        if latest(context.instance, study.key(before[0]), before[1]) is None:
            said.append(f"{label}: {named(*before)} was never made")
            continue
        behind = staleness.reasons(stages, policy)
        no = staleness.forbidden(stages, behind, policy)
        wanted = [name for name in behind if name not in no]
        reasons = "; ".join(f"{name}: {behind[name]}" for name in wanted)
        versions = _versions(staleness, chain, study, wanted, policy)
        if not wanted:
            said += [f"{label}: {found}" for found in dict.fromkeys(map(str, no.values()))]
        elif run := at_work(study, context.instance, policy=policy):
            said.append(f"{label}: run {run.run_id[:8]} is at work")
        elif requests and not (policy and requests[-1].partition_key):
            said.append(f"{label}: follows what is asked for now")
        elif state.get(label) == versions:
            said.append(f"{label}: was asked for already ({reasons})")
        else:
            state[label] = versions
            requests.append(
                dg.RunRequest(
                    job_name=study.called(job),
                    partition_key=policy,
                    asset_selection=[study.key(name) for name in wanted],
                    tags={WHY: reasons[:500]},
                )
            )
    if not requests:
        return skipped("; ".join(said) or "everything is up to date", state)
    events = [
        dg.AssetObservation(study.key(name), tags={DATA_VERSION: version})
        for (name, _), version in seen.items()
        if version != current_version(context.instance, study, chain, (name, None))
    ]
    return dg.SensorResult(run_requests=requests, asset_events=events, cursor=json.dumps(state))


def evidence_stages(study: Study, chain: Chain) -> list[tuple[str, str | None, list[str]]]:
    """Return (job, policy, stages) of all that may start by itself, in order."""
    train = [name for name in of_job(chain, TRAIN) if name != "policy"]
    return [
        (RATE, None, ["evaluation_prompts"]),
        *((TRAIN, policy, train) for policy in in_order(study)),
        (REPORT, None, of_job(chain, REPORT)),
    ]


def upstream_of_all(study: Study, first: str, policy: str | None) -> Place:
    """Return what a person starts first, before anything of it follows by itself."""
    if policy:
        return "policy", policy
    started = {
        "evaluation_prompts": ("training_set", None),
        "champion": ("scorecard", study.baseline),
    }
    return started[first]


# The sources that scores are made from; votes and recipes are looked at by the other sensors.
EVIDENCE = ("yardsticks", "prompt_files")


def _versions(
    staleness: Staleness, chain: Chain, study: Study, stages: list[str], policy: str | None
) -> str:
    """Return what a look would ask for, by the versions of all that goes into it."""
    places = {place for name in stages for place in chain[name].places(study, policy)}
    versions = sorted(f"{place} {staleness.version(place)}" for place in places)
    return json.dumps([stages, versions, [chain[name].code_version(study) for name in stages]])


def skipped(said: str, state: dict[str, Any]) -> dg.SensorResult:
    """Return a look that asks for nothing, with its reason for the page."""
    return dg.SensorResult(skip_reason=dg.SkipReason(said), cursor=json.dumps(state))


def taken(instance: dg.DagsterInstance, study: Study) -> str | None:
    """Return the version of the vote files that the newest votes were made from."""
    made = latest(instance, study.key("votes"), None)
    return made_from(made)[0].get("vote_files") if made else None
