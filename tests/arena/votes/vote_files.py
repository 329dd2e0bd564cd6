"""Votes to write to files, and the real ones where the shared data lies beside the project."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from arena.votes.read import Reading, read_votes

SHARED = Path(__file__).parents[3] / ".." / "shared"


def shared_path(name: str) -> Path:
    """Return the path of a shared file, or skip the test with the reason."""
    path = (SHARED / name).resolve()
    if not path.exists():
        pytest.skip(f"shared/{name} is not beside the project")
    return path


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """Return a function that finds a file of the shared data."""
    return lambda name: shared_path(f"data/{name}")


@pytest.fixture
def case() -> Callable[..., Reading]:
    """Return a function that reads files of the shared cases."""

    def read(*names: str, **how: Any) -> Reading:
        reading = read_votes([shared_path(f"cases/votes/{name}") for name in names], **how)
        adds_up(reading)
        return reading

    return read


def adds_up(reading: Reading) -> Reading:
    """Assert that no row is lost, in any file and in all; return the reading."""
    for file in reading.files:
        assert file.rows == file.accepted + file.rejected + file.duplicates
    assert reading.rows == reading.accepted + reading.rejected.height + reading.duplicates
    assert reading.votes["vote_id"].n_unique() == reading.votes.height
    return reading


def make_votes(n: int = 6) -> pl.DataFrame:
    """Return n votes with every column that a file may have, one hour apart."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return pl.DataFrame(
        {
            "vote_id": [f"v{i}" for i in range(n)],
            "source": ["club"] * n,
            "model_a": [("x", "y", "z")[i % 3] for i in range(n)],
            "model_b": [("y", "z", "x")[i % 3] for i in range(n)],
            "outcome": [("a", "b", "tie")[i % 3] for i in range(n)],
            "prompt_id": [f"p{i // 2}" for i in range(n)],
            "prompt": [f'a cat, "red"\nand {i // 2}' for i in range(n)],
            "image_a": [f"{i}-a.png" for i in range(n)],
            "image_b": [f"{i}-b.png" for i in range(n)],
            "rater": [f"r{i % 2}" for i in range(n)],
            "created_at": [start + timedelta(hours=i) for i in range(n)],
            "split": ["train"] * n,
            "dimension": ["preference"] * n,
            "votes_a": [(3, 1, 0)[i % 3] for i in range(n)],
            "votes_b": [(1, 3, 0)[i % 3] for i in range(n)],
            "votes_tie": [(0, 0, 2)[i % 3] for i in range(n)],
            "anonymous": [i % 2 == 0 for i in range(n)],
        },
    )


@pytest.fixture
def votes_of() -> Callable[..., pl.DataFrame]:
    return make_votes


def write_as(kind: str, votes: pl.DataFrame, path: Path) -> Path:
    """Write votes as csv, json, jsonl or parquet."""
    if kind == "parquet":
        votes.write_parquet(path)
    elif kind == "csv":
        votes.write_csv(path)
    elif kind == "json":
        votes.write_json(path)
    else:
        votes.write_ndjson(path)
    return path


@pytest.fixture
def write_votes(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes votes in one of the table's containers."""

    def write(kind: str, votes: pl.DataFrame, name: str | None = None) -> Path:
        return write_as(kind, votes, tmp_path / (name or f"votes.{kind}"))

    return write


@pytest.fixture
def write_json(tmp_path: Path) -> Callable[[Any], Path]:
    """Return a function that writes a value as a JSON file."""

    def write(value: Any, name: str = "votes.json") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
        return path

    return write


@pytest.fixture
def read_text(tmp_path: Path) -> Callable[..., Reading]:
    """Return a function that reads a file with this content (text or bytes)."""

    def read(content: str | bytes, name: str = "votes.csv", **how: Any) -> Reading:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return adds_up(read_votes([path], **how))

    return read


@pytest.fixture
def read_records(tmp_path: Path) -> Callable[..., Reading]:
    """Return a function that reads records, written as a JSON list."""

    def read(*records: Any, **how: Any) -> Reading:
        path = tmp_path / "records.json"
        path.write_text(json.dumps(records))
        return adds_up(read_votes([path], **how))

    return read
