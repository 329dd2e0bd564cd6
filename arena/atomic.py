"""Files that appear whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; flush it and rename it to `path` at the end.

    A reader sees the old file or the new one, never half of one, and after an error the old one
    is untouched. Folders are made as needed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Nobody can plant a link under a name that cannot be guessed.
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.{os.getpid()}.partial")
    try:
        yield aside
        with aside.open("rb+") as stream:
            os.fsync(stream.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def writes(aside: Path) -> bool:
    """Tell whether the process that `replacing` gave this path still lives."""
    number = aside.name.split(".")[-2]
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError):
        return True
    return True
