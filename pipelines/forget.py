"""`python -m pipelines forget STUDY.toml --rater NAME`: a rater's votes leave, the stages follow.

docs/guide/security.md says what is removed, what follows with the next run, and what is out of
reach.
"""

import shutil
from collections.abc import Callable, Iterator

import dagster as dg

from assets.content import known
from assets.forgotten import as_stored, forget, raters, rows_of
from assets.lake import Lake
from assets.movement import TRAINED_ON
from assets.study import Study
from assets.turns import turn
from assets.votes import options
from pipelines.launch import Launcher
from pipelines.runs import AT_WORK, is_of


def forget_rater(
    study: Study, instance: dg.DagsterInstance, name: str, say: Callable[[str], object]
) -> str:
    """Leave a rater's votes out from now on, rewrite the tables, and say what came of it.

    Raises ValueError where the lake has no vote of that rater, or while a run is going on.
    """
    lake = Lake(study.lake)
    if not all(lake.table(table).exists() for table in ("votes", "rankings")):
        raise ValueError(f"{study.path}: no votes were taken in yet, so there is nobody to forget")
    with turn(lake, instance, "chain", say), known(lake.hashes):
        for run in instance.get_runs(dg.RunsFilter(statuses=AT_WORK)):
            if is_of(study, run):
                raise ValueError(
                    f"run {run.run_id} of {run.job_name} is going on; forget when it has ended"
                )
        called = as_stored(options(study).salt, name.strip())
        found = [each for each in called if each in set(raters(lake))]
        if not found:
            raise ValueError(
                f"the lake holds no vote of rater {name!r}; names count letter by letter, and "
                "whoever is forgotten already is none of them"
            )
        count = rows_of(lake, found)
        for each in found:
            forget(lake, each)
        shutil.rmtree(lake.cache, ignore_errors=True)
        for name in of_before(study, lake):
            lake.remove(name)
        launcher = Launcher(study, instance, say)
        ran = launcher.rate()
    trained = [policy for policy, config in study.policies.items() if config]
    return "\n".join(
        [
            f"{count} votes of that rater left {study.name}; made anew: {', '.join(ran)}",
            f"next: python -m pipelines run {study.path}, which trains anew what their votes "
            f"trained ({', '.join(trained) or 'nothing'})",
            "their rows stay in the files of votes, which are yours: delete them there too",
        ]
    )


def of_before(study: Study, lake: Lake) -> Iterator[str]:
    """Return the folders of trainings that are not the current ones, and of others the pairs."""
    for policy in lake.folders("policies"):
        current = lake.current_version("policies", policy)
        for version in lake.folders(f"policies/{policy}"):
            if policy not in study.policies:
                yield f"policies/{policy}/{version}/{TRAINED_ON}"
            elif version != current:
                yield f"policies/{policy}/{version}"
