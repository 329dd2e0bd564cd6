"""`python -m pipelines plan`: what `run` would do now, why, and what it costs. It only reads.

Sources are looked at as they are, and what is seen is not recorded. What follows from a stage that
runs is certain within its job; the next job starts only if the content changed, which nobody knows
before, so its stages are told as those that may run.
"""

import dataclasses
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from assets.content import known
from assets.inputs import UNRELATED
from assets.lake import Lake
from assets.lineage import named
from assets.stage import Chain, Place
from assets.study import Study
from assets.votes import NothingYet
from evaluation.prompts import read_prompts
from pipelines.arrivals import waiting
from pipelines.chain import JOBS, RECIPE, TRAIN, in_order, of_job
from pipelines.costs import Cost, Costs
from pipelines.runs import IN_PROGRESS, is_of
from pipelines.sizes import as_bytes, in_words
from pipelines.staleness import Staleness, look_at_sources

RUNS, MAY_RUN, UP_TO_DATE, BLOCKED = "runs", "may run", "up to date", "blocked"


@dataclass(frozen=True)
class Step:
    """One stage of the plan; policy: whose; why: the reason, empty where it is fresh."""

    stage: str
    policy: str | None
    verdict: str
    why: str
    cost: Cost


def plan(study: Study, chain: Chain, instance: dg.DagsterInstance) -> str:
    """Return the plan as a page of text."""
    with known(Lake(study.lake).hashes, keep=False):
        steps = list(steps_of(study, chain, instance))
    return "\n".join(
        [
            *headline(study, instance, steps),
            "",
            *table(steps),
            "",
            *sums(study, steps),
            *resolution(study),
        ]
    )


def steps_of(study: Study, chain: Chain, instance: dg.DagsterInstance) -> Iterator[Step]:
    """Look at every stage in the order in which `run` would come to it."""
    seen, details = look_at_sources(study), dict[Place, str]()
    try:
        details["vote_files", None] = f"{waiting(study, Lake(study.lake))} new rows"
    except NothingYet as nothing:
        details["vote_files", None] = str(nothing)
    details |= {(RECIPE, name): recipe_change(study, name) for name in study.policies}
    staleness = Staleness(study, instance, chain, seen, details)
    costs, moving = Costs(study, chain, instance), dict[Place, str]()
    for job in JOBS:
        for policy in in_order(study) if job == TRAIN else [None]:
            stages = of_job(chain, job)
            certain = staleness.reasons(stages, policy)
            forbidden = staleness.forbidden(stages, certain, policy)
            for name in stages:
                verdict, why = RUNS, certain.get(name, "")
                above = moving_upstream(chain, study, moving, name, policy)
                if name in forbidden:
                    verdict, why = BLOCKED, str(forbidden[name])
                elif not why:
                    verdict = MAY_RUN if above else UP_TO_DATE
                    why = f"if {', '.join(above)} changes" if above else ""
                if verdict in (RUNS, MAY_RUN):
                    moving[name, policy] = verdict
                cost = costs.of(name, policy) if verdict in (RUNS, MAY_RUN) else Cost()
                yield Step(name, policy, verdict, why, cost)


def moving_upstream(
    chain: Chain, study: Study, moving: dict[Place, str], name: str, policy: str | None
) -> list[str]:
    """Name what is directly upstream and runs or may run."""
    found = []
    above: list[Place] = [(each, None) for each in chain[name].after]
    for place in [*above, *chain[name].places(study, policy)]:
        if place in moving:
            plain = place[1] in (None, policy) or policy is None
            found.append(place[0] if plain else named(*place))
    return list(dict.fromkeys(found))


def recipe_change(study: Study, name: str) -> str:
    """Name the settings in which a policy's newest training differs from what the study says."""
    config = study.policies[name]
    if config is None:
        return "the base model"
    told = Lake(study.lake).current("policies", name, "run.json")
    if not told.exists():
        return "its settings, its pairs or the base model"
    old = json.loads(told.read_text())["policy"]
    new = json.loads(json.dumps(dataclasses.asdict(config)))
    changed = [
        f"{key} {old.get(key)} -> {value}"
        for key, value in new.items()
        if key not in UNRELATED and old.get(key) != value
    ]
    return ", ".join(changed) or "its pairs or the base model"


