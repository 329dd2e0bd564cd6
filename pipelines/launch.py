"""Run what is stale, and only that: the chain from a terminal, in this process.

Stale means what Dagster's own page means by it: an input's content, a setting or the code moved
since the last materialisation. What a run did is recorded as for any other run, so the pages show
it; the jobs of the pool `gpu` are child processes here too.
"""

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
from dagster import AssetKey, DagsterInstance
from dagster._core.asset_graph_view.asset_graph_view import AssetGraphView, TemporalContext
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES
from dagster._time import get_current_datetime

from assets.lake import Lake
from assets.study import Study
from assets.tracking import Tracking, close_abandoned
from pipelines.definitions import ARENA, OBSERVED, POLICY, REPORT, build_definitions

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}

# What each asset leaves in the lake: Dagster remembers that it was made, not that it still exists.
TABLES = {
    "votes": ("votes", "rankings", "rejected", "intake"),
    "ratings": ("ratings", "pairs"),
    "gaps": ("gaps",),
    "training_set": ("training_set",),
    "champion": (),
    "report": ("report", "lineage"),
}

WRAPPER = re.compile("Dagster|RetryRequested")


class StageFailed(RuntimeError):
    """A stage raised, or a blocking check of it failed."""


@dataclass
class Launcher:
    """The study's chain over one Dagster instance.

    say: called with one line whenever a stage starts, ends or is up to date.
    """

    study: Study
    instance: DagsterInstance
    say: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.definitions = build_definitions(self.study)
        self.lake = Lake(self.study.lake)

    def chain(self) -> list[str]:
        """Bring every stage up to date, in order; return the stages that ran.

        A second chain on the same lake waits here, and then finds everything done.
        """
        with self.lake.held("chain", self.say):
            self.bury()
            return self._chain()

    def bury(self) -> None:
        """End what an earlier chain left open when it was killed: its runs, here and in MLflow.

        And files that it had not finished go; those of a process that lives stay.
        Whoever holds the chain knows that no other one lives.
        """
        unfinished = dg.RunsFilter(tags=self._tags, statuses=IN_PROGRESS_RUN_STATUSES)
        dead = self.instance.get_runs(unfinished)
        for run in dead:
            self.say(f"run {run.run_id[:8]} of {run.job_name} was killed; it is closed")
            self.instance.report_run_failed(run, "its process ended without a word")
            self.instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        if swept := self.lake.sweep():
            self.say(f"{len(swept)} half-written files of a killed process are deleted")
        if dead:
            tracking = Tracking.of(self.study)
            client = tracking.client()
            close_abandoned(client, tracking.experiment_id(client), self.instance)

    @property
    def _tags(self) -> dict[str, str]:
        return {"arenapo/chain": str(self.lake.root)}

    def _chain(self) -> list[str]:
        self._run("observe_inputs", OBSERVED, None)
        ran = self.update("rate_votes", ARENA)
        for name in self.study.policies:
            self._run("observe_recipes", ("recipe",), name)
        # The baseline first: every other scorecard compares with its images.
        for name in sorted(self.study.policies, key=lambda name: name != self.study.baseline):
            ran += self.update("train_and_evaluate", POLICY, name)
        return ran + self.update("write_report", REPORT)

    def update(self, job: str, assets: Sequence[str], partition: str | None = None) -> list[str]:
        """Materialise the stale assets among `assets` and what follows them; return their names."""
        behind = self.behind(assets, partition)
        label = f"{job} {partition}" if partition else job
        if not behind:
            self.say(f"{label}: up to date")
            return []
        self.say(f"{label}: {', '.join(behind)}")
        begun = time.monotonic()
        self._run(job, behind, partition)
        self.seconds[label] = time.monotonic() - begun
        self.say(f"{label}: done in {self.seconds[label]:.0f} s")
        return [f"{name}[{partition}]" if partition else name for name in behind]

    def behind(self, assets: Sequence[str], partition: str | None) -> list[str]:
        """Return the assets that are missing or stale, and those of `assets` downstream of them."""
        graph = self.definitions.resolve_asset_graph()
        view = AssetGraphView(
            temporal_context=TemporalContext(
                effective_dt=get_current_datetime(), last_event_id=None
            ),
            instance=self.instance,
            asset_graph=graph,
        )
        resolver = CachingStaleStatusResolver(self.instance, graph, view)
        behind: list[str] = []
        for name in assets:
            key = AssetKey(name)
            parents = {parent.to_user_string() for parent in graph.get(key).parent_keys}
            status = resolver.get_status(key, partition)
            if status != StaleStatus.FRESH or parents & set(behind) or self._gone(name, partition):
                behind.append(name)
        return behind

    def _gone(self, name: str, partition: str | None) -> bool:
        if partition is None:
            paths = [self.lake.table(table) for table in TABLES[name]]
            paths += [self.lake.warehouse] if name == "gaps" else []
            return not all(path.exists() for path in paths)
        if name == "policy" and self.study.policies[partition] is None:
            return False
        judgments = self.lake.root / "judgments" / partition
        left: dict[str, Path] = {
            "policy": self.lake.current("policies", partition) / "policy",
            "generations": self.lake.current("generations", partition) / "images.parquet",
            "scorecard": judgments / "scores.parquet",
            "ksort_rating": judgments / "ksort.json",
        }
        return not left[name].exists()

    def _run(self, job: str, assets: Sequence[str], partition: str | None) -> None:
        result = self.definitions.resolve_job_def(job).execute_in_process(
            run_config=QUIET,
            instance=self.instance,
            partition_key=partition,
            tags=self._tags,
            asset_selection=[AssetKey(name) for name in assets],
            raise_on_error=False,
        )
        for check in result.get_asset_check_evaluations():
            if not check.passed:
                verdict = "failed" if check.blocking else "says no"
                self.say(
                    f"  check {check.check_name} of {check.asset_key.to_user_string()} {verdict}"
                )
        if not result.success:
            raise StageFailed(reason(result))


def reason(result: dg.ExecuteInProcessResult) -> str:
    """Return why a run failed: the step and what it raised."""
    for event in result.all_events:
        if event.is_step_failure and event.step_key:
            error = event.step_failure_data.error
            # What a stage raised is the reason, not what wraps it nor what that came from.
            while error and error.cause and WRAPPER.match(error.cls_name or ""):
                error = error.cause
            if error is None:
                return f"{event.step_key}: no error was recorded"
            said = re.sub(rf"^[\w.]*{error.cls_name}: ", "", error.message.strip())
            return f"{event.step_key}: {said}"
    return f"run {result.run_id} did not succeed"


def home() -> Path:
    """Return the folder of dagster.yaml, which is also DAGSTER_HOME, and make it known."""
    folder = Path(os.environ.get("DAGSTER_HOME") or Path.cwd()).resolve()
    os.environ["DAGSTER_HOME"] = str(folder)
    return folder
