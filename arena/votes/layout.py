"""What a format is: which columns of a file are which of the schema, and what is special to it."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import filter as names_like
from typing import Any

import polars as pl

from arena.schema import REQUIRED
from arena.votes.faults import Broken

Record = tuple[int, dict[str, Any]]  # row, the columns that it has
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


class Watched(dict[str, Any]):
    """A record that notes in `seen` which of its keys are asked for."""

    def __init__(self, record: Mapping[str, Any], seen: set[str]) -> None:
        super().__init__(record)
        self.seen = seen

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value, and note its key."""
        self.seen.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.seen.add(key)
        return super().__getitem__(key)


@dataclass(frozen=True)
class Format:
    """One published layout, in whatever container.

    name: how `--format` calls it. origin: where the layout is published. signs: a file that has all
    columns of one of these has the layout; `a|b` is either, `*` any letters. lacks: columns that it
    never has. columns: the schema's columns and the names that the file may give each, of which the
    first that is there counts. also: further columns that are read, by name or pattern. needs: what
    a file must have. frame: completes a frame of the schema's columns and `also`; it is given the
    dimension asked for. records: yields votes (the schema's columns) and K-wise votes (with
    `ranks`) from whole records instead, each with its row. All names are without case, blanks and
    hyphens: "Model A" and modelA are model_a.
    """

    name: str
    origin: str
    signs: Sequence[str]
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    also: Sequence[str] = ()
    needs: Sequence[str] = REQUIRED
    lacks: Sequence[str] = ()
    frame: Callable[[pl.DataFrame, str | None], pl.DataFrame] | None = None
    records: Callable[[Iterator[Record], Found], Iterator[Record]] | None = None


@dataclass(frozen=True)
class Plan:
    """How one file is read. format: its layout. names: the schema's column -> the file's.

    also: the file's further columns that are read. spelled: the file's columns -> as a format
    spells them, or as they are where another column has that spelling.
    """

    format: Format
    names: dict[str, str]
    also: list[str]
    spelled: dict[str, str]


def plan_of(
    columns: Sequence[str],
    formats: Mapping[str, Format],
    given: Mapping[str, str],
    name: str | None = None,
) -> Plan:
    """Decide from a file's columns which layout it has and which column is which.

    formats: in the order in which they are asked. given: the schema's column -> the file's, which a
    person told. name: of the layout, None where the columns shall tell it; the votes table is taken
    where none is known, and where a person told the outcome.
    """
    names = [*columns, *given.values()]
    parts = re.compile(r"[^\w.]+|(?<=[a-z])(?=[A-Z])")
    shorts = {each: parts.sub("_", each).lower().strip("_") for each in names}
    there: dict[str, str] = {}
    for column in columns:
        short = shorts[column]
        if short not in there or column == short:  # a name that needs no change goes first
            there[short] = column
    spelled = dict(zip(columns, columns, strict=True))
    spelled |= dict(zip(there.values(), there, strict=True))
    known = {*there, *given}
    asked = formats.values() if name is None and "outcome" not in given else ()
    for one in asked:
        if known.isdisjoint(one.lacks) and any(
            all(
                not known.isdisjoint(part.split("|")) or ("*" in part and names_like(known, part))
                for part in sign.split()
            )
            for sign in one.signs
        ):
            name = one.name
            break
    layout = formats[name or "table"]
    found = {ours: n if n in spelled else there.get(shorts[n], "") for ours, n in given.items()}
    found = {ours: name for ours, name in found.items() if name}
    left = {ours: options for ours, options in layout.columns.items() if ours not in given}
    for a, b in SIDES:
        for pair in zip(left.get(a, ()), left.get(b, ()), strict=False):
            if there.keys() >= set(pair):
                found |= {a: there[pair[0]], b: there[pair[1]]}
                del left[a], left[b]
                break
    taken = set(found.values())
    for ours, options in left.items():
        for option in options:
            if option in there:
                if there[option] not in taken:
                    found[ours] = there[option]
                    taken.add(there[option])
                break
    also = list(columns) if layout.records else []
    for pattern in layout.also:
        if pattern in there:
            also.append(there[pattern])
        elif "*" in pattern:
            also += [there[short] for short in names_like(there, pattern)]
    return Plan(layout, found, also, spelled)


Where = pl.Expr | pl.Series


def decided(a: Where, b: Where, tie: Where, told: pl.Expr | None = None) -> pl.Expr:
    """Return the outcome where one of three conditions holds, else what is told instead."""
    outcome = pl.when(tie).then(pl.lit("tie")).when(a).then(pl.lit("a")).when(b).then(pl.lit("b"))
    return outcome.otherwise(told)


def first(values: Iterable[Any]) -> Any:
    """Return the first value, None where there is none."""
    return next(iter(values), None)


def told(record: Mapping[str, Any], columns: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return a record under the schema's names: of a column's names the first that is filled."""
    return {
        ours: first(record[name] for name in names if record.get(name) is not None)
        for ours, names in columns.items()
    }


def is_path(name: str) -> bool:
    """Tell whether an image's name is a path: not a URL, not a tar's member, not a bare id."""
    if re.match(r"^[a-z][a-z0-9+.-]*://", name) or "::" in name or len(name) > 4096:
        return False
    return "/" in name or "\\" in name or bool(PICTURE.search(name))


def listed(value: Any) -> list[Any]:
    """Return a value where it is a list, an empty one for anything else."""
    return value if isinstance(value, list) else []