def headline(study: Study, instance: dg.DagsterInstance, steps: list[Step]) -> list[str]:
    """Return what the plan comes to, and which runs are going on while it is made."""
    count = {
        each: sum(step.verdict == each for step in steps)
        for each in (RUNS, MAY_RUN, UP_TO_DATE, BLOCKED)
    }
    blocked = f", {count[BLOCKED]} are blocked" if count[BLOCKED] else ""
    lines = [
        f"{study.name}: {count[RUNS]} stages run, {count[MAY_RUN]} may run, "
        f"{count[UP_TO_DATE]} are up to date{blocked}"
    ]
    for run in instance.get_runs(dg.RunsFilter(statuses=IN_PROGRESS)):
        of = run.tags.get("dagster/partition")
        if is_of(study, run):
            lines.append(
                f"run {run.run_id[:8]} of {run.job_name}{f' for {of}' if of else ''} is going on; "
                "what it finishes will be up to date"
            )
    return lines


def table(steps: list[Step]) -> list[str]:
    """Return one line for each stage, and its cost where it runs."""
    rows = [("stage", "policy", "plan", "time", "disk", "memory", "cost from", "why")]
    for step in steps:
        cost, runs = step.cost, step.verdict in (RUNS, MAY_RUN)
        time = "?" if runs else ""
        if cost.seconds is not None:
            time = in_words(cost.seconds)
        elif cost.hours and (card := this_card(cost.hours)):
            time = f"{in_words(3600 * cost.hours[card])} ({card})"
        rows.append(
            (
                step.stage,
                step.policy or "",
                step.verdict,
                time,
                as_bytes(cost.disk) if cost.disk else "",
                as_bytes(cost.memory) if cost.memory else "",
                cost.said if runs else "",
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


def this_card(hours: dict[str, float]) -> str | None:
    """Return the card of this machine among those that an estimate knows, None without one."""
    try:
        said = Path("/proc/driver/nvidia/gpus")
        names = " ".join(path.read_text() for path in said.glob("*/information"))
    except OSError:
        return None
    return next((card for card in hours if card.split()[0] in names), None)


def sums(study: Study, steps: list[Step]) -> list[str]:
    """Return the whole cost: of what runs, and with all that may."""
    lines = []
    for verdicts, said in (((RUNS,), "what runs"), ((RUNS, MAY_RUN), "with all that may run")):
        chosen = [step.cost for step in steps if step.verdict in verdicts]
        if not chosen or (len(verdicts) > 1 and MAY_RUN not in {step.verdict for step in steps}):
            continue
        known_ = sum(cost.seconds or 0.0 for cost in chosen)
        unknown = sum(cost.seconds is None and not cost.hours for cost in chosen)
        parts = [f"time {in_words(known_)}"]
        if hours := [cost.hours for cost in chosen if cost.hours]:
            cards = ", ".join(
                f"{in_words(3600 * sum(each[card] for each in hours))} on one {card}"
                for card in hours[0]
            )
            parts.append(f"training that never ran here {cards} (counted)")
        if unknown:
            parts.append(f"{unknown} stages of unknown time")
        parts.append(f"disk {as_bytes(sum(cost.disk or 0 for cost in chosen))}")
        if peak := max((cost.memory or 0 for cost in chosen), default=0):
            parts.append(f"memory at most {as_bytes(peak)}")
        lines.append(f"{said}: {'; '.join(parts)}")
    return [*lines, f"free where the lake lies: {as_bytes(free_space(Lake(study.lake).root))}"]


def resolution(study: Study) -> list[str]:
    """Say what the evaluation can show: which win rate so many prompts tell from one half.

    Of n prompts with one image each, power 0.8 at the 5% level (two-sided, no correction) needs
    |p - 1/2| >= (1.96 + 0.84) / (2 sqrt(n)).
    """
    lake = Lake(study.lake)
    if lake.table("evaluation_prompts").exists():
        count = lake.read("evaluation_prompts", "prompt_id").height
    elif study.generation.prompts and study.generation.prompts.exists():
        count = len(read_prompts(study.generation.prompts))
    else:
        return []
    least = 0.5 + (1.96 + 0.84) / (2 * math.sqrt(count))
    said = "no win rate" if least > 1 else f"a win rate of {least:.0%} or more"
    return [f"{count} prompts are drawn: {said} is told from 50% four times in five"]


def free_space(path: Path) -> int:
    """Return the free bytes of the disk that `path` lies on or will lie on."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
