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
import threading
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from arena.votes.fetching import fetch
from arena.votes.image_sources import ImageFault, ParquetSource, RowGroups, TarSource, open_source
from arena.votes.limits import MOST_BYTES, MOST_PIXELS
from arena.votes.regular import regular

if TYPE_CHECKING:
    from PIL import Image

# Raster formats that Pillow decodes by itself: PostScript, for one, would run another program.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
TOGETHER = 64  # images read or decoded at a time
THREADS = 8
QUIET = threading.Lock()

Content = bytes | ImageFault


class Images:
    """Images by name, from any thread. Every source is opened and indexed once, at its first use.

    sources: parquets, uncompressed tars and folders of them, searched first and in this order.
    root: the folder that relative paths are told from; with it a path must lead into it, or into a
    folder among the sources, because strangers write the names. Without it names are trusted, and
    told from the working folder. network: whether URLs are fetched.
    Raises ValueError, at the first use, for a source that cannot be read.
    """

    def __init__(
        self,
        sources: Iterable[Path | str] = (),
        root: Path | str | None = None,
        *,
        network: bool = False,
    ):
        given = [Path(source) for source in sources]
        self.paths = [file for source in given for file in shards(source)]
        self.root = Path(root or ".")
        within = [self.root, *(path for path in given if path.is_dir())]
        self._within = [path.resolve() for path in within] if root is not None else []
        self.network = network
        self._lock = threading.Lock()
        self._sources: list[ParquetSource | TarSource] | None = None
        self._tars: dict[Path, ParquetSource | TarSource] = {}

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
            if member and self._placed(container).is_file():
                return self._member(self._placed(container), member)
            return _file(self._placed(name))
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

    def _placed(self, name: str) -> Path:
        """Return the path of a file. Raises ImageFault for one where names may not lead."""
        path = self.root / name
        if self._within and not any(path.resolve().is_relative_to(each) for each in self._within):
            raise ImageFault(f"a path that leads out of {self.root}")
        return path

    def _content(self, name: str) -> Content:
        try:
            return self.content(name)
        except ImageFault as fault:
            return fault

    def _opened(self) -> list[ParquetSource | TarSource]:
        with self._lock:
            if self._sources is None:
                kept = RowGroups()
                self._sources = [open_source(path, kept) for path in self.paths]
            return self._sources

    def _member(self, path: Path, member: str) -> bytes:
        with self._lock:
            if path not in self._tars:
                self._tars[path] = open_source(path, RowGroups())
            tar = self._tars[path]
        place = tar.places.get(f"{path.name}::{member}")
        if place is None:
            raise ImageFault(f"{path} has no {member}")
        return tar.at(place)


def shards(source: Path) -> list[Path]:
    """Return the files of a source: of a folder its parquets and tars, in order, else itself."""
    if not source.is_dir():
        return [source]
    return sorted(file for file in source.iterdir() if file.suffix in (".parquet", ".tar"))


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
    """Return a regular file's bytes."""
    with regular(path) as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ImageFault(f"more than {MOST_BYTES:,} bytes")
    return content
