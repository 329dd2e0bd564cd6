"""`python -m pipelines forget STUDY.toml --rater NAME`: a rater's votes leave, the stages follow.

docs/guide/security.md says what is removed, what follows with the next run, and what is out of
reach.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg

from assets.content import known
from assets.forgotten import as_stored, forget, raters, rows_of
from assets.lake import Lake
from assets.movement import TRAINED_ON
from assets.study import Study
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
    with lake.held("chain", say), known(lake.hashes):
        for run in instance.get_runs(dg.RunsFilter(statuses=AT_WORK)):
            if is_of(study, run):
                raise ValueError(
                    f"run {run.run_id} of {run.job_name} is going on; forget when it has ended"
                )
        called = as_stored(study, options(study).salt, name.strip())
        found = [each for each in called if each in set(raters(lake))]
        if not found:
            raise ValueError(
                f"the lake holds no vote of rater {name!r}; names count letter by letter, and "
                "whoever is forgotten already is none of them"
            )
        count = rows_of(lake, found)
        for each in found:
            forget(lake, each)
        for folder in of_before(study, lake):
            shutil.rmtree(folder)
        for table in _pairs_of_policies_given_up(study, lake):
            table.unlink()
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


def of_before(study: Study, lake: Lake) -> Iterator[Path]:
    """Return the caches, and the folders of trainings that are not the current ones."""
    if (lake.root / "cache").exists():
        yield lake.root / "cache"
    for policy in study.policies:
        folder = lake.root / "policies" / policy
        current = lake.current("policies", policy).resolve()
        for version in folder.iterdir() if folder.exists() else ():
            if version.is_dir() and not version.is_symlink() and version.resolve() != current:
                yield version


def _pairs_of_policies_given_up(study: Study, lake: Lake) -> list[Path]:
    found = (lake.root / "policies").glob(f"*/*/{TRAINED_ON}")
    return [
        path
        for path in found
        if path.parts[-3] not in study.policies and not path.parent.is_symlink()
    ]
