"""Run what is stale, and only that: the chain from a terminal, in this process.

What a run did is recorded as for any other run, so the pages show it; the jobs of the pool `gpu`
are child processes here too.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import dagster as dg

from assets.content import known
from assets.dagster_internals import free_pool_slots
from assets.evaluation_prompts import RENEW
from assets.lake import Lake
from assets.lineage import DATA_VERSION, current_version, named, why
from assets.stage import Place
from assets.study import Study
from assets.tracking import Tracking, close_abandoned
from assets.turns import turn
from pipelines.alerts import tell
from pipelines.chain import RATE, REPORT, TRAIN, chain_of, in_order, of_job
from pipelines.definitions import build_definitions
from pipelines.failures import interrupted, reason
from pipelines.runs import UNFINISHED
from pipelines.staleness import Staleness, look_at_recipes, look_at_sources

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class StageFailed(RuntimeError):
    """A stage raised, a blocking check of it failed, or one upstream forbids it to run."""


@dataclass
class Launcher:
    """The study's chain over one Dagster instance.

    say: called with one line whenever a stage starts, ends or is up to date. asked: stage -> why a
    person wants it made again, and the run's tag that says so to the stage. done: called with how
    many stages are up to date now that were not before, or not known to be.
    """

    study: Study
    instance: dg.DagsterInstance
    say: Callable[[str], object]
    asked: Mapping[str, str] = field(default_factory=dict)
    done: Callable[[int], object] = lambda count: None
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.definitions = build_definitions(self.study)
        self.chain_of_stages = chain_of(self.study)
        self.lake = Lake(self.study.lake)

    def chain(self) -> list[str]:
        """Bring every stage up to date, in order; return the stages that ran.

        A second chain on the same lake waits here, and then finds everything done. Where a policy
        fails, the others go on, and what failed is raised at the end. Raises StageFailed.
        """
        with turn(self.lake, self.instance, "chain", self.say), known(self.lake.hashes):
            tell(self.study, self.chain_of_stages, self.instance, self.say)
            self.bury()
            return self._chain()

    def bury(self) -> None:
        """End what an earlier chain left open when it was killed: its runs, here and in MLflow.

        And files that it had not finished go; those of a process that lives stay.
        Whoever holds the chain knows that no other one lives.
        """
        dead = self.instance.get_runs(dg.RunsFilter(tags=self._tags, statuses=UNFINISHED))
        for run in dead:
            self.say(f"run {run.run_id[:8]} of {run.job_name} was killed; it is closed")
            self.instance.report_run_failed(run, "its process ended without a word")
            free_pool_slots(self.instance, run.run_id)
        if swept := self.lake.sweep():
            self.say(f"{len(swept)} half-written files of a killed process are deleted")
        if dead:
            tracking = Tracking.of(self.study)
            client = tracking.client()
            experiment = tracking.experiment(client, self.study.name)
            close_abandoned(client, experiment, self.instance)

    @property
    def _tags(self) -> dict[str, str]:
        return {"arenapo/chain": self.lake.name}

    def _chain(self) -> list[str]:
        ran, failed = self.rate(), []
        for name in in_order(self.study):
            try:
                ran += self.train(name)
            except StageFailed as error:
                self.say(f"{name}: {error}")
                failed.append(str(error))
        try:
            ran += self.update(REPORT)
        except StageFailed as error:
            failed.append(str(error))
        if failed:
            raise StageFailed("; ".join(dict.fromkeys(failed)))
        return ran

    def rate(self) -> list[str]:
        """Look at the sources and bring the arena up to date; return the stages that ran."""
        self.observe(look_at_sources(self.study))
        return self.update(RATE)

    def train(self, policy: str) -> list[str]:
        """Bring one policy, its images and its scores up to date; return the stages that ran."""
        self.observe(look_at_recipes(self.study))
        return self.update(TRAIN, policy)

    def observe(self, seen: Mapping[Place, str]) -> None:
        """Record the versions of sources that moved."""
        for (name, policy), version in seen.items():
            place = (name, policy)
            if version != current_version(self.instance, self.study, self.chain_of_stages, place):
                self.instance.report_runless_asset_event(
                    dg.AssetObservation(
                        self.study.key(name), partition=policy, tags={DATA_VERSION: version}
                    )
                )

    def update(self, job: str, policy: str | None = None) -> list[str]:
        """Materialise a job's stale stages and what follows them; return their names.

        Raises StageFailed where one fails, or where a failed check forbids one to run.
        """
        staleness = Staleness(self.study, self.instance, self.chain_of_stages, asked=self.asked)
        stages = of_job(self.chain_of_stages, job)
        behind = list(staleness.reasons(stages, policy))
        forbidden = staleness.forbidden(stages, behind, policy)
        allowed = [name for name in behind if name not in forbidden]
        label = named(job, policy)
        if allowed:
            self.say(f"{label}: {', '.join(allowed)}")
            begun = time.monotonic()
            self.run(job, allowed, policy)
            self.seconds[label] = time.monotonic() - begun
            self.say(f"{label}: done in {self.seconds[label]:.0f} s")
        elif not forbidden:
            self.say(f"{label}: up to date")
        self.done(len(stages) - len(forbidden))
        for name, why_not in forbidden.items():
            raise StageFailed(f"{named(name, policy)} does not run: {why_not}")
        return [named(name, policy) for name in allowed]

    def run(self, job: str, stages: Sequence[str], policy: str | None = None) -> None:
        """Materialise these stages of a job, whatever they are; raise StageFailed."""
        result = self.definitions.resolve_job_def(self.study.called(job)).execute_in_process(
            run_config=QUIET,
            instance=self.instance,
            partition_key=policy,
            tags=self._tags | ({RENEW: "true"} if self.asked else {}),
            asset_selection=[self.study.key(name) for name in stages],
            raise_on_error=False,
        )
        forbidding = []
        for check in result.get_asset_check_evaluations():
            if not check.passed:
                verdict = "failed" if check.blocking else "says no"
                where = named(check.asset_key.path[-1], check.partition)
                said = f"check {check.check_name} of {where} {verdict}: {why(check)}"
                self.say(f"  {said}")
                forbidding += [said] if check.blocking else []
        tell(self.study, self.chain_of_stages, self.instance, self.say)
        if interrupted(result.all_events):
            raise KeyboardInterrupt
        if not result.success or forbidding:
            why_not = "; ".join(forbidding) or reason(result.all_events)
            raise StageFailed(why_not or f"run {result.run_id} did not succeed")
