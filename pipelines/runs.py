"""Dagster's runs of one study: which are going on, and whose a run is."""

from collections.abc import Iterable

import dagster as dg

from assets.study import Study

STATUS = dg.DagsterRunStatus
IN_PROGRESS = [STATUS.STARTING, STATUS.STARTED, STATUS.CANCELING]
# Runs that will still do something. One that was never launched (NOT_STARTED) may have lost who
# would have done so, and would block for ever.
AT_WORK = [*IN_PROGRESS, STATUS.QUEUED]
UNFINISHED = [*AT_WORK, STATUS.NOT_STARTED]


def is_of(study: Study, run: dg.DagsterRun) -> bool:
    """Tell whether a run is this study's: of one of its jobs, or over assets of it alone."""
    if run.job_name.startswith(study.called("")):
        return True
    keys = {
        *(run.asset_selection or ()),
        *(each.asset_key for each in run.asset_check_selection or ()),
    }
    return bool(keys) and all(key.path[0] == study.name for key in keys)


def job_of(study: Study, run: dg.DagsterRun) -> str:
    """Return a job's name without the study's before it."""
    return run.job_name.removeprefix(study.called(""))


def at_work(
    study: Study,
    instance: dg.DagsterInstance,
    job: str | None = None,
    stages: Iterable[str] = (),
    policy: str | None = None,
) -> dg.DagsterRun | None:
    """Return a run of this study that is at work or queued, None where there is none.

    job, stages: only runs of this job, or over one of these stages; policy: only of this one, or
    of none.
    """
    wanted = {study.key(name) for name in stages}
    for run in instance.get_runs(dg.RunsFilter(statuses=AT_WORK)):
        part = run.tags.get("dagster/partition")
        if is_of(study, run) and (policy is None or part in (policy, None)):
            own = job is None or job_of(study, run) == job
            if own or wanted & set(run.asset_selection or ()):
                return run
    return None
