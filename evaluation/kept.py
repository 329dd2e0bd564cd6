"""Scores kept from before, so that none is computed twice.

One SQLite file beside the table: (scorer's content, image's content, prompt) -> numbers. An
interrupted scoring goes on, a baseline is scored once for all policies that it is compared with,
and the processes of one job put their parts together here.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

TABLE = """create table if not exists kept (
    scorer text, image text, prompt text, numbers blob, primary key (scorer, image, prompt)
) without rowid"""
NAMES = "create table if not exists names (scorer text primary key, also text)"
Key = tuple[str, str]  # digest of the image's bytes, digest of the prompt


def key_of(image: bytes, prompt: str) -> Key:
    """What an image and its prompt are known by."""
    said = prompt.encode("utf-8", "surrogatepass")
    return hashlib.sha256(image).hexdigest(), hashlib.sha256(said).hexdigest()


class Kept:
    """Numbers kept in a file, or for now only (None); safe for several processes at once.

    Example: `Kept(path).put(content, {key: [0.3]})`, then `Kept(path).get(content, [key])`.
    """

    def __init__(self, path: Path | None):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self.connection = sqlite3.connect(path or ":memory:", timeout=600)
        self.connection.execute(TABLE)
        self.connection.execute(NAMES)
        self.connection.commit()

    def get(self, scorer: str, keys: Iterable[Key]) -> dict[Key, np.ndarray]:
        """What is kept for a scorer's content: key -> float64 (k,)."""
        query = "select numbers from kept where scorer = ? and image = ? and prompt = ?"
        found = {}
        for key in keys:
            row = self.connection.execute(query, (scorer, *key)).fetchone()
            if row is not None:
                found[key] = np.frombuffer(row[0])
        return found

    def put_names(self, scorer: str, also: Sequence[str]) -> None:
        """Keep what a scorer's further numbers are called."""
        with self.connection:
            row = (scorer, "\n".join(also))
            self.connection.execute("insert or replace into names values (?, ?)", row)

    def names(self, scorer: str) -> list[str]:
        """What a scorer's further numbers are called."""
        query = "select also from names where scorer = ?"
        row = self.connection.execute(query, (scorer,)).fetchone()
        return row[0].split("\n") if row is not None and row[0] else []

    def put(self, scorer: str, found: Sequence[tuple[Key | None, np.ndarray]]) -> None:
        """Keep numbers, durably; of a file that could not be read there are none."""
        rows = [
            (scorer, *key, np.asarray(numbers, float).tobytes())
            for key, numbers in found
            if key is not None
        ]
        with self.connection:
            self.connection.executemany("insert or replace into kept values (?, ?, ?, ?)", rows)
