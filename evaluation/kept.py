"""Scores kept from before, so that none is computed twice.

One SQLite file beside the table: (scorer's content, image's content, prompt) -> numbers. An
interrupted scoring goes on, a baseline is scored once for all policies that it is compared with,
and the processes of one job put their parts together here.
"""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from evaluation.errors import EvaluationError

TABLES = """
create table if not exists kept (
    scorer text, image text, prompt text, numbers blob, primary key (scorer, image, prompt)
) without rowid;
create table if not exists names (scorer text primary key, also text);
"""
Key = tuple[str, str]  # digest of the image's bytes, digest of the prompt


class Kept:
    """Numbers kept in a file, or for now only (None); safe for several processes at once.

    Example: `Kept(path).put(content, {key: [0.3]})`, then
    `Kept(path).get(content, [key])`.
    """

    def __init__(self, path: Path | None):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.connection = sqlite3.connect(path or ":memory:", timeout=600)
            self.connection.executescript(TABLES)
        except sqlite3.DatabaseError as error:
            raise EvaluationError(
                f"{path}: holds no kept scores ({error}); delete it, or give another --kept"
            ) from error

    def get(self, scorer: str, keys: Iterable[Key]) -> tuple[dict[Key, np.ndarray], list[str]]:
        """What is kept for a scorer's content: key -> float64 (k,), and what the numbers after the
        first, the score, are called."""
        query = "select numbers from kept where scorer = ? and image = ? and prompt = ?"
        rows = {key: self.connection.execute(query, (scorer, *key)).fetchone() for key in keys}
        query = "select also from names where scorer = ? and also <> ''"
        (also,) = self.connection.execute(query, (scorer,)).fetchone() or ("",)
        found = {key: np.frombuffer(row[0]) for key, row in rows.items() if row is not None}
        return found, also.split("\n") if also else []

    def put(self, scorer: str, found: Mapping[Key, np.ndarray], also: Sequence[str] = ()) -> None:
        """Keep numbers, durably; also : what the numbers after the score are called."""
        rows = [(scorer, *key, np.asarray(one, float).tobytes()) for key, one in found.items()]
        with self.connection:
            self.connection.executemany("insert or replace into kept values (?, ?, ?, ?)", rows)
            named = (scorer, "\n".join(also))
            self.connection.execute("insert or replace into names values (?, ?)", named)
