"""What is behind, and why: the one answer that `run` acts on and `plan` prints.

Stale means what Dagster's page means by it: an input's content, a setting or the code moved since
the last materialisation. An output that is no longer in the lake counts too: Dagster remembers that
it was made, not that it still exists. Nothing here writes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
from dagster._core.asset_graph_view.asset_graph_view import AssetGraphView, TemporalContext
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.definitions.data_version import (
    CachingStaleStatusResolver,
    DataProvenance,
    StaleCause,
    StaleCauseCategory,
    StaleStatus,
    extract_data_version_from_entry,
)
from dagster._core.definitions.events import AssetKeyPartitionKey
from dagster._time import get_current_datetime

from assets.lake import Lake
from assets.study import Study

# What each asset leaves in the lake.
TABLES = {
    "votes": ("votes", "rankings", "rejected", "intake"),
    "ratings": ("ratings", "pairs"),
    "gaps": ("gaps",),
    "training_set": ("training_set",),
    "champion": (),
    "report": ("report", "lineage"),
}

# The sections of the TOML that stand in an asset's code version.
SECTIONS = {
    "votes": ("votes",),
    "ratings": ("arena",),
    "gaps": ("gap",),
    "training_set": ("training_set",),
    "generations": ("generation",),
    "scorecard": ("scorecard", "study"),
    "ksort_rating": ("ksort", "study"),
    "champion": ("study", "scorecard"),
    "report": ("study", "scorecard"),
}

Source = tuple[str, str | None]


@dataclass
class Staleness:
    """One look at a study over a Dagster instance; what it read once it does not read again.

    observed: (source, partition) -> version as it is now, for a look that may not record what it
    sees; sources that are not in it count as they were last recorded. details: (source, partition)
    -> what to say of a source that changed.
    """

    study: Study
    instance: dg.DagsterInstance
    graph: AssetGraph
    observed: Mapping[Source, str] = field(default_factory=dict)
    details: Mapping[Source, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        now = TemporalContext(effective_dt=get_current_datetime(), last_event_id=None)
        view = AssetGraphView(temporal_context=now, instance=self.instance, asset_graph=self.graph)
        self._resolver = _Resolver(self.instance, self.graph, view)
        self._resolver.observed = self.observed
        self._lake = Lake(self.study.lake)

    def reasons(self, assets: Sequence[str], partition: str | None) -> dict[str, str]:
        """Return asset -> why it is behind, for those of `assets` that are, in their order.

        An asset downstream of another one of `assets` that is behind is behind with it.
        """
        behind: dict[str, str] = {}
        for name in assets:
            why = self._own_reason(name, partition)
            before = [each for each in behind if dg.AssetKey(each) in self._parents(name)]
            if why or before:
                behind[name] = why or f"follows {', '.join(before)}"
        return behind

    def _parents(self, name: str) -> set[dg.AssetKey]:
        return set(self.graph.get(dg.AssetKey(name)).parent_keys)

    def _own_reason(self, name: str, partition: str | None) -> str | None:
        status = self._resolver.get_status(dg.AssetKey(name), partition)
        if status == StaleStatus.MISSING:
            return "was never made"
        if status == StaleStatus.STALE:
            causes = self._resolver.get_stale_causes(dg.AssetKey(name), partition)
            return "; ".join(dict.fromkeys(self._in_words(cause) for cause in causes))
        return "its output is gone from the lake" if self._gone(name, partition) else None

    def _in_words(self, cause: StaleCause) -> str:
        if cause.category == StaleCauseCategory.CODE:
            name = cause.asset_key.to_user_string()
            made_by = self._resolver.code_version_of(cause.key) or ""
            number = str(self.graph.get(cause.asset_key).code_version).partition("-")[0]
            if made_by.partition("-")[0] != number:
                return "the stage's code changed"
            return f"{' or '.join(f'[{each}]' for each in SECTIONS[name])} of the TOML changed"
        upstream = cause.dependency_asset_key
        if cause.category == StaleCauseCategory.DATA and upstream is not None:
            name, part = upstream.to_user_string(), cause.dependency_partition_key
            own = part is None or part == cause.partition_key
            said = self.details.get((name, part))
            return f"{name}{'' if own else f'[{part}]'} changed{f' ({said})' if said else ''}"
        return cause.reason

    def _gone(self, name: str, partition: str | None) -> bool:
        lake = self._lake
        if partition is None:
            paths = [lake.table(table) for table in TABLES[name]]
            paths += [lake.warehouse] if name == "gaps" else []
            return not all(path.exists() for path in paths)
        if name == "policy" and self.study.policies[partition] is None:
            return False
        judgments = lake.root / "judgments" / partition
        left: dict[str, Path] = {
            "policy": lake.current("policies", partition) / "policy",
            "generations": lake.current("generations", partition) / "images.parquet",
            "scorecard": judgments / "scores.parquet",
            "ksort_rating": judgments / "ksort.json",
        }
        return not left[name].exists()


class _Resolver(CachingStaleStatusResolver):
    """Dagster's own answer, with sources as they are now where they were looked at."""

    observed: Mapping[Source, str]

    def code_version_of(self, key: AssetKeyPartitionKey) -> str | None:
        """Return the code version that an asset was last made by."""
        provenance = self._get_current_data_provenance(key=key)
        return provenance.code_version if provenance else None

    def _is_dep_updated(self, provenance: DataProvenance, dep_key: AssetKeyPartitionKey) -> bool:
        source = dep_key.asset_key.to_user_string(), dep_key.partition_key
        if source not in self.observed:
            return super()._is_dep_updated(provenance, dep_key)
        if dep_key.partition_key is None:
            used = provenance.input_data_versions[dep_key.asset_key].value
            return used != self.observed[source]
        # Of a partition the provenance keeps not the version but the place in the event log.
        place = provenance.input_storage_ids[dep_key.asset_key]
        record = self._instance.get_latest_data_version_record(
            dep_key.asset_key,
            True,
            dep_key.partition_key,
            before_cursor=place + 1 if place else None,
        )
        version = extract_data_version_from_entry(record.event_log_entry) if record else None
        return version is None or version.value != self.observed[source]
