"""Tables of images in, one table with a column of scores for each scorer out.

No row is lost: an image that cannot be read, or that a scorer has no number for, keeps its row with
a null score and is named with its file and row, and a scorer whose weights are missing has a column
of nulls and is named too; the caller turns these into the exit code. Numbers are kept as they come
(`kept`), so what was scored before is not scored again. Scorers are loaded one after the other, all
that stand on one CLIP together.

Beside the scores stand each image's brightness, saturation and embedding (of the first scorer's
CLIP, else of its 16 x 16 pixels), from which `drift` tells whether a policy darkens or collapses.
"""

import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from evaluation import devices, pictures
from evaluation.errors import EvaluationError
from evaluation.kept import Kept, Key
from evaluation.pictures import Embedding, Images, Light
from evaluation.provenance import provenance
from evaluation.scorers import Scorer
from evaluation.scorers.load import load_named
from evaluation.scorers.naming import Named, content, parse_all, towers_of
from evaluation.tables import read_table

BATCH = 64
TOWERED = ("clip", "pickscore", "hps_v2", "hps_v2.1", "aesthetic")


@dataclass(frozen=True)
class Scored:
    """The table with its scores, and every sentence about what could not be scored."""

    table: pa.Table
    scorers: list[str]
    problems: list[str]


@dataclass(frozen=True)
class Task:
    """Numbers for each image: of a scorer, or a measure of the image itself.

    content : of all that the numbers depend on besides image and prompt.
    """

    label: str
    content: str
    load: Callable[[], Scorer]


def read_images(paths: Sequence[Path], limit: int | None = None) -> tuple[pa.Table, list[str]]:
    """Read IMAGES tables into one, image paths made absolute; and "FILE: row N" of each row.

    Relative paths are relative to the table's own folder. A column that one of several tables lacks
    is null for its rows. limit : of each table only the first so many prompts.
    """
    tables, origins = [], []
    for path in paths:
        table = read_table(path, ("policy", "prompt", "image"))
        said = [f"{path}: row {row}" for row in range(1, table.num_rows + 1)]
        if limit is not None:
            first = {*list(dict.fromkeys(table["prompt"].to_pylist()))[:limit]}
            rows = [i for i, one in enumerate(table["prompt"].to_pylist()) if one in first]
            table, said = table.take(rows), [said[row] for row in rows]
        images = [str((path.parent / image).absolute()) for image in table["image"].to_pylist()]
        index = table.column_names.index("image")
        tables.append(table.set_column(index, "image", pa.array(images, pa.string())))
        origins += said
    table = pa.concat_tables(tables, promote_options="permissive")
    if not table.num_rows:
        raise EvaluationError(f"{paths[0]}: holds no image")
    return table, origins


def task_of(named: Named, questions: Any = None) -> Task:
    """A scorer as a task; questions : for `vqa`."""
    if named.kind == "vqa" and questions is not None:
        known = content(named) + questions.content
        return Task(named.label, known, lambda: load_named(named, questions=questions))
    return Task(named.label, content(named), lambda: load_named(named))


def tasks_of(named: Sequence[Named], questions: Any = None) -> list[list[Task]]:
    """What is to be computed, in groups that are in memory together."""
    groups: dict[str, list[Task]] = {}
    for one in named:
        groups.setdefault(towers_of(one), []).append(task_of(one, questions))
    towered = next((one for one in named if one.kind in TOWERED), None)
    embedding = Task("embedding", "pixels", Embedding)
    if towered is not None:
        known = f"embedding {content(towered)}"
        embedding = Task("embedding", known, lambda: Embedding(load_named(towered)))
    home = towers_of(towered) if towered is not None else next(iter(groups))
    groups[home] += [Task("light", "light", Light), embedding]
    return list(groups.values())


def score_table(
    table: pa.Table,
    origins: Sequence[str],
    groups: Sequence[Sequence[Task]],
    kept: Kept,
    *,
    batch_size: int = BATCH,
) -> Scored:
    """Score every image by every task, each decoded once for each group of tasks.

    Returns the table with float64 columns (null where the image could not be read or got no
    number), the scorers' names in its metadata, and one sentence for each gap.
    """
    paths = [Path(path) for path in table["image"].to_pylist()]
    images = Images(
        table["prompt"].to_pylist(), lambda row: pictures.read_bytes(paths[row]), origins
    )
    problems: list[str] = []
    for group in groups:
        run = Run(group, images, kept)
        run.work(batch_size)
        problems += run.problems()
        del run
        gc.collect()  # one group's weights leave before the next one's come
    devices.wait()
    faults = [f"{origins[row]}: image {paths[row]}: {why}" for row, why in images.all_faults()]
    tasks = [task for group in groups for task in group]
    scorers = [task.label for task in tasks if task.label not in ("light", "embedding")]
    for task in sorted(tasks, key=lambda task: task.label in ("light", "embedding")):
        table = with_columns(table, task, images, kept)
    about = {"scorers": scorers} | provenance({task.label: task.content for task in tasks})
    metadata = {key: json.dumps(value) for key, value in about.items()}
    return Scored(table.replace_schema_metadata(metadata), scorers, [*faults, *problems])


