"""Text tables: delimited fields under a header, and JSON however people nest rows in it."""

import ast
import csv
import io
import itertools
import json
import re
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from arena.votes.faults import Broken, VotesError, saying, shown
from arena.votes.packed import encoding_of, head, unpacked

ROWS = 1 << 18  # in one frame
UNCLOSED = "a quote before it is never closed"
# JSON can spell half of a character, which is no text.
HALF = re.compile(r"\\u[dD][89a-fA-F]")
# How JSON wraps one text: the hub's images, and MongoDB's times and ids.
WRAPPED = ("path", "src", "$date", "$oid", "$numberLong")
DELIMITERS = ",;\t|"

# The longest field is judged by `check`, row by row; the csv module would give up on the file.
csv.field_size_limit(sys.maxsize)


class Csv:
    """Text of delimited fields under a header, in the dialects of Excel, pandas and Postgres."""

    kind = "csv"

    def __init__(self, path: Path) -> None:
        self.path, self.broken = path, Broken()
        self.columns = next((fields for fields, _ in self._records()), [])
        if len({name for name in self.columns if name}) < sum(map(bool, self.columns)):
            raise VotesError(f"{path}: two columns have one name; rename one")

    def _records(self) -> Iterator[tuple[list[str], list[str]]]:
        """Yield (the header, its names trimmed) and every filled line's fields.

        With the fields come the lines that a quote took in which is never closed, else none.
        """
        encoding = encoding_of(head(self.path))
        with (
            unpacked(self.path) as stream,
            io.TextIOWrapper(stream, encoding=encoding, newline="") as text,
            saying(self.path),
        ):
            first = text.readline()
            if first.lower().startswith("sep=") and len(first.strip()) == 5:  # Excel's own line
                first = text.readline()
            # The comma where several marks part the header into as many fields.
            mark = max(
                DELIMITERS, key=lambda one: len(next(csv.reader([first], delimiter=one), []))
            )
            since: list[str] = []  # the lines of the record that is being read

            def watched() -> Iterator[str]:
                for line in itertools.chain([first], text):
                    since.append(line)
                    yield line

            lines = csv.reader(watched(), delimiter=mark)
            yield [name.strip() for name in next(lines, [])], []
            held: list[str] = []
            of_held: list[str] = []
            since.clear()
            for fields in lines:
                if held:
                    yield held, []
                # csv.reader skips nothing: an empty line is an empty list, and no row.
                held, of_held = fields, since.copy()
                since.clear()
            if held:
                yield held, of_held if _is_unclosed(of_held, mark) else []

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        width = len(self.columns)
        for row, (fields, taken) in enumerate(itertools.islice(self._records(), 1, None), start=1):
            if taken:
                for k, line in enumerate(taken):
                    self.broken.append((row + k, "", UNCLOSED, shown(line.strip())))
            elif len(fields) == width:
                yield row, fields
            else:
                reason = f"{len(fields)} fields where the header has {width}"
                self.broken.append((row, "", reason, shown(",".join(fields))))

    def frames(self, columns: Sequence[str], coded: Sequence[str] = ()) -> Iterator[pl.DataFrame]:
        """Yield the named columns as text."""
        del coded
        there = [name for name in columns if name in self.columns]
        places = [self.columns.index(name) for name in there]
        for rows in batched(self._rows(), ROWS):
            made: dict[str, Any] = {"row": pl.Series([row for row, _ in rows], dtype=pl.Int64)}
            for name, place in zip(there, places, strict=True):
                values = [fields[place] or None for _, fields in rows]
                made[name] = pl.Series(values, dtype=pl.String)
            yield pl.DataFrame(made)

    def records(self, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the filled cells of every row; a cell that holds JSON is read."""
        wanted = [(name, k) for k, name in enumerate(self.columns) if name in columns]
        for row, fields in self._rows():
            yield row, {name: _cell(fields[k]) for name, k in wanted if fields[k]}


def _is_unclosed(lines: list[str], mark: str) -> bool:
    """Tell whether the last record ends inside a quote."""
    try:
        list(csv.reader(lines, delimiter=mark, strict=True))
    except csv.Error as error:
        return "end of data" in str(error)
    return False


def _cell(text: str) -> Any:
    """Return a csv cell; a list or an object is written as JSON, or as Python shows it."""
    if text[:1] in "[{":
        for read in (json.loads, ast.literal_eval):
            try:
                return read(text)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    return text


class Json:
    """A JSON list, one object a line, or one of the ways in which pandas and the hub nest rows."""

    kind = "json"

    def __init__(self, path: Path) -> None:
        self.path, self.broken = path, Broken()

    @cached_property
    def columns(self) -> list[str]:
        """Return the keys of all objects, in the order in which they first appear."""
        keys: dict[str, None] = {}
        for _, record in self._objects():
            if not keys.keys() >= record.keys():
                keys |= dict.fromkeys(record)
        self.broken.clear()
        return list(keys)

    def _objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the objects that are whole, and note the others."""
        for row, value in enumerate(self._values(), start=1):
            if isinstance(value, _NoJson):
                self.broken.append((row, "", value.reason, value.text))
            elif isinstance(value, dict):
                yield row, value
            else:
                self.broken.append((row, "", "not a JSON object", shown(value)))

    def _values(self) -> Iterator[Any]:
        encoding = encoding_of(head(self.path))
        with unpacked(self.path) as stream, saying(self.path):
            text = io.TextIOWrapper(stream, encoding=encoding)
            first = ""
            while not first.strip():
                first = text.readline()
            if first.lstrip()[0] == "[":
                yield from _items(first + text.read())
                return
            try:
                record = json.loads(first)
            except (ValueError, RecursionError):
                record = None
            second = next((each for each in text if each.strip()), "")
            if second and (record is not None or second.lstrip()[0] == "{"):
                lines = itertools.chain([first, second], text)
                yield from map(_parsed, (each for each in lines if each.strip()))
            else:
                whole = first if record is not None else first + second + text.read()
                half = HALF.search(whole) is not None
                yield from (_judged(each, half) for each in _unnested(json.loads(whole)))

    def records(self, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield every object, whole."""
        del columns
        yield from self._objects()

    def frames(self, columns: Sequence[str], coded: Sequence[str] = ()) -> Iterator[pl.DataFrame]:
        """Yield the named keys as text."""
        del coded
        for rows in batched(self._objects(), ROWS):
            yield frame_of(rows, [name for name in columns if name in self.columns])


class _NoJson:
    """A line that is no JSON: what is wrong with it, and how it begins."""

    def __init__(self, reason: str, text: str = "") -> None:
        self.reason, self.text = reason, shown(text)


def _parsed(text: str) -> Any:
    try:
        return _judged(json.loads(text), HALF.search(text) is not None)
    except (ValueError, RecursionError) as error:
        said = error.msg if isinstance(error, json.JSONDecodeError) else "a number or nesting"
        return _NoJson(f"not JSON ({said})", text.strip())


def _judged(value: Any, half: bool) -> Any:
    """Return a value, unless it holds half of a character; half: whether its file may."""
    if half:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except (UnicodeEncodeError, RecursionError):
            return _NoJson("not text (half of a character)")
    return value


def _items(text: str) -> Iterator[Any]:
    """Yield the items of a JSON list one after another, so that one at a time is in memory."""
    decoder = json.JSONDecoder()
    skip = json.decoder.WHITESPACE.match  # type: ignore[attr-defined]
    half = HALF.search(text) is not None
    place = skip(text, text.index("[") + 1).end()
    if text[place : place + 1] == "]":
        return
    while True:
        value, place = decoder.raw_decode(text, place)
        yield _judged(value, half)
        place = skip(text, place).end()
        mark = text[place : place + 1]
        if mark == "]":
            return
        if mark != ",":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, place)
        place = skip(text, place + 1).end()


def _unnested(document: Any) -> list[Any]:
    """Return the rows of one JSON object, else the object itself.

    The hub's viewer has `rows` of `row`; pandas has orientations: split, table, index and columns;
    GenAI-Bench has an object of prompts, each with its `models`; others wrap a list under one key.
    """
    if not isinstance(document, dict):
        return [document]
    rows, data, names = (document.get(key) for key in ("rows", "data", "columns"))
    if isinstance(rows, list) and all(isinstance(r, dict) and "row" in r for r in rows):
        return [each["row"] for each in rows]
    if isinstance(data, list) and isinstance(names, list):
        return [dict(zip(names, row, strict=False)) for row in data]
    inner = list(document.values())
    listed = data if "schema" in document else inner[0] if len(inner) == 1 else None
    if isinstance(listed, list) and all(isinstance(each, dict) for each in listed):
        return listed
    if not inner or not all(isinstance(each, dict) and each for each in inner):
        return [document]
    if all("models" in each for each in inner):
        return [{"prompt_id": key, **each} for key, each in document.items()]
    index = list(inner[0])
    if all(key.isdigit() for key in index) and all(list(each) == index for each in inner):
        return [{name: document[name][key] for name in document} for key in index]
    return inner if all(key.isdigit() for key in document) else [document]


def as_text(value: Any) -> str | None:
    """Return a JSON value as text; an empty one and NaN are null, as in every csv."""
    if isinstance(value, str):
        return value or None
    if value is None or value != value:
        return None
    if isinstance(value, dict):
        inner = next((value[key] for key in WRAPPED if value.get(key)), None)
        if isinstance(inner, str | int | dict):
            return as_text(inner)
    if isinstance(value, bool) or not isinstance(value, int | float):
        try:
            return json.dumps(value, default=str)
        except (RecursionError, ValueError):
            return "(nested too deeply)"
    return repr(value)


def frame_of(records: Sequence[tuple[int, dict[str, Any]]], columns: Sequence[str]) -> pl.DataFrame:
    """Return records as a frame of `row` and columns of text."""
    rows = {"row": pl.Series([row for row, _ in records], dtype=pl.Int64)}
    texts = {
        name: pl.Series([as_text(record.get(name)) for _, record in records], dtype=pl.String)
        for name in columns
    }
    return pl.DataFrame(rows | texts)


def batched(rows: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of at most `size` rows; an empty source yields one empty list."""
    some = list(itertools.islice(rows, size))
    yield some
    while len(some) == size:
        some = list(itertools.islice(rows, size))
        if some:
            yield some
