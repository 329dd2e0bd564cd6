"""Votes to write to files, and the real ones where the shared data lies beside the project."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

SHARED = Path(__file__).parents[3] / ".." / "shared" / "data"


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """Return the path of a shared data file, or skip the test with the reason."""

    def find(name: str) -> Path:
        path = (SHARED / name).resolve()
        if not path.exists():
            pytest.skip(f"{name} is not in the shared data beside the project")
        return path

    return find


def make_votes(n: int = 6) -> pl.DataFrame:
    """Return n votes with every column of the schema, one hour apart."""
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
            "confidence": [1 / (i + 1) for i in range(n)],
            "split": ["train"] * n,
            "dimension": ["preference"] * n,
            "votes_a": [(3, 1, 0)[i % 3] for i in range(n)],
            "votes_b": [(1, 3, 0)[i % 3] for i in range(n)],
            "votes_tie": [(0, 0, 2)[i % 3] for i in range(n)],
        },
    ).with_columns(ranking=pl.lit(None, pl.String))


@pytest.fixture
def votes_of() -> Callable[..., pl.DataFrame]:
    return make_votes


def write_as(kind: str, votes: pl.DataFrame, path: Path) -> Path:
    """Write votes as csv, jsonl or parquet."""
    if kind == "parquet":
        votes.write_parquet(path)
    elif kind == "csv":
        votes.write_csv(path)
    else:
        votes.write_ndjson(path)
    return path


@pytest.fixture
def write_votes(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes votes in one of the table's formats."""

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