class Run:
    """One group of tasks over all images."""

    def __init__(self, tasks: Sequence[Task], images: Images, kept: Kept):
        self.tasks, self.images, self.kept = tasks, images, kept
        self.absent: list[str] = []  # sentences about scorers that could not be loaded
        self.reasons: dict[tuple[str, Key | None], str] = {}
        self.loaded: dict[str, Any] = {}

    def work(self, batch_size: int) -> None:
        """Compute what is not kept yet of this process's part, and keep it."""
        rows = self.images.rows()  # an image that several tables hold is scored once
        mine = dict(devices.part_of(sorted(rows.items(), key=lambda item: item[1])))
        lacking = {}
        for task in self.tasks:
            there = self.kept.get(task.content, mine)
            lacking[task.label] = {row for key, row in mine.items() if key not in there}
        wanted = sorted(set().union(*lacking.values()))
        done, started = 0, time.monotonic()
        shown = started
        for batch, opened in self.images.batches(wanted, batch_size):
            for task in self.tasks:
                some = [i for i, row in enumerate(batch) if row in lacking[task.label]]
                if some:
                    self.keep(task, [batch[i] for i in some], [opened[i] for i in some])
            done += len(batch)
            if time.monotonic() - shown > 2:
                shown = time.monotonic()
                rate = done / (shown - started)
                print(f"  {done}/{len(wanted)} images, {rate:.0f} a second", file=sys.stderr)

    def problems(self) -> list[str]:
        """One sentence for each scorer that could not be loaded and each score that is missing."""
        rows = zip(self.images.origins, self.images.keys, strict=True)
        return self.absent + [
            f"{origin}: {task.label}: {self.reasons[task.label, key]}"
            for origin, key in rows
            for task in self.tasks
            if (task.label, key) in self.reasons
        ]

    def scorer(self, task: Task) -> Any:
        """The task's scorer, loaded when it is first needed; None where it cannot be."""
        if task.label not in self.loaded:
            try:
                self.loaded[task.label] = scorer = task.load()
                self.kept.put_names(task.content, getattr(scorer, "also", ()))
            except EvaluationError as error:
                if task.label != "embedding":  # whose scorer has said so itself
                    self.absent.append(str(error))
                self.loaded[task.label] = None
        return self.loaded[task.label]

    def keep(self, task: Task, rows: list[int], opened: list[Image.Image]) -> None:
        """Score some images and keep what came of it."""
        scorer = self.scorer(task)
        if scorer is None:
            return
        asks = getattr(scorer, "asks", None)
        prompts = [self.images.prompts[row] for row in rows]
        chosen = [i for i, prompt in enumerate(prompts) if asks is None or asks(prompt)]
        numbers, reasons = score_batch(
            scorer, [prompts[i] for i in chosen], [opened[i] for i in chosen]
        )
        found = []
        for i, (place, row) in enumerate(zip(chosen, numbers, strict=True)):
            if i in reasons:
                self.reasons[task.label, self.images.keys[rows[place]]] = reasons[i]
            else:
                found.append((self.images.keys[rows[place]], row))
        self.kept.put(task.content, found)


def score_batch(
    scorer: Scorer, prompts: Sequence[str], images: Sequence[Image.Image]
) -> tuple[np.ndarray, dict[int, str]]:
    """Numbers (n, 1 + further ones), the score first; and why there is no score, by place.

    Where a scorer fails on a batch (a prompt that it cannot read, memory), its images are tried one
    by one, so that one of them does not cost the others their scores.
    """
    if not images:
        return np.empty((0, 1)), {}
    try:
        numbers = np.asarray(scorer.score(prompts, images), dtype=float)
        if len(numbers) != len(images):
            raise ValueError(f"gave {len(numbers)} numbers for {len(images)} images")
    except Exception as error:  # a scorer may be anybody's: what it raises is its own affair
        if len(images) == 1:
            said = (str(error).splitlines() or [type(error).__name__])[0]
            return np.full((1, 1), np.nan), {0: f"failed: {said}"}
        parts = [
            score_batch(scorer, [prompt], [image])
            for prompt, image in zip(prompts, images, strict=True)
        ]
        width = max(numbers.shape[1] for numbers, _ in parts)
        rows = [np.full(width, np.nan) if why else numbers[0] for numbers, why in parts]
        return np.array(rows), {i: why[0] for i, (_, why) in enumerate(parts) if why}
    numbers = numbers.reshape(len(images), -1)
    bad = np.flatnonzero(~np.isfinite(numbers[:, 0]))
    return numbers, {int(i): f"gave {numbers[i, 0]}" for i in bad}


def with_columns(table: pa.Table, task: Task, images: Images, kept: Kept) -> pa.Table:
    """The table with a task's numbers as columns."""
    there = kept.get(task.content, images.rows())
    rows = [there.get(key) if key is not None else None for key in images.keys]
    if task.label == "embedding":
        halves = [None if row is None else row.astype(np.float16).tobytes() for row in rows]
        return put_column(table, "embedding", pa.array(halves, pa.binary()))
    names = ["brightness", "saturation"] if task.label == "light" else [task.label]
    names += [f"{task.label}.{name}" for name in kept.names(task.content)]
    for place, name in enumerate(names):
        known = (row[place] if row is not None and place < len(row) else np.nan for row in rows)
        values = np.fromiter(known, float, len(rows))
        column = pa.array(values, pa.float64(), mask=~np.isfinite(values))
        table = put_column(table, name, column)
    return table


def put_column(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    """The table with a column of that name, whether it had one or not."""
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, column)
    return table.append_column(name, column)


def score(
    paths: Sequence[Path],
    names: Sequence[str],
    kept: Path,
    *,
    limit: int | None = None,
    batch_size: int = BATCH,
    questions: Any = None,
) -> Scored:
    """Score IMAGES tables with scorers, see `naming`; what is scored is kept in the file `kept`.

    limit : of each table only the first so many prompts. questions : see `questions`.
    Raises EvaluationError for an unknown scorer or an unreadable table.
    """
    named = parse_all(names)
    table, origins = read_images(paths, limit)
    groups = tasks_of(named, questions)
    return score_table(table, origins, groups, Kept(kept), batch_size=batch_size)
