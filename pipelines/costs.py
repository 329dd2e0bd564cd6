"""What a stage costs: time, disk and memory, from its last run where there was one.

Without one, from the same stage of the study's other policies; without those, a policy from the
training job's own estimate. Nothing here writes.
"""

import dataclasses
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg

from assets.lake import Lake
from assets.lineage import latest_record, plain
from assets.stage import Chain
from assets.study import Study
from training import TrainingError
from training.config import PolicyConfig
from training.study_file import data_config, read_study

if TYPE_CHECKING:
    from training.plan import Estimate

GIB = 2**30


@dataclass(frozen=True)
class Cost:
    """Seconds, bytes of the lake, bytes of memory; None where nothing tells.

    memory: of the GPU, of the process where there is none. said: where the figures come from.
    hours: by card, where no run here took a time yet.
    """

    seconds: float | None = None
    disk: int | None = None
    memory: int | None = None
    said: str = "no earlier run"
    hours: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclass
class Costs:
    """What the stages of one study cost, as one Dagster instance and the lake tell it."""

    study: Study
    chain: Chain
    instance: dg.DagsterInstance | None
    estimates: dict[PolicyConfig, "Estimate | Exception"] = dataclasses.field(default_factory=dict)

    def of(self, name: str, policy: str | None) -> Cost:
        """Return what materialising one asset, or one policy's part of it, costs."""
        own = self._last(name, policy)
        if own.seconds is not None or policy is None:
            return own
        if name == "policy" and self.study.policies[policy] is None:
            return Cost(0.0, 0, said="nothing is trained")
        trained = self.study.policies[policy] is not None
        alike = [
            self._last(name, other)
            for other, config in self.study.policies.items()
            if other != policy and (config is not None) == trained
        ]
        known = [cost for cost in alike if cost.seconds is not None]
        if known:
            return Cost(
                statistics.median(cost.seconds or 0.0 for cost in known),
                max((cost.disk or 0 for cost in known), default=None),
                max((cost.memory or 0 for cost in known), default=0) or None,
                "other policies",
            )
        return self._estimated(policy) if name == "policy" else own

    def _last(self, name: str, policy: str | None) -> Cost:
        assert self.instance is not None
        record = latest_record(self.instance, self.study.key(name), policy)
        disk = self._written(name, policy)
        if record is None or record.asset_materialization is None:
            return Cost(disk=disk)
        told = plain(record.asset_materialization.metadata)
        step = self.study.key(name).to_python_identifier()
        steps = [
            each
            for each in self.instance.get_run_step_stats(record.run_id, [step])
            if each.start_time and each.end_time
        ]
        seconds = steps[0].end_time - steps[0].start_time if steps else None  # type: ignore[operator]
        said = "its last run"
        config = self.study.policies.get(policy) if policy else None
        if name == "policy" and config is not None and told.get("steps") and told.get("seconds"):
            # Its parts before a stop count too, and more steps take longer in proportion.
            trained = float(told["seconds"])
            seconds = max((seconds or 0.0) - trained, 0.0) + trained * config.steps / told["steps"]
            if config.steps != told["steps"]:
                said = f"its last run of {told['steps']} steps"
        peak = told.get("peak_memory_gib") if name == "policy" else None
        return Cost(seconds, disk, int(float(peak) * GIB) if peak else None, said)

    def _written(self, name: str, policy: str | None) -> int | None:
        """Return the bytes of what the stage's last run left in the lake."""
        lake, left = Lake(self.study.lake), self.chain[name].left(policy)
        # A policy's images are counted with their table.
        names = [path.removesuffix("/images.parquet") for path in left]
        infos = [info for path in names for info in lake.infos(path)]
        return sum(info.size for info in infos) if infos else None

    def _estimated(self, policy: str) -> Cost:
        config = self.study.policies[policy]
        assert config is not None
        found = self.estimate(config)
        if isinstance(found, Exception):
            return Cost(said=f"no estimate: {str(found).splitlines()[0]}")
        return Cost(
            disk=sum(found.disk.values()),
            memory=sum(found.memory.values()),
            said="counted",
            hours=found.hours,
        )

    def estimate(self, config: PolicyConfig) -> "Estimate | Exception":
        """Return the training job's own estimate, or why there is none."""
        # What changes no shape: policies that differ in these alone take the same.
        alike = dataclasses.replace(
            config,
            name="",
            objective="sft" if config.objective == "sft" else "dpo",
            learning_rate=1.0,
            beta_dpo=1.0,
            gamma=1.0,
            gap_estimator="pairwise",
            margin_spread=0.0,
            shuffle_gaps=False,
            seed=0,
        )
        if alike not in self.estimates:
            sections = read_study(self.study.path)
            lake = Lake(self.study.lake)
            pairs = str(lake.table("training_set"))
            sections["training_set"] = {**sections.get("training_set", {}), "pairs": pairs}
            sections["cache"] = {"root": str(lake.cache)}
            try:
                from training.plan import estimate  # loads torch, which a job's image has

                self.estimates[alike] = estimate(alike, data_config(sections))
            except (TrainingError, OSError, ImportError) as error:
                self.estimates[alike] = error
        return self.estimates[alike]
