"""The images that votes are about: one reader for the check, the trainer, the scorers and the page.

    images = Images(["images.parquet"], root="study/")
    images.read("7f3a")             # a PIL image: RGB, upright, transparency over white
    images.content("7f3a")          # the bytes as they are stored
    images.faults(["7f3a", ...])    # name -> what is wrong, for each that cannot be trained on

An image is named by an id that a source knows (a parquet with `image` and `bytes`, Pick-a-Pic's
own columns, the hub's image columns, a tar), by a member of a tar (`samples.tar::7.jpg_0`), by a
path or by a URL. Nothing is fetched over the network unless that is asked for. The arena's
statistics never come here: the votes of a broken image stay in the arena and leave the training.
"""

import io
import json
import os
import stat
import tarfile
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from arena.votes.fetching import fetch
from arena.votes.image_fault import MOST_BYTES, ImageFault

if TYPE_CHECKING:
    from PIL import Image

MOST_PIXELS = 1 << 26  # 8192 x 8192
# Raster formats that Pillow decodes by itself: PostScript, for one, would run another program.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
# Where a parquet keeps an image's name and where its bytes.
COLUMNS = (("image", "bytes"), ("image_0_uid", "jpg_0"), ("image_1_uid", "jpg_1"))
TOGETHER = 64  # images read or decoded at a time
THREADS = 8
QUIET = threading.Lock()

Content = bytes | ImageFault


class Images:
    """Images by name, from any thread. Every source is opened and indexed once, at its first use.

    sources: parquets and uncompressed tars, searched first and in this order. root: the folder that
    relative paths are told from, the working folder by default. network: whether URLs are fetched.
    Raises ValueError, at the first use, for a source that cannot be read.
    """

    def __init__(
        self,
        sources: Iterable[Path | str] = (),
        root: Path | str | None = None,
        *,
        network: bool = False,
    ):
        self.paths = [Path(source) for source in sources]
        self.root = Path(root or ".")
        self.network = network
        self._lock = threading.Lock()
        self._sources: list[_Parquet | _Tar] | None = None
        self._tars: dict[Path, _Tar] = {}

    def content(self, name: str) -> bytes:
        """Return the bytes of an image as they are stored; they need not be a picture.

        Raises ImageFault where there are none.
        """
        for source in self._opened():
            if name in source.places:
                return source.at(source.places[name])
        if name.startswith(("http://", "https://")):
            if not self.network:
                raise ImageFault("a URL, and fetching over the network was not asked for")
            return fetch(name)
        container, _, member = name.partition("::")
        try:
            if member and (self.root / container).is_file():
                return self._member(self.root / container, member)
            return _file(self.root / name)
        except (OSError, ValueError) as error:
            if isinstance(error, ImageFault):
                raise
            said = getattr(error, "strerror", None) or error
            raise ImageFault(f"cannot be read ({said})") from None

    def read(self, name: str) -> "Image.Image":
        """Return the picture: RGB, upright, 8 bits per channel, transparency over white.

        Raises ImageFault for one that is missing, too large, cut off, animated, or no picture.
        """
        return decoded(self.content(name))

    def contents(self, names: Iterable[str]) -> Iterator[tuple[str, Content]]:
        """Yield every name once with its bytes, or with what is wrong with it.

        The order is the sources' own, so that each row group of a parquet is read once.
        """
        left = dict.fromkeys(names)
        for source in self._opened():
            for name in sorted(left.keys() & source.places.keys(), key=source.places.__getitem__):
                del left[name]
                yield name, self._content(name)
        for batch, found in _in_threads(self._content, list(left)):
            yield from zip(batch, found, strict=True)

    def faults(self, names: Iterable[str]) -> dict[str, str]:
        """Return name -> what is wrong, for every image that cannot be trained on."""
        found = {}
        for batch, told in _in_threads(_fault, self.contents(names)):
            found.update({name: said for (name, _), said in zip(batch, told, strict=True) if said})
        return found

    def _content(self, name: str) -> Content:
        try:
            return self.content(name)
        except ImageFault as fault:
            return fault

    def _opened(self) -> "list[_Parquet | _Tar]":
        with self._lock:
            if self._sources is None:
                self._sources = [_source(path) for path in self.paths]
            return self._sources

    def _member(self, path: Path, member: str) -> bytes:
        with self._lock:
            if path not in self._tars:
                self._tars[path] = _Tar(path)
            tar = self._tars[path]
        place = tar.places.get(f"{path.name}::{member}")
        if place is None:
            raise ImageFault(f"{path} has no {member}")
        return tar.at(place)


