"""How large things are and how long they take, for a table that people read."""

from pathlib import Path


def size(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(each.stat().st_size for each in path.resolve().rglob("*") if each.is_file())


def in_words(seconds: float) -> str:
    """Return a duration: 4 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def as_bytes(count: int) -> str:
    """Return a size: 12 kB, 3.4 MB, 56 GB."""
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if count >= 10**power:
            return f"{count / 10**power:.{1 if count < 10 ** (power + 1) else 0}f} {unit}"
    return f"{count} B"
