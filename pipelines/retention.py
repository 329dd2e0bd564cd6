"""`python -m pipelines clean`: remove what is old and what nothing needs any more.

What an alias, a newest materialisation, a resumable training or the next `run` needs stays,
whatever its age; votes and rejections always stay. Only this study's own: its lake, its runs, its
model. docs/guide/pipeline.md states the policy.
"""

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import dagster as dg

from assets import inputs
from assets.content import file_hash, known
from assets.dagster_internals import files_of_run
from assets.generations import folder_name
from assets.lake import Lake
from assets.lineage import latest_record
from assets.stage import Chain
from assets.study import Study
from assets.turns import turn
from pipelines.chain import RECIPE, SOURCES
from pipelines.runs import AT_WORK, is_of
from pipelines.sizes import as_bytes, size
from pipelines.stored import old_models, old_runs, policies_with_an_alias

DAY = 24 * 3600.0


@dataclass(frozen=True)
class Removal:
    """One thing to remove; bytes: of files, what databases give back is not counted."""

    kind: str
    name: str
    bytes: int
    remove: Callable[[], object]


def clean(
    study: Study,
    chain: Chain,
    instance: dg.DagsterInstance,
    say: Callable[[str], object],
    dry_run: bool = False,
    own_run: str | None = None,
) -> str:
    """Remove what the study's [retention] lets go, and return what that was.

    dry_run: only look. own_run: the Dagster run that this is called from. Waits for a `run` from a
    terminal. Raises ValueError while any other run of the study is going on.
    """
    lake = Lake(study.lake)
    with ExitStack() as held:
        held.enter_context(known(lake.hashes, keep=not dry_run))
        if not dry_run:
            for part in ("chain", "study", *(f"policy {name}" for name in study.policies)):
                held.enter_context(turn(lake, instance, part, say))
        for run in instance.get_runs(dg.RunsFilter(statuses=AT_WORK)):
            if is_of(study, run) and run.run_id != own_run and not dry_run:
                raise ValueError(
                    f"run {run.run_id} of {run.job_name} is going on; clean when it has ended"
                )
        before = time.time() - study.retention.days * DAY
        found = list(removals(study, chain, instance, before))
        for removal in found:
            say(f"{removal.kind} {removal.name}: {as_bytes(removal.bytes)}")
            if not dry_run:
                removal.remove()
    lines = []
    for kind in dict.fromkeys(removal.kind for removal in found):
        some = [removal.bytes for removal in found if removal.kind == kind]
        lines.append(f"{kind:<22} {len(some):>6} {as_bytes(sum(some)):>9}")
    verb = "would free" if dry_run else "freed"
    total = as_bytes(sum(removal.bytes for removal in found))
    return "\n".join([*lines, f"{verb} {total} of {study.name}"])


def removals(
    study: Study, chain: Chain, instance: dg.DagsterInstance, before: float
) -> Iterator[Removal]:
    """Find everything to remove; before: history older than this time."""
    yield from _of_the_lake(study, before)
    yield from _of_the_cache(study, before)
    for version, policy, bytes_, remove in old_models(study, instance):
        yield Removal("model versions", f"{version} ({policy})", bytes_, remove)
    for run, name, bytes_, remove in old_runs(study, chain, instance, before):
        yield Removal("MLflow runs", f"{run} ({name})", bytes_, remove)
    yield from _of_dagster(study, chain, instance, before)


def _of_the_lake(study: Study, before: float) -> Iterator[Removal]:
    lake = Lake(study.lake)
    serving = policies_with_an_alias(study)
    for stage in ("policies", "generations", "judgments"):
        for name in lake.folders(stage):
            place = f"{stage}/{name}"
            if name not in study.policies:
                if name not in serving and newest(lake, place) < before:
                    yield _removal(lake, "policies given up", place)
                continue
            if stage == "judgments":
                continue
            current = lake.current_version(stage, name)
            for version in lake.folders(place):
                kept = version in (current, _resumable(study, lake, stage, name))
                if not kept and newest(lake, f"{place}/{version}") < before:
                    yield _removal(lake, "unfinished work", f"{place}/{version}")
            checkpoints = f"{place}/{current}/checkpoints"
            # What continues a training has no use once it is finished.
            if lake.exists(f"{place}/{current}/result.json") and lake.exists(checkpoints):
                yield _removal(lake, "checkpoints", checkpoints)
    for path in sorted(lake.root.rglob(".*.partial")):
        if path.is_file() and path.stat().st_mtime < before:
            yield Removal("half-written files", str(path), path.stat().st_size, path.unlink)


