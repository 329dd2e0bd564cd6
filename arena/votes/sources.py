"""Where votes are: files, folders, patterns and object stores, all as local files in the end.

Of a remote table only columns without images are fetched; the images' bytes stay where they are.
"""

import contextlib
import glob
import itertools
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from arena.votes.faults import VotesError, line

TEXT = (".csv", ".tsv", ".json", ".jsonl", ".ndjson")
PACKED = tuple(
    text + packing for text in TEXT for packing in (".gz", ".zst", ".bz2", ".xz", ".zip")
)
SUFFIXES = (*TEXT, ".parquet", ".arrow", ".feather", ".tar", *PACKED)
CLOUDS = ("s3", "s3a", "gs", "gcs", "az", "azure", "adl", "abfs", "abfss", "hf")
SCHEMES = (*CLOUDS, "http", "https", "file")
# pathlib makes one slash of two.
URL = re.compile(rf"^({'|'.join(SCHEMES)}):/(?=[^/])")


@dataclass(frozen=True)
class File:
    """A votes file: where it lies on this machine, and what a person calls it (path or URL)."""

    path: Path
    name: str


@contextmanager
def staged(sources: Sequence[Path | str | File]) -> Iterator[list[File]]:
    """Yield the files that the sources name, in order; a folder's and a pattern's by name.

    A `File` is taken as it is: it lies here and is called by where it came from.

    Raises VotesError for a folder or a pattern without a file, and for a URL that cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="arena-votes-") as folder:
        files = []
        for number, source in enumerate(sources):
            if isinstance(source, File):
                files.append(source)
            elif URL.match(str(source).replace("://", ":/", 1)):
                url = str(as_url(source))
                files.append(File(fetched(url, Path(folder) / str(number)), without_query(url)))
            elif Path(source).is_file():
                files.append(File(Path(source), str(source)))
            else:
                files += [File(path, str(path)) for path in expanded(Path(source))]
        yield files


def as_url(source: Path | str) -> str | None:
    """Return a source as a URL where it is one."""
    text = str(source).replace("://", ":/", 1)
    return URL.sub(r"\1://", text) if URL.match(text) else None


def without_query(source: Path | str) -> str:
    """Return a source as it may be stored and shown: the query of a URL may hold a key."""
    return str(source) if as_url(source) is None else str(source).partition("?")[0]


def expanded(source: Path) -> list[Path]:
    """Return the files that a path names: itself, a folder's, or those that match a pattern."""
    if source.is_dir():
        inside = sorted(path for path in source.rglob("*") if _is_votes(path.relative_to(source)))
        files = [path for path in inside if _is_within(path, source)]
        if not files:
            raise VotesError(
                f"{source}: the folder holds no votes file ({', '.join(SUFFIXES)}); links that "
                "lead out of it are none"
            )
        return files
    if glob.has_magic(str(source)) and not source.exists():
        start = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), source.parts))
        matching = sorted(Path(each) for each in glob.glob(str(source), recursive=True))  # noqa: PTH207
        files = [path for path in matching if _is_within(path, start)]
        if not files:
            raise VotesError(f"{source}: no file matches this pattern; check the path")
        return files
    return [source]


def present(sources: Iterable[Path | str]) -> list[Path | str]:
    """Return the files and URLs that sources hold now: an empty folder or pattern holds none yet.

    A file that is named by itself is returned whether it is there or not: who reads it says so.
    """
    found: list[Path | str] = []
    for source in sources:
        if isinstance(source, str) and as_url(source):
            found.append(source)
        elif Path(source).is_dir() or glob.has_magic(str(source)):
            with contextlib.suppress(VotesError):
                found += expanded(Path(source))
        else:
            found.append(Path(source))
    return found


def _is_within(path: Path, folder: Path) -> bool:
    """Tell whether a regular file lies in a folder, wherever a link leads."""
    return path.is_file() and path.resolve().is_relative_to(folder.resolve())


def _is_votes(path: Path) -> bool:
    """Tell whether a file in a folder is a delivery: not hidden, not still being written."""
    hidden = any(part.startswith((".", "_")) for part in path.parts)
    return not hidden and path.name.lower().endswith(SUFFIXES)


def remote_rows(url: str) -> int:
    """Return how many rows a remote table has; for parquet its footer tells.

    Raises VotesError where it cannot be read.
    """
    with _saying(url):
        return int(_scanned(url).select(pl.len()).collect().item())


def fetched(url: str, folder: Path) -> Path:
    """Copy a remote table without its images to a local parquet and return its path.

    Credentials are the environment's, as polars reads them (AWS_..., GOOGLE_..., HF_TOKEN).
    """
    folder.mkdir()
    path = folder / (Path(url.partition("?")[0]).name.replace("*", "_") or "votes")
    with _saying(url):
        lazy = _scanned(url)
        columns = []
        for name, kind in lazy.collect_schema().items():
            if isinstance(kind, pl.Struct) and "path" in [field.name for field in kind.fields]:
                columns.append(pl.col(name).struct.field("path").alias(name))
            elif not _has_bytes(kind):
                columns.append(pl.col(name))
        lazy.select(columns).sink_parquet(path)
    return path


@contextmanager
def _saying(url: str) -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        said, query = line(error), url.partition("?")[2]
        said = said.replace(query, "...") if query else said
        raise VotesError(
            f"{without_query(url)}: cannot be read ({said}); check the URL and the credentials"
        ) from None


def _has_bytes(kind: pl.DataType) -> bool:
    if isinstance(kind, pl.Struct):
        return any(_has_bytes(field.dtype) for field in kind.fields)  # type: ignore[arg-type]
    return kind == pl.Binary


def _scanned(url: str) -> pl.LazyFrame:
    name = url.partition("?")[0].lower().removesuffix(".gz").removesuffix(".zst")
    if name.endswith(".csv"):
        return pl.scan_csv(url, infer_schema=False)
    if name.endswith((".jsonl", ".ndjson")):
        return pl.scan_ndjson(url)
    return pl.scan_parquet(url)
