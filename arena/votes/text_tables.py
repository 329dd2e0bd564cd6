"""Text tables: delimited fields under a header, and JSON however people nest rows in it."""

import ast
import csv
import io
import itertools
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import polars as pl

from arena.votes.faults import Broken, VotesError, shown
from arena.votes.limits import MOST_COLUMNS
from arena.votes.packed import opened

ROWS = 1 << 18  # in one frame
UNCLOSED = "a quote before it is never closed"
# JSON can spell half of a character, which is no text.
HALF = re.compile(r"\\u[dD][89a-fA-F]")
# How JSON wraps one text: the hub's images, MongoDB's times and ids, an object with a name.
WRAPPED = ("path", "src", "$date", "$oid", "$numberLong", "name")
# Under which key people put the list of their votes.
LISTS = ("votes", "data", "records", "battles", "items")
DELIMITERS = ",;\t|"
# A list as numpy shows it, and with it pandas: no commas.
ITEM = re.compile(r"""'[^'\\]*'|"[^"\\]*"|[-+\w.]+""")
SPACED = re.compile(rf"\[\s*(?:{ITEM.pattern})(?:\s+(?:{ITEM.pattern}))+\s*\]")
skip = json.decoder.WHITESPACE.match  # type: ignore[attr-defined]
END = "\ue000 the file ends here"  # in a letter that no text has

# The longest field is judged by `check`, row by row; the csv module would give up on the file.
csv.field_size_limit(sys.maxsize)


class Csv:
    """Text of delimited fields under a header, in the dialects of Excel, pandas and Postgres."""

    kind = "csv"

    def __init__(self, text: TextIO) -> None:
        self.broken: Broken = []
        first = next(filter(str.strip, text), "")
        if re.fullmatch(r"(?i)sep=.", first.strip().strip('"')):  # Excel's own line
            first = text.readline()
        self.mark, most = ",", 0  # the comma where several marks part the header alike
        for mark in DELIMITERS:
            fields = len(next(csv.reader([first], delimiter=mark), ()))
            if fields > most:
                self.mark, most = mark, fields
        # The last line is ours: a quote that is never closed takes it in.
        self.lines = csv.reader(itertools.chain([first], text, [END]), delimiter=self.mark)
        self.columns = list(map(str.strip, next(self.lines)))
        filled = list(filter(None, self.columns))
        if len(set(filled)) < len(filled):
            raise VotesError("two columns have one name; rename one")

    def frames(self, columns: Sequence[str], coded: Sequence[str] = ()) -> Iterator[pl.DataFrame]:
        """Yield the named columns as text."""
        there = [name for name in dict.fromkeys(columns) if name in self.columns]
        row, width = 0, len(self.columns)
        while batch := list(itertools.islice(self.lines, ROWS)):
            # An empty line is an empty list, and no row.
            last = batch.pop() if "".join(batch[-1]).endswith(END) else [END]
            filled = list(filter(None, batch))
            whole = [fields for fields in filled if len(fields) == width]
            made = {"row": pl.int_range(row + 1, row + 1 + len(whole), eager=True)}
            if len(whole) < len(filled):
                made["row"] = pl.Series(self._of_width(filled, row), dtype=pl.Int64)
            row += len(filled)
            if last != [END]:
                self._say_unclosed(last, row)
            for name in there:
                place = self.columns.index(name)
                column = pl.Series([fields[place] or None for fields in whole], dtype=pl.String)
                if name in coded:
                    column = column.cast(pl.Enum(column.drop_nulls().unique().sort()))
                made[name] = column
            yield pl.DataFrame(made)

    def records(self, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the filled cells of every row; a cell that holds JSON is read."""
        for frame in self.frames(columns):
            for cells in frame.iter_rows(named=True):
                row = cells.pop("row")
                yield row, {name: _cell(text) for name, text in cells.items() if text}

    def _of_width(self, rows: list[list[str]], before: int) -> list[int]:
        """Return the numbers of the rows that are as wide as the header, and note the others."""
        width, numbers = len(self.columns), []
        for row, fields in enumerate(rows, start=before + 1):
            if len(fields) == width:
                numbers.append(row)
            else:
                reason = f"{len(fields)} fields where the header has {width}"
                self.broken.append((row, "", reason, shown(self.mark.join(fields))))
        return numbers

    def _say_unclosed(self, fields: list[str], before: int) -> None:
        """Note every line that a quote took in which is never closed."""
        text = self.mark.join(fields).removesuffix(END)
        for row, line in enumerate(re.split(r"\r\n|\r|\n", text.rstrip("\r\n")), before + 1):
            self.broken.append((row, "", UNCLOSED, shown(line.strip())))


def _cell(text: str) -> Any:
    """Return a csv cell; a list or an object is written as JSON, or as Python or numpy show it."""
    if text[:1] in "[{":
        # Python would read texts without commas as one.
        commas = SPACED.fullmatch(text) and f"[{', '.join(ITEM.findall(text))}]"
        for read in (json.loads, ast.literal_eval):
            try:
                return read(commas or text)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    return text


class Json:
    """A JSON list, one object a line, or one of the ways in which pandas and the hub nest rows."""

    kind = "json"

    def __init__(self, path: Path, encoding: str) -> None:
        self.path, self.encoding = path, encoding
        self.broken: Broken = []
        keys: dict[str, None] = {}  # in the order in which they first appear
        for _, record in self._objects():
            if not keys.keys() >= record.keys():
                keys |= dict.fromkeys(record)
                if len(keys) > MOST_COLUMNS:
                    break
        self.broken.clear()
        self.columns = list(keys)

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
        with io.TextIOWrapper(opened(self.path), encoding=self.encoding, newline="") as text:
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
                documents = list(_documents(whole))
                rows = documents if len(documents) > 1 else _unnested(documents[0])
                yield from (_judged(each, half) for each in rows)

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


def _documents(text: str) -> Iterator[Any]:
    """Yield JSON values that stand one after another, each over several lines: what jq writes."""
    decoder, place = json.JSONDecoder(), skip(text, 0).end()
    while place < len(text):
        value, place = decoder.raw_decode(text, place)
        yield value
        place = skip(text, place).end()


def _items(text: str) -> Iterator[Any]:
    """Yield the items of a JSON list one after another, so that one at a time is in memory."""
    decoder = json.JSONDecoder()
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
    GenAI-Bench has an object of prompts, each with its `models`; others wrap a list under a key.
    """
    if not isinstance(document, dict):
        return [document]
    rows, data, names = (document.get(key) for key in ("rows", "data", "columns"))
    if isinstance(rows, list) and all(isinstance(r, dict) and "row" in r for r in rows):
        return [each["row"] for each in rows]
    if isinstance(data, list) and isinstance(names, list):
        return [dict(zip(names, row, strict=False)) for row in data]
    inner = list(document.values())
    if document.keys() >= {"model_a", "model_b"} and all(isinstance(v, list) for v in inner):
        return [dict(zip(document, row, strict=False)) for row in zip(*inner, strict=False)]
    listed = [document.get(key) for key in LISTS] + (inner if len(inner) == 1 else [])
    for each in listed:
        if isinstance(each, list) and all(isinstance(item, dict) for item in each):
            return each
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


def frame_of(
    records: Sequence[tuple[int, dict[str, Any]]], columns: Sequence[str] | None = None
) -> pl.DataFrame:
    """Return records as a frame of `row` and columns of text, by default of all that any has."""
    if columns is None:
        columns = list(dict.fromkeys(key for _, record in records for key in record))
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
