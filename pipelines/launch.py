"""Run what is stale, and only that: the chain from a terminal, in this process.

What a run did is recorded as for any other run, so the pages show it; the jobs of the pool `gpu`
are child processes here too.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import dagster as dg
from dagster import AssetKey, DagsterInstance
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from assets.lake import Lake
from assets.study import Study
from assets.tracking import Tracking, close_abandoned
from pipelines.alerts import tell
from pipelines.definitions import ARENA, OBSERVED, POLICY, REPORT, build_definitions
from pipelines.failures import reason
from pipelines.staleness import Staleness

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


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
            tell(self.study, self.instance, self.say)
            self.bury()
            return self._chain()

    def bury(self) -> None:
        """End what an earlier chain left open when it was killed: its runs, here and in MLflow.

        And files that it had not finished go; those of a process that lives stay.
        Whoever holds the chain knows that no other one lives.
        """
        unfinished = dg.RunsFilter(tags=self._tags, statuses=NOT_FINISHED_STATUSES)
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
        return list(Staleness(self.study, self.instance, graph).reasons(assets, partition))

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
        tell(self.study, self.instance, self.say)
        if not result.success:
            said = reason(result.all_events)
            raise StageFailed(said or f"run {result.run_id} did not succeed")