def decoded(content: bytes) -> "Image.Image":
    """Return the picture as RGB, upright, 8 bits per channel, transparency over white.

    Raises ImageFault for what is too large, cut off, animated, or no picture.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not content:
        raise ImageFault("an empty file")
    if len(content) > MOST_BYTES:
        raise ImageFault(f"{len(content):,} bytes, more than {MOST_BYTES:,}")
    try:
        with _quiet():
            picture = Image.open(io.BytesIO(content), formats=FORMATS)
        width, height = picture.size
        if width * height > MOST_PIXELS:
            raise ImageFault(f"{width} x {height} pixels, more than {MOST_PIXELS:,}")
        frames = getattr(picture, "n_frames", 1)
        if frames > 1 and picture.format != "MPO":  # a camera's JPEG with its preview behind it
            raise ImageFault(f"an animation of {frames} frames")
        picture.load()
        with _quiet():
            picture.getexif()
        return _as_rgb(ImageOps.exif_transpose(picture))
    except ImageFault:
        raise
    except Image.DecompressionBombError:
        raise ImageFault(f"more than {MOST_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise ImageFault("no picture of a known format") from None
    except Exception as error:  # whatever a decoder raises is that image's fault
        said = (str(error).splitlines() or ["cut off"])[0]
        raise ImageFault(f"cannot be decoded ({said})") from None


def contents(
    names: Sequence[str], sources: Sequence[Path] = (), *, network: bool = False
) -> Iterator[tuple[str, Content]]:
    """Yield every name once with its bytes or its fault: `Images.contents`."""
    return Images(sources, network=network).contents(names)


def faults(
    names: Sequence[str], sources: Sequence[Path] = (), *, network: bool = False
) -> dict[str, str]:
    """Return what is wrong by name: `Images.faults`."""
    return Images(sources, network=network).faults(names)


def _as_rgb(picture: "Image.Image") -> "Image.Image":
    from PIL import Image

    if picture.mode.startswith("I") or picture.mode == "F":
        # 16 bits of grey; "I" is how Pillow opens them in some formats.
        grey = np.asarray(picture, dtype=np.float64)
        if picture.mode == "F" and grey.size and grey.max() <= 1.0:
            grey = grey * 65535.0
        return Image.fromarray((grey.clip(0, 65535) / 257.0).round().astype(np.uint8)).convert(
            "RGB"
        )
    if picture.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Pillow's warnings (a large image, odd EXIF) from stderr; faults say what matters.

    Python's filter of warnings is global, hence the lock: only quick steps belong inside.
    """
    with QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _fault(named: tuple[str, Content]) -> str | None:
    content = named[1]
    try:
        if isinstance(content, ImageFault):
            raise content
        decoded(content)
    except ImageFault as fault:
        return str(fault)
    return None


def _in_threads(work: Any, items: Iterable[Any]) -> Iterator[tuple[list[Any], list[Any]]]:
    """Yield (batch, results) of batches small enough that their images fit in memory."""
    waiting = iter(items)
    with ThreadPoolExecutor(THREADS) as pool:
        while batch := [item for _, item in zip(range(TOGETHER), waiting, strict=False)]:
            yield batch, list(pool.map(work, batch))


