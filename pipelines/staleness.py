"""What is behind, and why: the one answer that `run`, `plan`, the sensors and the page act on.

Stale means that an input's content, a setting that the stage reads, or the stage's own code moved
since the last materialisation; that its output is gone from the lake; or that a blocking check did
not come to its end. Blocked means that a blocking check upstream failed. Nothing here writes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import dagster as dg

from assets import inputs
from assets.images import changed_on_disk
from assets.lake import Lake
from assets.lineage import (
    CODE_VERSION,
    Finding,
    current_version,
    findings,
    latest,
    made_from,
    named,
    obstacles,
)
from assets.stage import Chain, Place
from assets.study import Study
from assets.votes import NothingYet
from pipelines.chain import RECIPE, SOURCES


def look_at_sources(study: Study) -> dict[Place, str]:
    """Return the version of every source and recipe as it is now.

    Vote files that have not come yet are left out. Raises ValueError or OSError naming a source
    that cannot be read.
    """
    found: dict[Place, str] = {}
    for name, version in SOURCES.items():
        try:
            found[name, None] = version(study)
        except NothingYet:
            continue
    return found | look_at_recipes(study)


def look_at_recipes(study: Study) -> dict[Place, str]:
    """Return what every policy would be made from now."""
    return {(RECIPE, name): inputs.recipe(study, name) for name in study.policies}


@dataclass
class Staleness:
    """One look at a study over a Dagster instance.

    seen: (source, policy) -> version as it is now; what is not in it counts as last recorded.
    details: (source, policy) -> what to say of a source that changed. asked: stage -> why a person
    wants it made again.
    """

    study: Study
    instance: dg.DagsterInstance
    chain: Chain
    seen: Mapping[Place, str] = field(default_factory=dict)
    details: Mapping[Place, str] = field(default_factory=dict)
    asked: Mapping[str, str] = field(default_factory=dict)

    def reasons(self, stages: Iterable[str], policy: str | None) -> dict[str, str]:
        """Return stage -> why it is behind, for those of `stages` that are, in their order.

        A stage downstream of another one of `stages` that is behind is behind with it.
        """
        behind: dict[str, str] = {}
        for name in stages:
            why = self.asked.get(name) or self._own_reason(name, policy)
            above = {place[0] for place in self.chain[name].places(self.study, policy)}
            before = [each for each in behind if each in above]
            if why or before:
                behind[name] = why or f"follows {', '.join(before)}"
        return behind

    def forbidden(
        self, stages: Iterable[str], behind: Iterable[str], policy: str | None
    ) -> dict[str, Finding]:
        """Return stage -> the failed blocking check upstream for which it may not run.

        A check of a stage that is `behind` itself does not count: it will be evaluated anew.
        """
        anew = {(name, policy) for name in behind}
        found: dict[str, Finding] = {}
        for name in stages:
            for finding in obstacles(self.instance, self.study, self.chain, name, policy):
                if (finding.asset, finding.policy) not in anew:
                    found.setdefault(name, finding)
        return found

    def version(self, place: Place) -> str | None:
        """Return the version of an asset or a source as it is now."""
        if place in self.seen:
            return self.seen[place]
        return current_version(self.instance, self.study, self.chain, place)

    def _own_reason(self, name: str, policy: str | None) -> str | None:
        stage = self.chain[name]
        made = latest(self.instance, self.study.key(name), policy)
        if made is None:
            return "was never made"
        used, read = made_from(made)
        why = []
        if (made.tags or {}).get(CODE_VERSION) != stage.code_version(self.study):
            why.append(self._code_reason(name, read, (made.tags or {}).get(CODE_VERSION)))
        places = stage.places(self.study, policy)
        gone = [place for place in used if place not in {named(*each) for each in places}]
        why += [f"{place} is no input any more" for place in gone]
        for place in places:
            # A policy that has no such thing yet is none of this stage's inputs so far.
            if self.version(place) not in (used.get(named(*place)), None):
                said = self.details.get(place)
                label = place[0] if place[1] in (None, policy) else named(*place)
                why.append(f"{label} changed{f' ({said})' if said else ''}")
        if why:
            return "; ".join(why)
        for finding in findings(self.instance, self.study, stage, policy):
            if not finding.current:
                return f"its check {finding.check} did not come to its end"
        return self._gone(name, policy)

    def _code_reason(self, name: str, read: Mapping[str, object], before: str | None) -> str:
        now = self.chain[name].settings(self.study)
        moved = [
            f"{key} {read.get(key)} -> {value}"
            for key, value in now.items()
            if read.get(key) != value
        ]
        if str(self.chain[name].version) != (before or "").partition("-")[0] or not moved:
            return "the stage's code changed"
        return f"the TOML changed: {', '.join(moved)}"

    def _gone(self, name: str, policy: str | None) -> str | None:
        lake = Lake(self.study.lake)
        if name == "policy" and policy and self.study.policies[policy] is None:
            return None
        if not all(lake.exists(path) for path in self.chain[name].left(policy)):
            return "its output is gone from the lake"
        return changed_on_disk(self.study, lake) if name == "images" else None
