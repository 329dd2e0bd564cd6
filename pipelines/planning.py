"""`python -m pipelines plan`: what `run` would do now, why, and what it costs. It only reads.

Sources are looked at as they are, and what is seen is not recorded. What follows from a stage that
runs is certain within its job; the next job starts only if the content changed, which nobody knows
before, so its stages are told as those that may run.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES

from assets.lake import Lake
from assets.policy import UNRELATED, recipes
from assets.study import Study
from assets.votes import observed
from assets.yardsticks import prompts_version, yardsticks_version
from pipelines.automation import waiting
from pipelines.costs import Cost, Costs, as_bytes, in_words
from pipelines.definitions import ARENA, POLICY, REPORT, build_definitions
from pipelines.staleness import Source, Staleness

# The card by whose speed a training that never ran is told in the table; the sum tells all.
CARD = "A100"
RUNS, MAY_RUN, UP_TO_DATE = "runs", "may run", "up to date"


@dataclass(frozen=True)
class Step:
    """One stage of the plan; policy: its partition; why: the reason, empty where it is fresh."""

    stage: str
    policy: str | None
    verdict: str
    why: str
    cost: Cost


def plan(study: Study, instance: dg.DagsterInstance) -> str:
    """Return the plan as a page of text."""
    steps = list(steps_of(study, instance))
    return "\n".join(
        [*headline(study, instance, steps), "", *table(steps), "", *sums(study, steps)]
    )


def steps_of(study: Study, instance: dg.DagsterInstance) -> Iterator[Step]:
    """Look at every stage in the order in which `run` would come to it."""
    graph = build_definitions(study).resolve_asset_graph()
    seen = sources(study)
    details: dict[Source, str] = {
        ("vote_files", None): f"{waiting(study, Lake(study.lake))} new rows"
    }
    details |= {("recipe", name): recipe_change(study, name) for name in study.policies}
    staleness = Staleness(study, instance, graph, seen, details)
    costs = Costs(study, instance)
    moving: dict[Source, str] = {}

    def look(assets: tuple[str, ...], partition: str | None) -> Iterator[Step]:
        certain = staleness.reasons(assets, partition)
        for name in assets:
            why = certain.get(name, "")
            if why:
                verdict = RUNS
            else:
                above = upstream(name, partition)
                why = f"if {', '.join(above)} changes" if above else ""
                verdict = MAY_RUN if above else UP_TO_DATE
            if verdict != UP_TO_DATE:
                moving[name, partition] = verdict
            cost = costs.of(name, partition) if verdict != UP_TO_DATE else Cost()
            yield Step(name, partition, verdict, why, cost)

    def upstream(name: str, partition: str | None) -> list[str]:
        """Name what is directly upstream and runs or may run."""
        found = []
        for key in sorted(graph.get(dg.AssetKey(name)).parent_keys):
            parent = key.to_user_string()
            if (parent, None) in moving or (parent, partition) in moving:
                found.append(parent)
            elif name == "scorecard" and (parent, study.baseline) in moving:
                found.append(f"{parent}[{study.baseline}]")
            elif partition is None and any(stage == parent for stage, _ in moving):
                found.append(parent)
        return found

    yield from look(ARENA, None)
    for name in sorted(study.policies, key=lambda name: name != study.baseline):
        yield from look(POLICY, name)
    yield from look(REPORT, None)


def sources(study: Study) -> dict[Source, str]:
    """Return the version of every source as it is now.

    Raises ValueError or OSError naming a source that cannot be read.
    """
    return {
        ("vote_files", None): observed(study),
        ("evaluation_prompts", None): prompts_version(study),
        ("yardsticks", None): yardsticks_version(study),
        **{("recipe", name): version for name, version in recipes(study).items()},
    }


def recipe_change(study: Study, name: str) -> str:
    """Name the settings in which a policy's newest training differs from what the study says."""
    config = study.policies[name]
    if config is None:
        return "the base model"
    told = Lake(study.lake).current("policies", name) / "run.json"
    if not told.exists():
        return "its settings or the base model"
    old = json.loads(told.read_text())["policy"]
    new = json.loads(json.dumps(dataclasses.asdict(config)))
    changed = [
        f"{key} {old.get(key)} -> {value}"
        for key, value in new.items()
        if key not in UNRELATED and old.get(key) != value
    ]
    return ", ".join(changed) or "the base model"


