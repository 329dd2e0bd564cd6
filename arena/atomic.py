"""Files that appear whole or not at all."""

import os
import platform
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

HOST = platform.node().partition(".")[0]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; flush it and rename it to `path` at the end.

    A reader sees the old file or the new one, never half of one, and after an error the old one
    is untouched. Folders are made as needed. What a process that was killed has left in the folder
    is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(path.parent.resolve())
    # Nobody can plant a link under a name that cannot be guessed.
    mark = f"{secrets.token_hex(8)}@{HOST}.{os.getpid()}"
    aside = path.with_name(f".{path.name}.{mark}.partial")
    try:
        yield aside
        with aside.open("rb+") as stream:
            os.fsync(stream.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@cache  # a process looks once into each folder: some hold a hundred thousand files
def _remove_left(folder: Path) -> None:
    for left in folder.glob(".*.partial"):
        if left.is_file() and not writes(left):
            left.unlink(missing_ok=True)


def writes(aside: Path) -> bool:
    """Tell whether the process that `replacing` gave this path still lives.

    One of another host is taken to live: it cannot be asked from here.
    """
    *_, mark, number, _ = ("", *aside.name.split("."))
    if mark.partition("@")[2] not in ("", HOST):
        return True
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError):
        return True
    return True
