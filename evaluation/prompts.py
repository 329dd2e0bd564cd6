"""Prompts to be drawn: the public sets in their published layouts, own tables, held-out ones.

    Pick-a-Pic     .parquet with caption                            (test_unique, validation_unique)
    HPDv2          folder of <style>.json, each a list of texts; or test.json with prompt
    PartiPrompts   .tsv with Prompt and Category
    DrawBench      .csv with Prompts and Category
    GenEval        .jsonl with prompt and tag
    own            .parquet, .csv, .jsonl or .json with prompt and, where there is one, prompt_id;
                   .txt with one prompt a line; a training set, of which the held-out prompts count

A prompt without an id is known by a digest of its text, so it starts from the same noise in every
set. Which of the prompts a policy has been trained on is found by comparing texts without case,
punctuation and blanks.
"""

import hashlib
import io
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv

from evaluation.errors import EvaluationError
from evaluation.tables import read_json, read_jsonl, read_table, read_text

TEXTS = ("prompt", "Prompt", "Prompts", "caption")  # names of the column that holds the prompt
CATEGORIES = ("category", "Category", "tag")
UNPRINTABLE = re.compile(r"[\x00\ud800-\udfff]")
HELD_OUT, TRAIN = "held_out", "train"


@dataclass(frozen=True)
class Prompt:
    """A prompt with its id, and the set's own category where it has one."""

    prompt_id: str
    prompt: str
    category: str | None = None


def read_prompts(*paths: Path) -> list[Prompt]:
    """Read one set of prompts or several into one, each prompt once, in the files' order.

    Raises EvaluationError naming the file and row when there is none, or when an id stands for two
    prompts.
    """
    found: dict[str, Prompt] = {}
    for path in paths:
        rows = read_rows(path)
        if any(row.get("split") == HELD_OUT for row in rows):
            rows = [row for row in rows if row.get("split") == HELD_OUT]
        if not rows:
            raise EvaluationError(f"{path}: holds no prompt")
        earlier = {*found}
        for row in rows:
            text = text_of(row)
            given = row.get("prompt_id")
            prompt_id = str(given) if given is not None else identify(text)
            category = next((str(row[name]) for name in CATEGORIES if row.get(name)), None)
            if found.setdefault(prompt_id, Prompt(prompt_id, text, category)).prompt != text:
                raise EvaluationError(
                    f"{path}: prompt_id {prompt_id!r} is another prompt in an earlier file; "
                    "leave the ids out, and texts are known by their digest"
                    if prompt_id in earlier
                    else f"{path}: row {row['row']} gives prompt_id {prompt_id!r} another prompt; "
                    "ids are unique"
                )
    return list(found.values())


def identify(text: str) -> str:
    """Id of a prompt that has none: 12 hexadecimal digits of its digest."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def text_of(row: dict[str, Any]) -> str:
    """The prompt of a row that has one."""
    return next(row[name] for name in TEXTS if row.get(name))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a file, or of every .json of a folder, each with a prompt and its number `row`."""
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        if not files:
            raise EvaluationError(f"{path}: a folder of prompts holds <style>.json files")
        return [{"category": file.stem, **row} for file in files for row in read_rows(file)]
    if not path.is_file():
        raise EvaluationError(f"{path}: no such file")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise EvaluationError(f"{path}: prompts are {', '.join(READERS)} files, or a folder")
    rows = []
    for number, row in enumerate(reader(path), start=1):
        if not isinstance(row, dict) or not any(
            isinstance(row.get(name), str) and row[name].strip() for name in TEXTS
        ):
            has = ", ".join(row) if isinstance(row, dict) else str(row)[:60]
            raise EvaluationError(
                f"{path}: row {number} has no prompt (it has {has}); the column or key is one of "
                f"{', '.join(TEXTS)}"
            )
        for name, value in row.items():
            if isinstance(value, str) and UNPRINTABLE.search(value):
                raise EvaluationError(
                    f"{path}: row {number}: {name} holds half an emoji or a zero byte, which no "
                    "file can carry; mend or drop the row"
                )
        rows.append({**row, "row": number})
    return rows


def read_columns(path: Path) -> list[dict[str, Any]]:
    """Rows of a .parquet or .csv, of the columns that matter here."""
    table = read_table(path, ())
    wanted = {*TEXTS, *CATEGORIES, "prompt_id", "split"}
    return table.select([n for n in table.column_names if n in wanted]).to_pylist()


def read_tsv(path: Path) -> list[dict[str, Any]]:
    """Rows of a .tsv with a header; quotes are text, as in PartiPrompts."""
    options = pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False)
    content = io.BytesIO(read_text(path).encode())
    try:
        return pyarrow.csv.read_csv(content, parse_options=options).to_pylist()
    except pa.ArrowException as error:
        raise EvaluationError(f"{path}: not a readable tsv table: {error}") from error


def read_list(path: Path) -> list[Any]:
    """Items of a JSON list; a bare text is a prompt."""
    content = read_json(path)
    if not isinstance(content, list):
        raise EvaluationError(f"{path}: expected a list of prompts")
    return [{"prompt": item} if isinstance(item, str) else item for item in content]


READERS: dict[str, Callable[[Path], list[Any]]] = {
    ".parquet": read_columns,
    ".csv": read_columns,
    ".tsv": read_tsv,
    ".json": read_list,
    ".jsonl": lambda path: [row for _, row in read_jsonl(path)],
    ".txt": lambda path: [
        {"prompt": line.strip()} for line in read_text(path).split("\n") if line.strip()
    ],
}


def normalised(text: str) -> str:
    """A prompt without what makes no other prompt of it: case, punctuation, runs of blanks."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.sub(r"[\W_]+", " ", folded).split())


def training_prompts(path: Path) -> list[str]:
    """Prompts that a policy was trained on: those of split train, or all where there are none."""
    rows = read_rows(path)
    if any(row.get("split") == TRAIN for row in rows):
        rows = [row for row in rows if row.get("split") == TRAIN]
    return list(dict.fromkeys(text_of(row) for row in rows))


def overlap(prompts: Iterable[str], training: Sequence[str]) -> list[str]:
    """The prompts, in their order, that are training prompts but for case and punctuation."""
    known = {normalised(text) for text in training}
    return [text for text in dict.fromkeys(prompts) if normalised(text) in known]