def _of_the_cache(study: Study, before: float) -> Iterator[Removal]:
    """Pictures that K-Sort Eval drew by weights of before, and scores of pictures that are gone."""
    lake = Lake(study.lake)
    current = {lake.current_version("generations", name) for name in study.policies}
    for folder in sorted((lake.cache / "ksort").glob("*")):
        if folder.name not in current and folder.stat().st_mtime < before:
            remove = partial(shutil.rmtree, folder)
            yield Removal("pictures for K-Sort", str(folder), size(folder), remove)
    scores = lake.cache / "scores.sqlite"
    if not scores.exists():
        return
    drawn = {file_hash(path) for path in lake.path("generations").rglob("*.png")}
    with closing(sqlite3.connect(f"{scores.as_uri()}?mode=ro", uri=True)) as kept:
        known = [image for (image,) in kept.execute("SELECT DISTINCT image FROM kept")]
    if gone := [image for image in known if image not in drawn]:
        freed = scores.stat().st_size * len(gone) // len(known)
        remove = partial(_forget_scores, scores, gone)
        yield Removal("scores of lost pictures", str(scores), freed, remove)


def _forget_scores(scores: Path, images: Sequence[str]) -> None:
    with closing(sqlite3.connect(scores, timeout=60)) as kept:
        with kept:
            kept.executemany("DELETE FROM kept WHERE image = ?", [(image,) for image in images])
        kept.execute("VACUUM")


def _resumable(study: Study, lake: Lake, stage: str, name: str) -> str | None:
    """Return the folder that the next run of a stage would work in, None where it would in none."""
    trained = study.policies[name] is not None
    if stage == "policies":
        return (
            inputs.recipe(study, name) if trained and lake.table("training_set").exists() else None
        )
    drawable = not trained or lake.exists(f"policies/{name}/current/policy")
    return folder_name(study, lake, name) if drawable else None


def _removal(lake: Lake, kind: str, name: str) -> Removal:
    """Return the removal of a folder of the lake, wherever it lies."""
    bytes_ = sum(info.size for info in lake.infos(name))
    return Removal(kind, lake.where(name), bytes_, partial(lake.remove, name))


def newest(lake: Lake, name: str) -> float:
    """Return when the newest file of a folder was written, in the store or here."""
    here = lake.path(name)
    found = [each.lstat().st_mtime for each in (here, *here.rglob("*")) if each.exists()]
    return max([*found, *(info.mtime_ns / 1e9 for info in lake.infos(name))], default=0.0)


def _of_dagster(
    study: Study, chain: Chain, instance: dg.DagsterInstance, before: float
) -> Iterator[Removal]:
    kept = needed_runs(study, chain, instance)
    for record in instance.get_run_records():
        run, old = record.dagster_run, record.create_timestamp.timestamp() < before
        if is_of(study, run) and run.is_finished and run.run_id not in kept and old:
            yield Removal(
                "Dagster runs",
                f"{run.run_id} ({run.job_name})",
                sum(size(path) for path in files_of_run(instance, run.run_id)),
                partial(_forget, instance, run.run_id),
            )


def _forget(instance: dg.DagsterInstance, run_id: str) -> None:
    files = files_of_run(instance, run_id)
    instance.delete_run(run_id)
    for path in files:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def needed_runs(study: Study, chain: Chain, instance: dg.DagsterInstance) -> set[str]:
    """Return the Dagster runs whose records say what is up to date.

    These hold the newest materialisation of an asset or of one of its partitions; or the newest
    observation of a source.
    """
    kept = set()
    for stage in chain.values():
        for policy in stage.partitions(study):
            record = latest_record(instance, study.key(stage.name), policy)
            if record is not None:
                kept.add(record.run_id)
    for name in (*SOURCES, RECIPE):
        seen = instance.fetch_observations(dg.AssetRecordsFilter(study.key(name)), limit=1).records
        kept |= {record.run_id for record in seen}
    return kept - {""}  # what was observed outside of any run
