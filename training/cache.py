"""Latents and prompt embeddings, each computed once and read by memory map ever after.

A store is a folder of safetensors shards that only grows. It is named by what encoded it (the
hash of the encoder's files, the resolution, the precision), and a row in it by the hash of the
image's bytes or the prompt's text: another VAE or another image can never be taken for this one,
and every policy and study that shares them shares the work. A shard appears whole, by a rename, so
a job that was killed keeps what it finished, and two jobs that encode at once at worst write the
same rows twice.
"""

import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from training import TrainingError

if TYPE_CHECKING:
    from training.families import Family

SHARD_ROWS = 1024
BATCH_PIXELS = 2**21  # through the VAE at once: 8 images of 512 px
Say = Callable[[str], None]
_Found = tuple[str, int, int]  # an image's SHA-256, width and height


class ImageError(TrainingError):
    """An image is missing or cannot be decoded; the message names it."""


class Store:
    """A growing set of equally shaped tensors by name, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self._shards: list[Tensor] = []
        self._rows: dict[str, tuple[int, int]] = {}
        for path in sorted(folder.glob("*.safetensors")):
            self._open(path)

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def add(self, names: Sequence[str], values: Tensor) -> None:
        """Write one shard: `values` (len(names), ...), whole or not at all."""
        path = self.folder / f"{hashlib.sha256(''.join(names).encode()).hexdigest()}.safetensors"
        write_atomically(path, save({"values": values.contiguous()}, {"names": json.dumps(names)}))
        self._open(path)

    def select(self, names: Sequence[str]) -> "Rows":
        """Return the tensors of `names`, in their order. Raises KeyError for an absent one."""
        where = np.array([self._rows[name] for name in names], dtype=np.int64).reshape(-1, 2)
        return Rows(self._shards, where)

    def _open(self, path: Path) -> None:
        try:
            with safe_open(path, "pt") as file:  # maps the file: rows are read when they are used
                values, names = file.get_tensor("values"), json.loads(file.metadata()["names"])
        except (SafetensorError, KeyError, TypeError) as error:
            raise TrainingError(
                f"cache.root: {path} is damaged ({error}): delete it and it is made again"
            ) from error
        self._shards.append(values)
        self._rows.update({name: (len(self._shards) - 1, row) for row, name in enumerate(names)})


class Rows:
    """Tensors of a store by position; what `Store.select` gives."""

    def __init__(self, shards: list[Tensor], where: np.ndarray) -> None:
        self._shards, self._where = shards, where

    def __len__(self) -> int:
        return len(self._where)

    def take(self, rows: np.ndarray) -> Tensor:
        """Return the tensors at `rows` (n,), stacked: (n, ...), in the precision of the store."""
        return torch.stack([self._shards[s][r] for s, r in self._where[rows].tolist()])


@dataclass(frozen=True)
class View:
    """One way to show an image: which of its crops, 0 the middle one, and whether mirrored."""

    crop: int = 0
    mirrored: bool = False

    def __str__(self) -> str:
        return f"-crop{self.crop}" * bool(self.crop) + "-mirrored" * self.mirrored

    def place(self, digest: str) -> float:
        """Where along its longer side the image is cropped, 0 to 1: by its content and the crop."""
        if not self.crop:
            return 0.5
        hashed = hashlib.sha256(f"{digest}/{self.crop}".encode()).digest()
        return int.from_bytes(hashed[:7], "big") / 2**56

    def corner(self, digest: str, width: int, height: int, resolution: int) -> tuple[int, int]:
        """Top and left of the crop, in pixels of the image scaled by its shorter side."""
        spare = [round(side * resolution / min(width, height)) - resolution
                 for side in (height, width)]  # fmt: skip
        top, left = (round(self.place(digest) * each) for each in spare)
        return top, spare[1] - left if self.mirrored else left


@dataclass(frozen=True)
class Latents:
    """All images in one view."""

    rows: Rows
    corners: np.ndarray  # (n, 2) top and left of each crop in pixels, as `View.corner` says
    digest: str  # SHA-256 of all images' bytes


def latents(
    family: "Family",
    images: Sequence[str],
    source: Path | None,
    root: Path,
    resolution: int,
    dtype: torch.dtype,
    device: torch.device,
    say: Say,
    view: View = View(),
) -> Latents:
    """Return the latent of every image in one view, in order.

    `source` is the Parquet (image, bytes) that holds them, or None where `images` are paths. The
    bytes are read only when the source has changed since the last time; the VAE is loaded only when
    a latent is missing. Raises ImageError naming an image that is not there or cannot be decoded.
    """
    kind = f"{family.digest('vae')[:16]}-{resolution}-{str(dtype).removeprefix('torch.')}"
    store = Store(root / "latents" / f"{kind}{view}")
    memo = root / "digests" / f"{_source_stamp(images, source)}.json"

    def selected(found: Sequence[_Found]) -> Latents:
        corners = [view.corner(*each, resolution) for each in found]
        digests = [digest for digest, _, _ in found]
        return Latents(store.select(digests), np.array(corners), _digest(digests))

    if memo.exists():
        known = json.loads(memo.read_text())
        if all(digest in store for digest, _, _ in known):
            return selected(known)

    row = family.latent_channels * (resolution // family.downscale) ** 2 * dtype.itemsize
    found: dict[str, _Found] = {}
    batch: dict[str, Tensor] = {}
    encoder = None
    shard: list[Tensor] = []
    names: list[str] = []
    at_once = min(64, max(1, BATCH_PIXELS // resolution**2))
    begun = time.monotonic()

    def flush(everything: bool) -> None:
        nonlocal encoder
        if batch and (everything or len(batch) == at_once):
            if encoder is None:
                what = f"up to {len(images)} images at {resolution} px"
                announce(what, row * len(images), store.folder, say)
                _tell_of_another_vae(store.folder, say)
                encoder = family.image_encoder(device)
            shard.append(encoder(torch.stack(list(batch.values()))).to("cpu", dtype))
            names.extend(batch)
            batch.clear()
        if names and (everything or len(names) >= SHARD_ROWS):
            store.add(names, torch.cat(shard))
            rate = len(found) / (time.monotonic() - begun)
            say(f"{len(found)} of {len(images)} images, {rate:.0f} a second")
            shard.clear()
            names.clear()

    for image, content in _read_images(images, source):
        digest, picture = hashlib.sha256(content).hexdigest(), _opened(image, content)
        found[image] = (digest, *picture.size)
        if digest not in store and digest not in batch and digest not in names:
            batch[digest] = _pixels(image, picture, resolution, view, digest)
            flush(everything=False)
    flush(everything=True)
    every = [found[image] for image in images]
    write_atomically(memo, json.dumps(every).encode())
    return selected(every)


def prompt_embeddings(
    family: "Family",
    prompts: Sequence[str],
    root: Path,
    dtype: torch.dtype,
    device: torch.device,
    say: Say,
) -> tuple[Rows, ...]:
    """Return every prompt's embeddings, in order: one Rows for each of `family.embeddings`.

    The text encoders are loaded only where a prompt is new.
    """
    kind = f"{family.digest(*family.texts)[:16]}-{str(dtype).removeprefix('torch.')}"
    stores = [Store(root / "prompts" / kind / name) for name in family.embeddings]
    names = [hashlib.sha256(prompt.encode()).hexdigest() for prompt in prompts]
    # The last store is written last: what is in it is in all of them.
    missing = {n: p for n, p in zip(names, prompts, strict=True) if n not in stores[-1]}
    if missing:
        encoder = family.prompt_encoder(device)
        for start in range(0, len(missing), SHARD_ROWS):
            part = list(missing)[start : start + SHARD_ROWS]
            texts = [missing[name] for name in part]
            parts = [encoder(texts[i : i + 64]) for i in range(0, len(texts), 64)]
            if not start:
                row = sum(t[0].numel() for t in parts[0]) * dtype.itemsize
                where = root / "prompts" / kind
                announce(f"{len(missing)} prompts", row * len(missing), where, say)
            for store, tensors in zip(stores, zip(*parts, strict=True), strict=True):
                store.add(part, torch.cat([t.to("cpu", dtype) for t in tensors]))
    return tuple(store.select(names) for store in stores)


def _tell_of_another_vae(folder: Path, say: Say) -> None:
    """Say that the images were encoded before, by another VAE: it may have changed by accident."""
    vae, _, rest = folder.name.partition("-")
    others = [other for other in folder.parent.glob(f"*-{rest}") if other.name != folder.name]
    if any(any(other.glob("*.safetensors")) for other in others):
        names = ", ".join(sorted(other.name for other in others))
        say(
            f"beside it lies what another VAE encoded ({names}), which is of no use to this one "
            f"({vae}): if the VAE of model.base was not meant to change, stop and compare"
        )


def announce(what: str, size: int, folder: Path, say: Say) -> None:
    """Say what is about to be written, and refuse at once what the disk cannot hold."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if size > free:
        raise TrainingError(
            f"cache.root: {what} need {size / 2**30:.1f} GiB in {folder} and {free / 2**30:.1f} "
            "are free: make room or choose another cache.root"
        )
    say(f"encoding {what} into {folder}, {size / 2**20:.1f} MiB")


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside the place, flush to the disk, rename: a reader sees all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _read_images(images: Sequence[str], source: Path | None) -> Iterator[tuple[str, bytes]]:
    """Yield (image, bytes) of every wanted image, in the source's order."""
    if source is None:
        for image in images:
            try:
                yield image, Path(image).read_bytes()
            except OSError as error:
                raise ImageError(f"image {image!r} cannot be read: {error.strerror}") from error
        return
    wanted = set(images)
    try:
        for batch in pq.ParquetFile(source).iter_batches(256, columns=["image", "bytes"]):
            names, contents = batch["image"].to_pylist(), batch["bytes"].to_pylist()
            for image, content in zip(names, contents, strict=True):
                if image in wanted:
                    wanted.discard(image)
                    yield image, content
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise ImageError(f"votes.images: {source} cannot be read: {error}") from error
    if wanted:
        some = ", ".join(sorted(wanted)[:3])
        raise ImageError(f"votes.images: {source} lacks {len(wanted)} images, such as {some}")


