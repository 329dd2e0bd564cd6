"""The lake: everything the pipeline writes, under one root, and the warehouse derived from it.

A folder or an object store (`assets.store`, `assets.folders`). A table is one parquet, put whole,
that polars and DuckDB read where it lies. Nothing here knows what a vote or a policy is.
"""

import fcntl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import polars as pl

from assets.content import combined_hash, remembered, table_version
from assets.folders import Folders
from assets.store import component, private_folder

WAREHOUSE = "warehouse.duckdb"


def table_name(name: str) -> str:
    """Return where the parquet of a table lies, such as votes/votes.parquet."""
    return f"{name}/{name}.parquet"


class Lake(Folders):
    """Where each stage's outputs lie.

    `lake.read("ratings")` is the table as it is now, wherever the lake lies.
    """

    def table(self, name: str) -> Path:
        """Return the parquet that is the truth of a table, brought here; absent without one."""
        return self.at(table_name(name))

    def target(self, name: str) -> Path:
        """Return where a table is written to on this machine, before `put`."""
        private_folder(self.path(name))
        return self.path(table_name(name))

    def read(self, name: str, *columns: str) -> pl.DataFrame:
        """Read a table, or only some columns of it.

        Raises FileNotFoundError saying which asset writes it.
        """
        path = self.table(name)
        if not path.exists():
            raise FileNotFoundError(
                f"{self.name}/{table_name(name)} is not there; materialise the asset that writes "
                f"{name}"
            )
        return pl.read_parquet(path, columns=list(columns) or None)

    def write(self, name: str, table: pl.DataFrame) -> str:
        """Write a table atomically and return its version (`assets.content`)."""
        with self.writing(table_name(name)) as aside:
            table.write_parquet(aside)
        return self.version(name)

    def version(self, *names: str) -> str:
        """Return the version of a table, or of several together: a hash of their values."""
        versions = [remembered("table", self.table(name), table_version) for name in names]
        return versions[0] if len(versions) == 1 else combined_hash(*versions)

    def scores(self, policy: str) -> Path:
        """Return the table of the scores of a policy's images and the baseline's."""
        return self.at(f"judgments/{component(policy)}/scores.parquet")

    def ksort(self, policy: str) -> Path:
        """Return the result of a policy's K-Sort Eval."""
        return self.at(f"judgments/{component(policy)}/ksort.json")

    @property
    def cache(self) -> Path:
        """What can be made again from the rest; it stays on this machine."""
        return self.path("cache")

    @property
    def hashes(self) -> Path:
        """The database that remembers the hashes of large files (`assets.content.known`)."""
        return self.cache / "hashes.db"

    def lock(self, name: str) -> Path:
        """Return the file whose lock stands for `name`, its folder made."""
        return private_folder(self.path(".locks")) / component(name)

    @contextmanager
    def held(self, name: str, say: Callable[[str], object]) -> Iterator[None]:
        """Hold `name` against every other process of this machine, waiting when it is taken.

        The kernel lets go when the process ends, however it ends, so nothing is left to clear.
        say: called once with a sentence when there is something to wait for.
        """
        with self.lock(name).open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"another run holds {name} of {self.name}; waiting for it to end")
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    @property
    def warehouse(self) -> Path:
        """The DuckDB database that holds votes, ratings and gaps as tables."""
        return self.at(WAREHOUSE)

    def build_warehouse(self, tables: Sequence[str]) -> None:
        """Build the DuckDB database anew from the lake's tables and swap it in.

        DuckDB lets one process in at a time, so nobody ever holds this file open for writing: a
        reader sees the old database or the new one.
        """
        with self.writing(WAREHOUSE) as aside:
            database = duckdb.connect(str(aside))
            try:
                for name in tables:
                    database.execute(
                        f"CREATE TABLE {name} AS SELECT * FROM read_parquet(?)",
                        [str(self.table(name))],
                    )
            finally:
                database.close()
