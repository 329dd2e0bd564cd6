"""What a stage costs: time, disk and memory, from its last run where there was one.

Without one, from the same stage of the study's other policies; without those, the training job's
own estimate of a policy, and of images the most that their pixels can take. Nothing here writes.
"""

import dataclasses
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from assets.jobs import plain
from assets.lake import Lake
from assets.lineage import latest_record
from assets.study import Study
from assets.yardsticks import prompts_of
from evaluation.prompts import read_prompts
from pipelines.staleness import TABLES
from training import TrainingError
from training.config import PolicyConfig
from training.study_file import data_config, read_study

if TYPE_CHECKING:
    from training.plan import Estimate

GIB = 2**30
BYTES_A_PIXEL = 3


@dataclass(frozen=True)
class Cost:
    """Seconds, bytes of the lake and MLflow, bytes of memory; None where nothing tells.

    memory: of the GPU, of the process where there is none.

    said: where the figures come from. hours: by card, where no run here took a time yet.
    """

    seconds: float | None = None
    disk: int | None = None
    memory: int | None = None
    said: str = "no earlier run"
    hours: dict[str, float] = dataclasses.field(default_factory=dict)


class Costs:
    """What the stages of one study cost, as one Dagster instance and the lake tell it."""

    def __init__(self, study: Study, instance: dg.DagsterInstance) -> None:
        self.study = study
        self.instance = instance
        self.lake = Lake(study.lake)
        self._estimates: dict[PolicyConfig, Estimate | TrainingError | OSError] = {}

    def of(self, name: str, partition: str | None) -> Cost:
        """Return what materialising one asset, or one partition of it, costs."""
        own = self._last(name, partition)
        if own.seconds is not None:
            return own
        if partition is None:
            return own
        if name == "policy" and self.study.policies[partition] is None:
            return Cost(0.0, 0, said="nothing is trained")
        alike = [self._last(name, other) for other in self._trained_as(partition)]
        known = [cost for cost in alike if cost.seconds is not None]
        if known:
            return Cost(
                statistics.median(cost.seconds or 0.0 for cost in known),
                max((cost.disk or 0 for cost in known), default=None),
                max((cost.memory or 0 for cost in known), default=0) or None,
                "other policies",
            )
        if name == "policy":
            return self._estimated(partition)
        return Cost(disk=self._pixels() if name == "generations" else None)

    def _trained_as(self, partition: str) -> list[str]:
        trained = self.study.policies[partition] is not None
        return [
            name
            for name, config in self.study.policies.items()
            if name != partition and (config is not None) == trained
        ]

    def _last(self, name: str, partition: str | None) -> Cost:
        record = latest_record(self.instance, dg.AssetKey(name), partition)
        if record is None or record.asset_materialization is None:
            return Cost(disk=self._written(name, partition))
        told = plain(record.asset_materialization.metadata)
        steps = [
            step
            for step in self.instance.get_run_step_stats(record.run_id, [name])
            if step.start_time and step.end_time
        ]
        seconds = steps[0].end_time - steps[0].start_time if steps else None  # type: ignore[operator]
        said = "its last run"
        config = self.study.policies.get(partition) if partition else None
        if name == "policy" and config is not None and told.get("steps") and told.get("seconds"):
            # Its parts before a stop count too, and more steps take longer in proportion.
            trained = float(told["seconds"])
            seconds = max((seconds or 0.0) - trained, 0.0) + trained * config.steps / told["steps"]
            if config.steps != told["steps"]:
                said = f"its last run of {told['steps']} steps"
        peak = told.get("peak_memory_gib") if name == "policy" else None
        disk = self._written(name, partition)
        return Cost(seconds, disk, int(float(peak) * GIB) if peak else None, said)

    def _written(self, name: str, partition: str | None) -> int | None:
        """Bytes of what the stage's last run left, in the lake and of a policy in MLflow too."""
        if partition is None:
            paths = [self.lake.table(table) for table in TABLES[name]]
            paths += [self.lake.warehouse] if name == "gaps" else []
            paths += [self.lake.root / "reports"] if name == "report" else []
        elif name in ("policy", "generations"):
            folder = self.lake.current("policies" if name == "policy" else name, partition)
            paths = [folder, folder / "policy"] if name == "policy" else [folder]
        else:
            file = {"scorecard": "scores.parquet", "ksort_rating": "ksort.json"}[name]
            paths = [self.lake.root / "judgments" / partition / file]
        found = [path for path in paths if path.exists()]
        return sum(size(path) for path in found) if found else None

    def _estimated(self, partition: str) -> Cost:
        config = self.study.policies[partition]
        assert config is not None
        found = self._estimate(config)
        if isinstance(found, Exception):
            return Cost(said=f"no estimate: {str(found).splitlines()[0]}")
        return Cost(
            disk=sum(found.disk.values()),
            memory=sum(found.memory.values()),
            said="counted",
            hours=found.hours,
        )

    def _estimate(self, config: PolicyConfig) -> "Estimate | TrainingError | OSError":
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
        if alike not in self._estimates:
            from training.plan import estimate  # loads torch

            sections = read_study(self.study.path)
            pairs = str(self.lake.table("training_set"))
            sections["training_set"] = {**sections.get("training_set", {}), "pairs": pairs}
            try:
                self._estimates[alike] = estimate(alike, data_config(sections))
            except (TrainingError, OSError) as error:
                self._estimates[alike] = error
        return self._estimates[alike]

    def _pixels(self) -> int | None:
        """The most that a policy's images take: their pixels, packed not at all."""
        side = self.study.raw.get("model", {}).get("resolution")
        if side is None:
            return None
        prompts = prompts_of(self.study)
        if not prompts.exists():  # held-out prompts of a training set that is not made yet
            return None
        drawn = len(read_prompts(prompts)) * self.study.generation.images_per_prompt
        drawn += len(list(self.study.ksort.dataset.rglob("result.json")))
        return int(drawn * side * side * BYTES_A_PIXEL)


def size(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(each.stat().st_size for each in path.resolve().rglob("*") if each.is_file())


def in_words(seconds: float) -> str:
    """Return a duration for a table: 4 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def as_bytes(count: int) -> str:
    """Return a size for a table: 12 kB, 3.4 MB, 56 GB."""
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if count >= 10**power:
            return f"{count / 10**power:.{1 if count < 10 ** (power + 1) else 0}f} {unit}"
    return f"{count} B"