def _opened(image: str, content: bytes) -> Any:
    """Return the image, whose size is known and whose pixels are not read yet."""
    from PIL import Image

    try:
        return Image.open(io.BytesIO(content))
    except OSError as error:
        raise ImageError(f"image {image!r} cannot be decoded: {error}") from error


def _pixels(image: str, picture: Any, resolution: int, view: View, digest: str) -> Tensor:
    """Decode, scale by the shorter side and crop: (3, resolution, resolution), in [-1, 1]."""
    from PIL import Image, ImageOps

    try:
        picture = picture.convert("RGB")
    except OSError as error:
        raise ImageError(f"image {image!r} cannot be decoded: {error}") from error
    at = (view.place(digest),) * 2
    size = (resolution, resolution)
    picture = ImageOps.fit(picture, size, Image.Resampling.LANCZOS, centering=at)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1
    return pixels.flip(2) if view.mirrored else pixels


def _source_stamp(images: Sequence[str], source: Path | None) -> str:
    """Name a list of images and the state of the files that hold them, without reading those."""
    try:
        files = [str(source)] if source is not None else images
        stats = [Path(file).stat() for file in files]
    except OSError as error:
        raise ImageError(f"votes.images: {error.filename}: {error.strerror}") from error
    stamp = [str(source), list(images), [(stat.st_size, stat.st_mtime_ns) for stat in stats]]
    return hashlib.sha256(json.dumps(stamp).encode()).hexdigest()


def _digest(digests: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()
