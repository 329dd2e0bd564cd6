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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from tqdm import tqdm

from evaluation import devices
from evaluation.errors import EvaluationError, first_line
from evaluation.kept import Kept
from evaluation.pictures import FILES, READERS, Pictures, light, tiny
from evaluation.scorers import Scorer, naming
from evaluation.tables import IMAGES, provenance, read_table

BATCH = 64


@dataclass(frozen=True)
class Task:
    """Numbers for each image: of a scorer, or a measure of the image itself.

    content : of all that the numbers depend on besides image and prompt. embeds : of the scorer,
    its CLIP's embeddings of the images instead of its scores.
    """

    label: str
    content: str
    load: Callable[[], Scorer]
    embeds: bool = False


def each_image(measure: Callable[[Image.Image], np.ndarray]) -> Any:
    """A measure of an image alone as scorer."""
    return SimpleNamespace(score=lambda _, images: np.array([*READERS.map(measure, images)]))


def embedder(named: naming.Named) -> Any:
    """The unit embeddings by a CLIP scorer's image tower, float64 (n, d), in place of scores."""
    towers = getattr(naming.load(named), "towers", None)
    if towers is None:
        return each_image(tiny)
    return SimpleNamespace(
        score=lambda _, images: towers.image_features(images).double().cpu().numpy()
    )


LIGHT = Task("light", "light", partial(each_image, light))
PIXELS = Task("embedding", "pixels", partial(each_image, tiny), embeds=True)
TOWERED = ("clip", "pickscore", "hps_v2", "hps_v2.1", "aesthetic")


def tasks_of(
    named: Sequence[naming.Named], questions: Any = None, *, measures: bool = True
) -> list[list[Task]]:
    """What is to be computed, in groups that are in memory together: scorers on one CLIP are.

    questions : for `vqa`. measures : with light and embedding of every image.
    """
    groups: dict[str, list[Task]] = {}
    embeddings, home = PIXELS, ""
    for one in named:
        known, load = naming.content(one), partial(naming.load, one)
        if one.kind == "vqa" and questions is not None:
            known, load = known + questions.content, partial(load, questions=questions)
        place = one.label
        if one.kind in ("clip", "aesthetic"):
            clip = Path(one.sources[0])
            if one.kind == "aesthetic":
                clip = (clip if clip.is_dir() else clip.parent) / "clip"
            place = str(clip.resolve()) if clip.exists() else one.sources[-1]
        groups.setdefault(place, []).append(Task(one.label, known, load))
        if one.kind in TOWERED and embeddings is PIXELS:
            load = partial(embedder, one)
            embeddings, home = Task("embedding", f"embedding {known}", load, True), place
    if measures:
        groups[home or next(iter(groups))] += [LIGHT, embeddings]
    return list(groups.values())


def score_images(
    images: Pictures, tasks: Sequence[Task], kept: Kept, batch_size: int = BATCH
) -> list[str]:
    """Compute and keep what is not kept yet of one group of tasks, each image decoded once.

    Processes that were launched together share the images out. Returns one sentence for each scorer
    that cannot be loaded and each score that is missing.
    """
    gc.collect()  # one group's weights leave before the next one's come
    rows = sorted(images.first.items(), key=lambda item: item[1])
    mine = dict(rows[devices.RANK :: devices.WORLD])
    absent: list[str] = []
    work: list[tuple[Task, Any, set[int]]] = []
    for task in tasks:
        there, _ = kept.get(task.content, mine)
        lacking = {row for key, row in mine.items() if key not in there}
        try:
            scorer = task.load() if lacking else None
        except EvaluationError as error:
            absent += [] if task.embeds else [str(error)]  # its scorer says so itself
            continue
        asks = getattr(scorer, "asks", lambda prompt: True)
        work.append((task, scorer, {row for row in lacking if asks(images.prompts[row])}))
    reasons: dict[tuple[str, Any], str] = {}
    wanted = sorted(set().union(*(lacking for _, _, lacking in work)))
    silent = devices.RANK > 0 or not wanted
    with tqdm(total=len(wanted), unit="image", mininterval=2, disable=silent) as progress:
        for batch, opened in images.batches(wanted, batch_size):
            for task, scorer, lacking in work:
                some = [i for i, row in enumerate(batch) if row in lacking]
                if some:
                    keys = [images.keys[batch[i]] for i in some]
                    prompts = [images.prompts[batch[i]] for i in some]
                    numbers, why = score_batch(scorer, prompts, [opened[i] for i in some])
                    reasons |= {(task.label, keys[i]): said for i, said in why.items()}
                    found = {key: numbers[i] for i, key in enumerate(keys) if key and i not in why}
                    kept.put(task.content, found, getattr(scorer, "also", ()))
            progress.update(len(batch))
    if devices.WORLD > 1:
        devices.state().wait_for_everyone()
    return absent + [
        f"{origin}: {task.label}: {reasons[task.label, key]}"
        for origin, key in zip(images.origins, images.keys, strict=True)
        for task in tasks
        if (task.label, key) in reasons
    ]


