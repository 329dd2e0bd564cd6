"""The lake: everything the pipeline writes, under one root, and the warehouse derived from it.

A file appears whole or not at all: it is written beside its place, flushed and renamed. Folders
that are made here are their owner's only. A name that becomes part of a path is one plain
component. Nothing here knows what a vote or a policy is.
"""

import fcntl
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import polars as pl

from arena.atomic import replacing, writes
from assets.content import combined_hash, remembered, table_version


def component(name: str) -> str:
    """Return a name that is one plain component of a path; raise ValueError for any other one."""
    if name in ("", ".", "..") or set(name) & set("/\\") or not name.isprintable():
        raise ValueError(f"{name!r} cannot be a folder of the lake: it has to be one plain name")
    return name


def private_folder(path: Path) -> Path:
    """Make a folder and those above it, as far as they are missing, for their owner only."""
    for each in reversed([path, *path.parents]):
        each.mkdir(mode=0o700, exist_ok=True)
    return path


@dataclass(frozen=True)
class Lake:
    """Where each stage's outputs lie under `root`."""

    root: Path

    def table(self, name: str) -> Path:
        """Return the parquet that is the truth of a table, such as votes/votes.parquet."""
        return self.root / name / f"{name}.parquet"

    def read(self, name: str, *columns: str) -> pl.DataFrame:
        """Read a table, or only some columns of it.

        Raises FileNotFoundError saying which asset writes it.
        """
        path = self.table(name)
        if not path.exists():
            raise FileNotFoundError(
                f"{path} is not there; materialise the asset that writes {name}"
            )
        return pl.read_parquet(path, columns=list(columns) or None)

    def write(self, name: str, table: pl.DataFrame) -> str:
        """Write a table atomically and return its version (`assets.content`)."""
        private_folder(self.table(name).parent)
        with replacing(self.table(name)) as aside:
            table.write_parquet(aside)
        return self.version(name)

    def version(self, *names: str) -> str:
        """Return the version of a table, or of several together: a hash of their values."""
        versions = [remembered("table", self.table(name), table_version) for name in names]
        return versions[0] if len(versions) == 1 else combined_hash(*versions)

    def scores(self, policy: str) -> Path:
        """Return the table of the scores of a policy's images and the baseline's."""
        return self.root / "judgments" / component(policy) / "scores.parquet"

    def ksort(self, policy: str) -> Path:
        """Return the result of a policy's K-Sort Eval."""
        return self.root / "judgments" / component(policy) / "ksort.json"

    @property
    def hashes(self) -> Path:
        """The database that remembers the hashes of large files (`assets.content.known`)."""
        return self.root / "cache" / "hashes.db"

    def lock(self, name: str) -> Path:
        """Return the file whose lock stands for `name`, its folder made."""
        return private_folder(self.root / ".locks") / component(name)

    @contextmanager
    def held(self, name: str, say: Callable[[str], object]) -> Iterator[None]:
        """Hold `name` against every other process, waiting for it when it is taken.

        The kernel lets go when the process ends, however it ends, so nothing is left to clear.
        say: called once with a sentence when there is something to wait for.
        """
        with self.lock(name).open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"another run holds {name} of {self.root}; waiting for it to end")
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    def sweep(self) -> list[Path]:
        """Delete what writers left beside its place when they were killed; return it."""
        left = [path for path in self.root.rglob(".*.partial") if not writes(path)]
        for path in left:
            path.unlink(missing_ok=True)
        return left

    @property
    def warehouse(self) -> Path:
        """The DuckDB database that holds votes, ratings and gaps as tables."""
        return self.root / "warehouse.duckdb"

    def build_warehouse(self, tables: Mapping[str, Path]) -> None:
        """Build the DuckDB database anew from parquet files and swap it in.

        DuckDB lets one process in at a time, so nobody ever holds this file open for writing: a
        reader sees the old database or the new one.
        """
        with replacing(self.warehouse) as aside:
            database = duckdb.connect(str(aside))
            try:
                for name, path in tables.items():
                    database.execute(
                        f"CREATE TABLE {name} AS SELECT * FROM read_parquet(?)", [str(path)]
                    )
            finally:
                database.close()

    def current(self, stage: str, key: str) -> Path:
        """Return the link to the finished folder of a stage's partition, such as policies/dpo."""
        return self.root / stage / component(key) / "current"

    def folder(self, stage: str, key: str, version: str) -> Path:
        """Return the folder a stage's partition is made in, apart for every version of its inputs.

        A job that was killed finds its own work there again; one with other inputs never does.
        """
        return private_folder(self.root / stage / component(key) / component(version))

    def publish(self, stage: str, key: str, version: str) -> Path:
        """Make the folder of `version` the current one, then clear the versions before it."""
        link = self.current(stage, key)
        aside = link.with_name(f".current.{uuid.uuid4().hex}")
        aside.symlink_to(version, target_is_directory=True)
        aside.replace(link)
        for other in link.parent.iterdir():
            if other.is_dir() and not other.is_symlink() and other.name != version:
                shutil.rmtree(other)
        return link.resolve()
