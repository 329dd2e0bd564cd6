"""One stage of the chain, as a row of the table in `pipelines.chain` describes it.

A stage is told its row and takes from it what Dagster has to know: its key, what is upstream, and
its code version. Which stages there are, and in which order, is not known here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from assets.study import Study

Place = tuple[str, str | None]  # an asset or a source, and a policy where it has one for each


@dataclass(frozen=True)
class Stage:
    """A row of the table.

    inputs: names of assets and sources; `[policy]` behind a name is the same policy's, `[baseline]`
    the baseline's, `[each]` every policy's. reads: keys of the TOML that change what is computed, a
    section standing for all of its keys. leaves: what is in the lake afterwards, below its root.
    blocking: the checks that must pass before anything downstream runs; checks: those that warn.
    version: counts up when the stage's code computes something else than before. after: the stages
    that one of its sources is made from.
    """

    name: str
    job: str
    version: int
    inputs: tuple[str, ...]
    reads: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()
    blocking: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    @property
    def by_policy(self) -> bool:
        """Whether every policy has its own."""
        return any(each.endswith("[policy]") for each in self.inputs)

    def partitions(self, study: Study) -> list[str | None]:
        """Return the policies of a stage that has one for each, else the one None."""
        return list(study.policies) if self.by_policy else [None]

    def places(self, study: Study, policy: str | None) -> list[Place]:
        """Return what is directly upstream of this stage, or of one policy's part of it."""
        found: list[Place] = []
        for each in self.inputs:
            name, _, which = each.removesuffix("]").partition("[")
            parts: dict[str, list[str | None]] = {
                "": [None],
                "policy": [policy],
                "baseline": [study.baseline],
                "each": [*study.policies],
            }
            found += [(name, part) for part in parts[which]]
        return list(dict.fromkeys(found))

    def settings(self, study: Study) -> dict[str, Any]:
        """Return the values of the TOML that this stage reads, by their keys."""
        return study.values(*self.reads)

    def code_version(self, study: Study) -> str:
        """Return the version of the code together with that of the settings that it reads."""
        return f"{self.version}-{study.version(*self.reads)}" if self.reads else str(self.version)

    def left(self, policy: str | None) -> list[str]:
        """Return the paths below the lake's root that this stage leaves."""
        return [path.format(policy=policy) for path in self.leaves]

    def asset(self, study: Study, **more: Any) -> Any:
        """Return the decorator of this stage's asset; more: what `dg.asset` takes besides."""
        names = dict.fromkeys(each.partition("[")[0] for each in self.inputs)
        return dg.asset(
            key=study.key(self.name),
            deps=[self._dep(study, name) for name in names],
            partitions_def=study.partitions if self.by_policy else None,
            code_version=self.code_version(study),
            owners=study.owners or None,
            **more,
        )

    def check(self, study: Study, name: str) -> Any:
        """Return the decorator of one of this stage's checks."""
        return dg.asset_check(
            asset=study.key(self.name),
            name=name,
            blocking=name in self.blocking,
            partitions_def=study.partitions if self.by_policy else None,
        )

    def _dep(self, study: Study, name: str) -> dg.AssetDep:
        if self.by_policy and f"{name}[baseline]" in self.inputs:
            # The baseline's part of this stage needs no other policy's; Dagster asks for the whole
            # mapping upside down: from an upstream policy to those of this stage that need it.
            mapping = {
                each: list(study.policies) if each == study.baseline else [each]
                for each in study.policies
            }
            return dg.AssetDep(
                study.key(name), partition_mapping=dg.StaticPartitionMapping(mapping)
            )
        return dg.AssetDep(study.key(name))


Chain = Mapping[str, Stage]
