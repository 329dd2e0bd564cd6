"""Typed columns: parquet, and Arrow's files and streams. Only the columns asked for are read."""

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from arena.votes.arrow_sizes import stated_size
from arena.votes.faults import Broken, VotesError
from arena.votes.limits import (
    MOST_EXPANSION,
    MOST_ROWS_PER_BYTE,
    UNSUSPECTED,
    UNSUSPECTED_COLUMNS,
    UNSUSPECTED_ROWS,
)

ROWS = 1 << 20  # in one frame
AHEAD = 20  # batches without texts: decoded while one is checked, and while a command is loading
SHORT = 64  # bytes of a text that may stand in every row
ARROW_FILE = b"ARROW1"
STRINGS = (pa.string(), pa.large_string())
BYTES = (pa.binary(), pa.large_binary(), pa.binary_view())


class Columnar:
    """Record batches of typed columns: what parquet and Arrow have in common."""

    kind = ""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.broken: Broken = []
        size = path.stat().st_size
        # What the columns may hold, and how many values a column may have.
        self.bound = max(UNSUSPECTED_COLUMNS, MOST_EXPANSION * size)
        self.most_values = max(UNSUSPECTED_ROWS, MOST_ROWS_PER_BYTE * size)
        self.too_much = (
            f"unpacks to more than {self.bound:,} bytes, {MOST_EXPANSION} times its size; write it "
            "anew if you trust it"
        )
        self.fields = {field.name: field.type for field in self._schema()}
        self.columns = list(self.fields)

    def _schema(self) -> pa.Schema:
        raise NotImplementedError

    def _batches(self, columns: list[str], coded: list[str]) -> Iterator[pa.RecordBatch]:
        raise NotImplementedError

    def _read(self, columns: Sequence[str], coded: Sequence[str]) -> Iterator[pa.RecordBatch]:
        there = [name for name in columns if name in self.fields]
        few = [name for name in coded if self.fields.get(name) in STRINGS]
        with ThreadPoolExecutor(1) as ahead:
            batches = self._batches(there, few)
            # Twenty batches of long texts, or of an Arrow file's images, would not fit in memory.
            narrow = all(n in few or pa.types.is_primitive(self.fields[n]) for n in there)
            depth = AHEAD if narrow and self.kind == "parquet" else 1
            coming = deque(ahead.submit(_validated, batches) for _ in range(depth))
            left = self.bound
            while (batch := coming.popleft().result()) is not None:
                coming.append(ahead.submit(_validated, batches))
                left -= sum(map(_decoded_size, batch.columns))
                if left < 0:
                    raise VotesError(self.too_much)
                yield batch

    def frames(self, columns: Sequence[str], coded: Sequence[str] = ()) -> Iterator[pl.DataFrame]:
        """Yield the named columns as they are typed."""
        row = 1
        for batch in self._read(columns, coded):
            made = {"row": pl.int_range(row, row + len(batch), eager=True)}
            for field, column in zip(batch.schema, batch.columns, strict=True):
                if pa.types.is_struct(field.type) and field.type.get_field_index("path") >= 0:
                    # The hub's struct of an image's bytes and path.
                    made[field.name] = pl.Series(column.field("path"))
                elif pa.types.is_fixed_size_list(field.type):
                    made[field.name] = pl.Series(column.cast(pa.list_(field.type.value_type)))
                elif pa.types.is_duration(field.type):
                    made[field.name] = pl.Series(column.cast(pa.int64()))
                elif not pa.types.is_dictionary(field.type):
                    made[field.name] = pl.Series(column)
                elif field.name in coded:
                    made[field.name] = _enum(column)
                else:
                    made[field.name] = pl.Series(column.cast(field.type.value_type))
            yield pl.DataFrame(made)
            row += len(batch)

    def records(self, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the rows as Python objects."""
        small = [name for name in columns if name in self.fields and self._is_small(name)]
        rows = (row for batch in self._read(small, ()) for row in batch.to_pylist())
        yield from enumerate(rows, start=1)

    def add_to(self, digest: "hashlib._Hash") -> None:
        """Hash the columns' values without images, however the file has cut and packed them."""
        names = [name for name in self.fields if not is_large(self.fields[name])]
        columns = {name: hashlib.sha256() for name in names}
        for frame in self.frames(names):
            for name, column in columns.items():
                if frame.is_empty():
                    continue
                values = frame[name]
                if values.dtype.is_nested():
                    values = pl.Series([repr(each) for each in values.to_list()], dtype=pl.String)
                texts = values.cast(pl.String).fill_null("\0").str.join("\x1f").item()
                column.update(f"{texts}\x1f".encode())
        for name, column in columns.items():
            digest.update(f"{name} {self.fields[name]} {column.hexdigest()}\n".encode())

    def _is_small(self, name: str) -> bool:
        """Tell whether a column can be read without the images in it."""
        return not is_large(self.fields[name])


class Parquet(Columnar):
    """A parquet file, of which only the named columns are read."""

    kind = "parquet"

    def _schema(self) -> pa.Schema:
        with pq.ParquetFile(self.path) as file:
            about = file.metadata
            groups = [about.row_group(k) for k in range(about.num_row_groups)]
            chunks = [g.column(k) for g in groups for k in range(g.num_columns)]
            most = max((chunk.num_values for chunk in chunks), default=0)
            if max(about.num_rows, most) > self.most_values:
                raise VotesError(
                    f"says that it holds {max(about.num_rows, most):,} rows, more than "
                    f"{self.most_values:,} in a file of its size"
                )
            if sum(max(chunk.total_uncompressed_size, 0) for chunk in chunks) > self.bound:
                raise VotesError(self.too_much)
            # A dictionary of one long text makes a small file of many long texts.
            self.worst: dict[str, int] = {}
            for chunk in chunks:
                name = chunk.path_in_schema
                may_be = chunk.num_values * max(chunk.total_uncompressed_size, 0)
                may_be *= chunk.has_dictionary_page
                self.worst[name] = max(self.worst.get(name, 0), may_be)
            return file.schema_arrow

    def _batches(self, columns: list[str], coded: list[str]) -> Iterator[pa.RecordBatch]:
        # Of an image only what is no bytes is read.
        parts = [part for name in columns for part in _small_parts(name, self.fields[name])]
        long = [n for n in columns if self.fields[n] in STRINGS and self.worst[n] > UNSUSPECTED]
        nested = tuple(f"{part}." for part in parts)
        worst = max([w for n, w in self.worst.items() if n.startswith(nested)], default=0)
        rows = max(1, min(ROWS, ROWS * self.bound // max(worst, 1)))
        with pq.ParquetFile(self.path, read_dictionary=[*coded, *long] or None) as file:
            yield from file.iter_batches(batch_size=rows, columns=parts)

    def _is_small(self, name: str) -> bool:
        return bool(_small_parts(name, self.fields[name])) and self.fields[name] not in BYTES


class Arrow(Columnar):
    """An Arrow IPC file or stream: Feather, and the shards of the `datasets` library."""

    kind = "arrow"

    def _open(self) -> Any:
        stream = pa.memory_map(str(self.path))
        self.whole = stream.read(len(ARROW_FILE)) == ARROW_FILE
        stream.seek(0)
        return (pa.ipc.open_file if self.whole else pa.ipc.open_stream)(stream)

    def _schema(self) -> pa.Schema:
        with self._open() as reader:
            schema = reader.schema
        with pa.memory_map(str(self.path)) as stream:
            if stated_size(stream, self.whole) > self.bound:
                raise VotesError(self.too_much)
        return schema

    def _batches(self, columns: list[str], coded: list[str]) -> Iterator[pa.RecordBatch]:
        del coded
        with self._open() as reader:
            batches = reader
            if hasattr(reader, "num_record_batches"):
                batches = map(reader.get_batch, range(reader.num_record_batches))
            for batch in batches:
                yield batch.select(columns)


def _validated(batches: Iterator[pa.RecordBatch]) -> pa.RecordBatch | None:
    """Return the next batch, None after the last. Raises pa.ArrowInvalid for a spoiled one."""
    batch = next(batches, None)
    if batch is not None:
        batch.validate(full=True)
    return batch


def _decoded_size(column: pa.Array) -> int:
    """Return how many bytes a column holds once every text is written out."""
    if isinstance(column, pa.DictionaryArray) and column.type.value_type in STRINGS:
        sizes = pl.Series(column.dictionary).str.len_bytes()
        if int(sizes.max() or 0) > SHORT:  # type: ignore[arg-type]
            return int(sizes.gather(pl.Series(column.indices)).sum())
    return int(column.nbytes)


def is_large(kind: pa.DataType) -> bool:
    """Tell whether a column holds images: bytes, alone or in a struct."""
    if pa.types.is_struct(kind):
        return any(is_large(field.type) for field in kind)
    return kind in BYTES


def _small_parts(name: str, kind: pa.DataType) -> list[str]:
    """Return what to read of a column: all of it, or of a struct with images the rest."""
    if not pa.types.is_struct(kind) or not is_large(kind):
        return [name]
    small = (field for field in kind if field.type not in BYTES)
    return [part for field in small for part in _small_parts(f"{name}.{field.name}", field.type)]


def _enum(column: pa.DictionaryArray) -> pl.Series:
    """Return a dictionary-coded column as pl.Enum, text where its dictionary repeats itself."""
    names = column.dictionary.to_pylist()
    if None in names or len(set(names)) < len(names):
        return pl.Series(column.cast(pa.large_string()))
    kind = pl.UInt8 if len(names) < 256 else pl.UInt16 if len(names) < 65536 else pl.UInt32
    return pl.Series(column.indices).cast(kind, wrap_numerical=True).cat.to(pl.Enum(names))
