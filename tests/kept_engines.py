"""One SQLAlchemy engine per SQLite file of Dagster's, for as long as the tests run.

Dagster makes a new engine for every connection, which looks at its dialect and compiles each
statement anew: a large part of a chain whose jobs take milliseconds. The connections are as they
were: each is opened for its use, and closed after it.
"""

from functools import lru_cache
from typing import Any

import sqlalchemy
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage


@lru_cache(maxsize=256)
def kept(url: str, poolclass: type, timeout: float | None) -> sqlalchemy.Engine:
    """Return the engine of this file."""
    given = {} if timeout is None else {"connect_args": {"timeout": timeout}}
    return sqlalchemy.create_engine(url, poolclass=poolclass, **given)


def engine(url: str, poolclass: type, connect_args: dict[str, Any] | None = None) -> Any:
    """Stand for `create_engine` as Dagster calls it."""
    return kept(url, poolclass, (connect_args or {}).get("timeout"))


def keep_engines() -> None:
    """Have Dagster's storages take theirs from here."""
    for module in (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage):
        module.create_engine = engine