def _file(path: Path) -> bytes:
    """Return a regular file's bytes; a pipe would be waited for, a device has no end."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise ImageFault("not a regular file")
        content = file.read(MOST_BYTES + 1) if about.st_size <= MOST_BYTES else None
    if content is None or len(content) > MOST_BYTES:
        raise ImageFault(f"more than {MOST_BYTES:,} bytes")
    return content


def _source(path: Path) -> "_Parquet | _Tar":
    try:
        with path.open("rb") as stream:
            kept_in_parquet = stream.read(4) == b"PAR1"
        return _Parquet(path) if kept_in_parquet else _Tar(path)
    except (pa.ArrowException, tarfile.TarError, EOFError, OSError) as error:
        said = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise ValueError(f"{path}: cannot be read ({said}); deliver it again") from None


class _Parquet:
    """places: name -> row x columns + column. The last row groups read stay in memory."""

    def __init__(self, path: Path):
        self.path, self.file = path, pq.ParquetFile(path)
        schema = self.file.schema_arrow
        there = set(schema.names)
        self.columns = [pair for pair in COLUMNS if there.issuperset(pair)]
        for field in schema:  # the hub's image columns: a path and bytes in one cell
            if pa.types.is_struct(field.type) and {"path", "bytes"} <= {f.name for f in field.type}:
                self.columns.append((f"{field.name}.path", f"{field.name}.bytes"))
        rows = [self.file.metadata.row_group(k).num_rows for k in range(self.file.num_row_groups)]
        self.starts = np.concatenate([[0], np.cumsum(rows)])
        self.places: dict[str, Any] = {}
        for column, (name, _) in enumerate(self.columns):
            named = _flat(self.file.read([name]), name).to_pylist()
            for row, each in enumerate(named):
                if each is not None:
                    self.places.setdefault(str(each), row * len(self.columns) + column)
        self.lock = threading.Lock()
        self.kept: dict[tuple[int, int], Any] = {}

    def at(self, place: int) -> bytes:
        row, column = divmod(place, len(self.columns))
        group = int(np.searchsorted(self.starts, row, side="right")) - 1
        with self.lock:
            if (group, column) not in self.kept:
                while len(self.kept) >= 2 * len(self.columns):
                    del self.kept[next(iter(self.kept))]
                name = self.columns[column][1]
                try:
                    held = self.file.read_row_group(group, [name])
                except (pa.ArrowException, OSError) as error:
                    said = str(error).splitlines()[0]
                    raise ImageFault(f"{self.path} cannot be read ({said})") from None
                self.kept[group, column] = _flat(held, name)
            found = self.kept[group, column][row - self.starts[group]].as_py()
        found = found.get("bytes") if isinstance(found, dict) else found
        if not isinstance(found, bytes):
            raise ImageFault("the table has no bytes for it")
        return found


def _flat(table: pa.Table, name: str) -> Any:
    """Return a column, or a field of a struct by `column.field`."""
    column = table.column(0)
    if "." in name and pa.types.is_struct(column.type):
        return pa.chunked_array([part.field(name.rpartition(".")[2]) for part in column.chunks])
    return column


class _Tar:
    """places: `file.tar::member`, and the uid that a member's sample tells -> (offset, size)."""

    def __init__(self, path: Path):
        self.path = path
        with tarfile.open(path, "r:") as archive:
            members = [member for member in archive.getmembers() if member.isfile()]
            uids = _uids(archive, members)
        self.places: dict[str, Any] = {}
        for member in members:
            place = (member.offset_data, member.size)
            self.places[f"{path.name}::{member.name}"] = place
            sample, column = _sample(member.name)
            if column in ("jpg_0", "jpg_1") and (uid := uids.get((sample, column[-1]))):
                self.places.setdefault(uid, place)
        self.stream = path.open("rb")

    def at(self, place: tuple[int, int]) -> bytes:
        offset, size = place
        if size > MOST_BYTES:
            raise ImageFault(f"more than {MOST_BYTES:,} bytes")
        return os.pread(self.stream.fileno(), size, offset)


def _uids(archive: tarfile.TarFile, members: list[tarfile.TarInfo]) -> dict[tuple[str, str], str]:
    """Return (sample, 0 or 1) -> uid, from the members that tell it."""
    found: dict[tuple[str, str], str] = {}
    for member in members:
        sample, column = _sample(member.name)
        if column not in ("json", "image_0_uid", "image_1_uid"):
            continue
        stream = archive.extractfile(member)
        text = (stream.read(MOST_BYTES) if stream else b"").decode("utf-8", "replace").strip()
        try:
            record = json.loads(text) if column == "json" else {column: text}
        except ValueError:
            continue  # the votes' reader has rejected this sample
        for side in "01" if isinstance(record, dict) else "":
            if uid := record.get(f"image_{side}_uid"):
                found[sample, side] = str(uid)
    return found


def _sample(member: str) -> tuple[str, str]:
    """Return (sample, column) of a webdataset member."""
    folder, _, name = member.rpartition("/")
    key, _, extension = name.partition(".")
    return f"{folder}/{key}", extension.split(".")[0]