def score_batch(
    scorer: Scorer, prompts: Sequence[str], images: Sequence[Image.Image]
) -> tuple[np.ndarray, dict[int, str]]:
    """Numbers (n, 1 + further ones), the score first; and why there is no score, by place.

    Where a scorer fails on a batch (a prompt that it cannot read, memory), its images are tried one
    by one, so that one of them does not cost the others their scores.
    """
    try:
        numbers = np.asarray(scorer.score(prompts, images), dtype=float)
        if len(numbers) != len(images):
            raise ValueError(f"gave {len(numbers)} numbers for {len(images)} images")
    except Exception as error:  # a scorer may be anybody's: what it raises is its own affair
        if len(images) == 1:
            said = first_line(error)
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


def with_columns(table: pa.Table, task: Task, images: Pictures, kept: Kept) -> pa.Table:
    """The table with a task's numbers as columns, null where there is none."""
    there, also = kept.get(task.content, images.first)
    rows = [there.get(key) if key is not None else None for key in images.keys]
    if task.embeds:
        halves = [None if row is None else row.astype(np.float16).tobytes() for row in rows]
        columns = {"embedding": pa.array(halves, pa.binary())}
    else:
        names = ["brightness", "saturation"] if task is LIGHT else [task.label]
        names += [f"{task.label}.{name}" for name in also]
        values = np.full((len(rows), len(names)), np.nan)
        for place, row in enumerate(rows):
            if row is not None:
                values[place, : len(row)] = row[: len(names)]
        columns = {
            name: pa.array(one, mask=~np.isfinite(one))
            for name, one in zip(names, values.T, strict=True)
        }
    for name, column in columns.items():
        if name in table.column_names:
            table = table.drop_columns(name)
        table = table.append_column(name, column)
    return table


def score(
    paths: Sequence[Path],
    groups: Sequence[Sequence[Task]],
    kept: Kept,
    *,
    limit: int | None = None,
    batch_size: int = BATCH,
) -> tuple[pa.Table, list[str], list[str]]:
    """Score the images that tables list; what is scored is kept.

    A column that one of several tables lacks is null for its rows. limit : of each table only the
    first so many prompts.

    Returns the table with its columns of scores, whose names and making are in its metadata; these
    names; and one sentence for each gap. Raises EvaluationError for an unreadable table.
    """
    tables, origins = [], []
    for path in paths:
        table = read_table(path, IMAGES)
        prompts = table["prompt"].to_pylist()
        first = {*list(dict.fromkeys(prompts))[:limit]}
        rows = [i for i, one in enumerate(prompts) if one in first]
        tables.append(table.take(rows))
        origins += [f"{path}: row {row + 1}" for row in rows]
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise EvaluationError(f"{paths[0]} and the others do not fit together: {error}") from error
    if not table.num_rows:
        raise EvaluationError(f"{paths[0]}: holds no image")
    images = Pictures(table["prompt"].to_pylist(), table["image"].to_pylist(), FILES, origins)
    problems = [said for one in groups for said in score_images(images, one, kept, batch_size)]
    tasks = [task for group in groups for task in group]
    names = [task.label for task in tasks if task is not LIGHT and not task.embeds]
    for task in sorted(tasks, key=lambda task: task.label not in names):
        table = with_columns(table, task, images, kept)
    about = {"scorers": names} | provenance({task.label: task.content for task in tasks})
    metadata = {key: json.dumps(value) for key, value in about.items()}
    return table.replace_schema_metadata(metadata), names, [*images.problems(), *problems]
