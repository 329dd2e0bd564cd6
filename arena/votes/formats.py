"""Which format a votes file has, told by its content and never by its name.

A new format is one reader that yields `Raw` or `RawRankings`, one line in `READERS`, one in
`_format_of_record` or `_format_of_columns`, and one test of it on a real file.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from arena.votes.battles import read_battles
from arena.votes.files import PARQUET, head, parquet_columns
from arena.votes.hpd import read_hpd_v2, read_hpd_v3
from arena.votes.kwise import read_imagereward, read_ksort
from arena.votes.likert import is_likert, read_likert
from arena.votes.pickapic import read_pickapic
from arena.votes.rankings import read_rankings
from arena.votes.raw import Raw, RawRankings, VotesError
from arena.votes.table import read_csv, read_jsonl, read_parquet

READERS: dict[str, Callable[[Path], Iterator[Raw | RawRankings]]] = {
    "parquet": read_parquet,
    "csv": read_csv,
    "jsonl": read_jsonl,
    "rankings": read_rankings,
    "battles": read_battles,
    "pickapic": read_pickapic,
    "hpd_v3": read_hpd_v3,
    "hpd_v2": read_hpd_v2,
    "imagereward": read_imagereward,
    "ksort": read_ksort,
    "likert": read_likert,
}


def format_of(path: Path) -> str:
    """Return the key in `READERS` for a file. Raises VotesError where there is nothing to read."""
    start = head(path)
    if start.startswith(PARQUET):
        return _format_of_columns(parquet_columns(path))
    if start[257:262] == b"ustar":
        return "pickapic"
    text = start.decode("utf-8-sig", "replace").lstrip()
    if not text:
        raise VotesError(f"{path}: the file is empty; give a votes table or a battles file")
    if text[0] == "[":
        return _format_of_record(_first(text[1:].lstrip()), "battles")
    if text[0] == "{":
        return _format_of_object(text)
    header = next(csv.reader(text.splitlines()), [])
    return "likert" if is_likert(header) and "outcome" not in header else "csv"


def _format_of_columns(columns: Iterable[str]) -> str:
    there = set(columns)
    if {"label_0", "label_1"} & there:
        return "pickapic"
    return "rankings" if "ranks" in there and "outcome" not in there else "parquet"


def _format_of_object(text: str) -> str:
    """Tell one object a line from one object a file, and that from an object of prompts."""
    record = _first(text)
    if record is not None:
        inner = next(iter(record.values()), None)
        return "likert" if _has_scores(inner) else _format_of_record(record, "jsonl")
    # Longer than the head: an object of prompts begins with a key and another object.
    inner = _first(text[text.find("{", 1) :]) if text.find("{", 1) > 0 else None
    return "likert" if _has_scores(inner) else "jsonl"


def _has_scores(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("models"), dict)


def _format_of_record(record: dict[str, Any] | None, otherwise: str) -> str:
    keys = set(record or ())
    if "ranks" in keys:
        return "rankings"
    if {"img_rank", "models_name"} & keys:
        return "ksort"
    if {"generations", "ranking"} & keys:
        return "imagereward"
    if {"path1", "path2"} & keys:
        return "hpd_v3"
    if "outcome" in keys:
        return "jsonl"
    if "image_path" in keys or "human_preference" in keys:
        return "hpd_v2"
    return "battles" if "winner" in keys else otherwise


def _first(text: str) -> dict[str, Any] | None:
    """Return the JSON object that a text begins with, None where there is none or half of one."""
    try:
        value, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
