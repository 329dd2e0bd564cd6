"""The images that votes are about, wherever they are: one way to their bytes, one to their pixels.

An image is named by a path, a URL, a member of a tar (`samples.tar::7.jpg_0`) or an id that a
parquet or a tar of the votes knows. The arena never comes here; a training set does, and loses the
votes of an image that is broken. Nothing is fetched over the network unless that is asked for.
"""

import io
import json
import tarfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from arena.votes.columnar import PARQUET
from arena.votes.fetching import fetch
from arena.votes.image_fault import MOST_BYTES, ImageFault
from arena.votes.samples import is_image

if TYPE_CHECKING:
    from PIL import Image

MOST_PIXELS = 1 << 26  # 8192 x 8192
# Where a parquet keeps an image's name and where its bytes.
COLUMNS = (("image", "bytes"), ("image_0_uid", "jpg_0"), ("image_1_uid", "jpg_1"))

Content = bytes | ImageFault

# What Pillow's decoders raise on bytes that are not what they say.
BROKEN = (OSError, ValueError, SyntaxError, EOFError, MemoryError, IndexError, TypeError)


def contents(
    names: Sequence[str], sources: Sequence[Path] = (), *, network: bool = False
) -> Iterator[tuple[str, Content]]:
    """Yield every name once with its bytes, or with what is wrong with it.

    sources: parquets (`image` and `bytes`, or Pick-a-Pic's columns) and tars, searched first; of a
    parquet only the row groups that hold a wanted image are read. network: whether a URL may be
    fetched.
    """
    left = dict.fromkeys(names)
    for source in sources:
        with source.open("rb") as stream:
            kept_in_parquet = stream.read(4) == PARQUET
        for name, content in (_in_parquet if kept_in_parquet else _in_tar)(source, left):
            if name in left:
                del left[name]
                yield name, content
    for name in left:
        yield name, _alone(name, network)


def decoded(content: bytes) -> "Image.Image":
    """Return the picture as RGB, upright, 8 bits a channel, transparency over white.

    Raises ImageFault for what is too large, cut off, animated, or no picture.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if len(content) > MOST_BYTES:
        raise ImageFault(f"{len(content):,} bytes, more than {MOST_BYTES:,}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(content))
            width, height = picture.size
            if width * height > MOST_PIXELS:
                raise ImageFault(f"{width} x {height} pixels, more than {MOST_PIXELS:,}")
            frames = getattr(picture, "n_frames", 1)
            if frames > 1:
                raise ImageFault(f"an animation of {frames} frames")
            picture.load()
            return _as_rgb(ImageOps.exif_transpose(picture))
    except ImageFault:
        raise
    except Image.DecompressionBombError:
        raise ImageFault(f"more than {MOST_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise ImageFault("no picture of a known format") from None
    except BROKEN as error:
        said = (str(error).splitlines() or ["cut off"])[0]
        raise ImageFault(f"cannot be decoded ({said})") from None


def faults(
    names: Sequence[str], sources: Sequence[Path] = (), *, network: bool = False
) -> dict[str, str]:
    """Return name -> what is wrong, for every image that cannot be trained on."""
    found = {}
    for name, content in contents(names, sources, network=network):
        try:
            if isinstance(content, ImageFault):
                raise content
            decoded(content)
        except ImageFault as fault:
            found[name] = str(fault)
    return found


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


def _alone(name: str, network: bool) -> Content:
    """Return the bytes of a URL or of a file."""
    if name.startswith(("http://", "https://")):
        if not network:
            return ImageFault("a URL, and fetching over the network was not asked for")
        try:
            return fetch(name)
        except ImageFault as fault:
            return fault
    container, _, member = name.partition("::")
    try:
        if member and Path(container).is_file():
            found = dict(_in_tar(Path(container), {f"{Path(container).name}::{member}": None}))
            return next(iter(found.values()), ImageFault(f"{container} has no {member}"))
        if Path(name).stat().st_size > MOST_BYTES:
            return ImageFault(f"more than {MOST_BYTES:,} bytes")
        return Path(name).read_bytes()
    except (OSError, ValueError) as error:
        return ImageFault(f"cannot be read ({getattr(error, 'strerror', None) or error})")


def _in_parquet(path: Path, wanted: dict[str, None]) -> Iterator[tuple[str, Content]]:
    try:
        with pq.ParquetFile(path) as file:
            there = set(file.schema_arrow.names)
            columns = [pair for pair in COLUMNS if there.issuperset(pair)]
            if not columns:
                return
            for group in range(file.num_row_groups):
                named = file.read_row_group(group, [name for name, _ in columns])
                for name, content in columns:
                    rows = [i for i, each in enumerate(named[name].to_pylist()) if each in wanted]
                    if not rows:
                        continue
                    held = file.read_row_group(group, [content])[content].take(rows).to_pylist()
                    for row, found in zip(rows, held, strict=True):
                        yield named[name][row].as_py(), _bytes(found)
    except (pa.ArrowException, OSError) as error:
        said = str(error).splitlines()[0]
        raise ValueError(f"{path}: cannot be read ({said}); deliver it again") from None


def _bytes(value: Any) -> Content:
    """Return what a cell holds: bytes, or the hub's struct of bytes and path."""
    value = value.get("bytes") if isinstance(value, dict) else value
    return value if isinstance(value, bytes) else ImageFault("the table has no bytes for it")


def _in_tar(path: Path, wanted: dict[str, None]) -> Iterator[tuple[str, Content]]:
    """Find images by member or by the uid that their sample tells."""
    try:
        with tarfile.open(path, "r:") as archive:
            members = [member for member in archive.getmembers() if member.isfile()]
            uids = _uids(archive, members)
            for member in members:
                if not is_image(member.name):
                    continue
                sample, column = _sample(member.name)
                uid = uids.get((sample, f"image_{column[-1]}_uid"))
                for name in (uid, f"{path.name}::{member.name}"):
                    if name in wanted:
                        stream = archive.extractfile(member)
                        content = stream.read(MOST_BYTES + 1) if stream else b""
                        yield str(name), content
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); deliver it again") from None


def _uids(archive: tarfile.TarFile, members: list[tarfile.TarInfo]) -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], str] = {}
    for member in members:
        sample, column = _sample(member.name)
        if column not in ("json", "image_0_uid", "image_1_uid"):
            continue
        stream = archive.extractfile(member)
        text = (stream.read() if stream else b"").decode("utf-8", "replace").strip()
        if column != "json":
            found[sample, column] = text
            continue
        try:
            record = json.loads(text)
        except ValueError:
            continue  # the votes' reader has rejected this sample
        if isinstance(record, dict):
            told = {
                key: str(record[key]) for key in ("image_0_uid", "image_1_uid") if key in record
            }
            found.update({(sample, key): uid for key, uid in told.items()})
    return found


def _sample(member: str) -> tuple[str, str]:
    """Return (sample, column) of a webdataset member."""
    folder, _, name = member.rpartition("/")
    key, _, extension = name.partition(".")
    return f"{folder}/{key}", extension.split(".")[0]
