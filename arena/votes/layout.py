"""What a format is: which columns of a file are which of the schema, and what is special to it."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from arena.schema import REQUIRED
from arena.votes.faults import Broken

Record = tuple[int, dict[str, Any]]  # row, the columns that it has
NO_NAMES: Mapping[str, str] = {}
PICTURE = re.compile(r"\.(png|jpe?g|jfif|webp|gif|bmp|tiff?|avif|jxl)$", re.IGNORECASE)

# Both sides of a comparison are named by one habit: a file's names are taken together.
SIDES = (("model_a", "model_b"), ("image_a", "image_b"), ("votes_a", "votes_b"))


@dataclass
class Found:
    """What a format that gathers votes from records says of those that are none.

    broken: (row, column, reason, value). skipped: reason -> how many rows hold no vote, by right.
    """

    broken: Broken = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    repeated: int = 0

    def fault(self, row: int, column: str, reason: str, value: str | None = None) -> None:
        """Note a row that should be a vote and cannot be."""
        self.broken.append((row, column, reason, value))

    def skip(self, reason: str, count: int = 1) -> None:
        """Note rows that are no votes, and no faults."""
        self.skipped[reason] = self.skipped.get(reason, 0) + count


@dataclass(frozen=True)
class Format:
    """One published layout, in whatever container.

    name: how `--format` calls it. origin: where the layout is published. tells: whether a file with
    these columns (in lower case) has it. columns: the schema's columns and the names that the file
    may give each, the first that is there counts. also: further columns that are read. needs: what
    a file must have. frame: completes a frame of the schema's columns and `also`; it is given the
    dimension asked for. records: yields votes (the schema's columns) and K-wise votes (with
    `ranks`) from records instead, each with its row.
    """

    name: str
    origin: str
    tells: Callable[[set[str]], bool]
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    also: Callable[[Sequence[str]], Sequence[str]] = lambda columns: ()
    needs: Sequence[str] = REQUIRED
    frame: Callable[[pl.DataFrame, str | None], pl.DataFrame] | None = None
    records: Callable[[Iterator[Record], Found], Iterator[Record]] | None = None

    def resolve(self, there: Sequence[str], given: Mapping[str, str] = NO_NAMES) -> dict[str, str]:
        """Return the schema's column -> the file's, by name whatever the case.

        given: names that a person told, which go before the format's.
        """
        spelled = {name.lower(): name for name in reversed(there)}
        names = {ours: theirs for ours, theirs in self.columns.items() if ours not in given}
        found = {ours: theirs for ours, theirs in given.items() if theirs in there}
        for pair in SIDES:
            options = [names.pop(side, ()) for side in pair]
            both = next((p for p in zip(*options, strict=False) if spelled.keys() >= set(p)), None)
            if both:
                found |= {side: spelled[name] for side, name in zip(pair, both, strict=True)}
            else:
                names |= dict(zip(pair, options, strict=True))
        for ours, theirs in names.items():
            name = next((spelled[name] for name in theirs if name in spelled), None)
            if name is not None and name not in found.values():
                found[ours] = name
        return found


def has(*names: str) -> Callable[[set[str]], bool]:
    """Return a test for all of these columns."""
    return lambda there: there.issuperset(names)


def first(values: Iterable[Any]) -> Any:
    """Return the first value, None where there is none."""
    return next(iter(values), None)


def is_path(name: str) -> bool:
    """Tell whether an image's name is a path: not a URL, not a tar's member, not a bare id."""
    if re.match(r"^[a-z][a-z0-9+.-]*://", name) or "::" in name or len(name) > 4096:
        return False
    return "/" in name or "\\" in name or bool(PICTURE.search(name))


def listed(value: Any) -> list[Any]:
    """Return a value where it is a list, an empty one for anything else."""
    return value if isinstance(value, list) else []