def headline(study: Study, instance: dg.DagsterInstance, steps: list[Step]) -> list[str]:
    """Return what the plan comes to, and which runs are going on while it is made."""
    counts = [sum(step.verdict == each for step in steps) for each in (RUNS, MAY_RUN, UP_TO_DATE)]
    lines = [
        f"{study.name}: {counts[0]} stages run, {counts[1]} may run, {counts[2]} are up to date"
    ]
    for run in instance.get_runs(dg.RunsFilter(statuses=IN_PROGRESS_RUN_STATUSES)):
        of = run.tags.get("dagster/partition")
        lines.append(
            f"run {run.run_id[:8]} of {run.job_name}{f' for {of}' if of else ''} is going on; "
            "what it finishes will be up to date"
        )
    return lines


def table(steps: list[Step]) -> list[str]:
    """Return one line a stage, and its cost where it runs."""
    rows = [("stage", "policy", "plan", "time", "disk", "memory", "cost from", "why")]
    for step in steps:
        cost, fresh = step.cost, step.verdict == UP_TO_DATE
        time = "" if fresh else "?"
        if cost.seconds is not None:
            time = in_words(cost.seconds)
        elif cost.hours:
            time = f"{in_words(3600 * cost.hours[CARD])} ({CARD})"
        rows.append(
            (
                step.stage,
                step.policy or "",
                step.verdict,
                time,
                as_bytes(cost.disk) if cost.disk else "",
                as_bytes(cost.memory) if cost.memory else "",
                "" if fresh else cost.said,
                step.why,
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = {3, 4, 5}
    return [
        "  ".join(
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def sums(study: Study, steps: list[Step]) -> list[str]:
    """Return the whole cost: of what runs, and with all that may."""
    lines = []
    for verdicts, said in (((RUNS,), "what runs"), ((RUNS, MAY_RUN), "with all that may run")):
        chosen = [step.cost for step in steps if step.verdict in verdicts]
        if not chosen or (len(verdicts) > 1 and MAY_RUN not in {step.verdict for step in steps}):
            continue
        known = sum(cost.seconds or 0.0 for cost in chosen)
        unknown = sum(cost.seconds is None and not cost.hours for cost in chosen)
        parts = [f"time {in_words(known)}"]
        if hours := [cost.hours for cost in chosen if cost.hours]:
            cards = ", ".join(
                f"{in_words(3600 * sum(each[card] for each in hours))} on one {card}"
                for card in hours[0]
            )
            parts.append(f"training that never ran {cards} (counted)")
        if unknown:
            parts.append(f"{unknown} stages of unknown time")
        parts.append(f"disk {as_bytes(sum(cost.disk or 0 for cost in chosen))}")
        if peak := max((cost.memory or 0 for cost in chosen), default=0):
            parts.append(f"memory at most {as_bytes(peak)}")
        lines.append(f"{said}: {'; '.join(parts)}")
    return [*lines, f"free where the lake lies: {as_bytes(free_space(study.lake))}"]


def free_space(path: Path) -> int:
    """Return the free bytes of the disk that `path` lies on or will lie on."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def reading_instance() -> dg.DagsterInstance:
    """Return Dagster's instance where it has a history, else an empty one in memory.

    Opening the real one would make its databases.
    """
    storage = InstanceRef.from_dir(os.environ["DAGSTER_HOME"]).storage_data
    folder = storage.config_dict.get("base_dir") if storage else None
    if folder is not None and not (Path(folder) / "history").exists():
        return dg.DagsterInstance.ephemeral()
    return dg.DagsterInstance.get()
