"""What a run shows the model: which images and prompts, their latents and their embeddings.

The rows of every step are a function of (seed, step), so only the images and prompts that the run
will show are read and encoded. Every policy and study that shares them shares the work.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arena.atomic import replacing
from training import TrainingError
from training.families import Family
from training.processes import Processes
from training.store import Say, Store, announce
from training.views import ImageError, Picture, Shape, View, pixels_of, size_of

SHARD_ROWS = 1024
BATCH_PIXELS = 2**21  # through the VAE at once: 8 images of 512 px
PROMPTS_AT_ONCE = 16
READ_AT_ONCE = 256


@dataclass(frozen=True)
class Source:
    """Where a run finds its images, and where it keeps what it computes of them."""

    family: Family
    images: Path | None  # a file that holds them, or None where their names are paths
    cache: Path
    processes: Processes
    say: Say
    latent_dtype: torch.dtype = torch.float32
    text_dtype: torch.dtype = torch.float32
    offload: bool = False  # whether text encoders come to the device layer by layer


def pictures(source: Source, images: Sequence[str]) -> dict[str, Picture]:
    """Return each image's digest and size. Raises ImageError naming one that cannot be read.

    What was once read is remembered for as long as the file that holds it has not changed.
    """
    folder = source.cache / "digests" / _stamp(source.images)
    known: dict[str, Picture] = {}
    notes: set[Path] = set()

    # A file may change by itself, a parquet's rows with the parquet.
    keys = {i: i if source.images else f"{i} {_stamp(Path(i))}" for i in images}

    def missing() -> list[str]:
        for note in set(folder.glob("*.json")) - notes:
            kept = json.loads(note.read_text())
            known.update({name: Picture(*of) for name, of in kept.items()})
            notes.add(note)
        return _in_order([image for image, key in keys.items() if key not in known], source.images)

    def read(mine: list[str], all_missing: int) -> None:
        for part in _parts(_contents(mine, source.images), READ_AT_ONCE):
            found = {keys[image]: (hashlib.sha256(content).hexdigest(), *size_of(image, content))
                     for image, content in part}  # fmt: skip
            name = hashlib.sha256("\n".join(found).encode()).hexdigest()
            with replacing(folder / f"{name}.json") as aside:
                aside.write_text(json.dumps(found))

    _complete(source, missing, read)
    return {image: known[key] for image, key in keys.items()}


def latents(source: Source, shown: Mapping[str, Picture], shape: Shape, view: View) -> Store:
    """Return a store with the latent (c, h, w) of every image in one shape and one view.

    A latent is under its picture's digest. The VAE is loaded only when one is missing. Raises
    ImageError naming an image that cannot be decoded.
    """
    family, dtype, (height, width) = source.family, source.latent_dtype, shape
    size = str(height) if height == width else f"{height}x{width}"
    kind = f"{family.digest('vae')[:16]}-{size}-{_name(dtype)}{view}"
    store = Store(source.cache / "latents" / kind)

    def missing() -> list[str]:
        store.refresh()
        lacks = {p.digest: image for image, p in shown.items() if p.digest not in store}
        return _in_order(list(lacks.values()), source.images)

    def encode(mine: list[str], all_missing: int) -> None:
        row = math.prod(family.latent_shape(*shape)) * dtype.itemsize
        what = f"{all_missing} images at {width} x {height}"
        announce(what, row * all_missing, store.folder, source.say)
        _tell_of_another_vae(store.folder, source.say)
        _encode_images(source, store, {image: shown[image].digest for image in mine}, shape, view)

    _complete(source, missing, encode)
    return store


def embeddings(source: Source, prompts: Iterable[str | None]) -> tuple[Store, ...]:
    """Return stores with every prompt's embeddings, one for each of `family.embeddings`.

    A prompt is under `prompt_name`; None is what the pipeline guides against where it is given no
    negative prompt. The text encoders are loaded only where one is missing.
    """
    family, wanted = source.family, {prompt_name(prompt): prompt for prompt in prompts}
    told = hashlib.sha256(repr(sorted(family.encoding.items())).encode()).hexdigest()[:8]
    kind = f"{family.digest(*family.texts)[:16]}-{told}-{_name(source.text_dtype)}"
    stores = tuple(Store(source.cache / "prompts" / kind / name) for name in family.embeddings)

    def missing() -> list[str]:
        for store in stores:
            store.refresh()
        # The last store is written last: what is in it is in all of them.
        return [name for name in wanted if name not in stores[-1]]

    def encode(mine: list[str], all_missing: int) -> None:
        _encode_prompts(source, stores, [wanted[name] for name in mine])

    _complete(source, missing, encode)
    return stores


def prompt_name(prompt: str | None) -> str:
    """Return the name of a prompt's embeddings in their stores."""
    return "unprompted" if prompt is None else hashlib.sha256(prompt.encode()).hexdigest()


def _complete(
    source: Source, missing: Callable[[], list[str]], make: Callable[[list[str], int], None]
) -> None:
    """Have what is `missing` made: each process `make`s its run of it, told of how many in all.

    Nodes that share no disk then still lack what the others made: each makes all for itself.
    """

    def take_part(processes: Processes) -> list[str]:
        lacking = missing()
        processes.wait()  # until all know what is missing
        if lacking:
            make(_share(lacking, processes), len(lacking))
        processes.wait()
        return missing()

    left = take_part(source.processes)
    if left and source.processes.count > 1:
        left = take_part(source.processes.of_node())
    if left:
        raise TrainingError(f"cache.root: what was written into {source.cache} cannot be read back")


def _encode_prompts(source: Source, stores: Sequence[Store], prompts: list[str | None]) -> None:
    """Encode a few prompts at a time, write a shard at a time."""
    if not prompts:
        return
    device, dtype = source.processes.device, source.text_dtype
    encoder = source.family.prompt_encoder(device, offload=source.offload)
    texts = [prompt for prompt in prompts if prompt is not None]
    if cut := sum(encoder.cut(part) for part in _parts(texts, 1024)):
        source.say(f"{cut} of {len(texts)} prompts are longer than the text encoder reads: cut off")
    parts: list[list[Any]] = [*_parts(texts, PROMPTS_AT_ONCE), *[[None]] * (None in prompts)]
    ready: dict[str, tuple[Tensor, ...]] = {}
    for part in parts:
        found = [encoder.unprompted()] if part == [None] else encoder.encode(part)
        for prompt, tensors in zip(part, found, strict=True):
            ready[prompt_name(prompt)] = tuple(each.to("cpu", dtype) for each in tensors)
        if part is parts[0]:
            row = sum(each.numel() for each in next(iter(ready.values()))) * dtype.itemsize
            where = stores[0].folder.parent
            announce(f"{len(prompts)} prompts", row * len(prompts), where, source.say)
        if len(ready) >= SHARD_ROWS or part is parts[-1]:
            for number, store in enumerate(stores):
                store.add({name: tensors[number] for name, tensors in ready.items()})
            ready = {}


def _encode_images(
    source: Source, store: Store, digests: dict[str, str], shape: Shape, view: View
) -> None:
    """Decode in a pool, encode a batch at a time, write a shard at a time."""
    if not digests:
        return
    encoder = source.family.image_encoder(source.processes.device)
    at_once = min(64, max(1, BATCH_PIXELS // (shape[0] * shape[1])))
    ready: dict[str, Tensor] = {}
    done = 0

    def decode(item: tuple[str, bytes]) -> Tensor:
        return pixels_of(*item, shape, view, digests[item[0]])

    with ThreadPoolExecutor(8, "decode") as pool:
        for batch in _parts(_contents(digests, source.images), at_once):
            encoded = encoder(torch.stack(list(pool.map(decode, batch))))
            rows = encoded.to("cpu", source.latent_dtype)
            ready |= {digests[image]: row for (image, _), row in zip(batch, rows, strict=True)}
            done += len(batch)
            if len(ready) >= SHARD_ROWS or done == len(digests):
                store.add(ready)
                source.say(f"{done} of {len(digests)} images encoded")
                ready = {}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _parts(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of up to `size` items."""
    waiting = iter(items)
    while part := list(itertools.islice(waiting, size)):
        yield part


def _share(items: Sequence[str], processes: Processes) -> list[str]:
    """Return this process's run of items: neighbours in a file are read by one process."""
    cuts = np.linspace(0, len(items), processes.count + 1).round().astype(int)
    return list(items[cuts[processes.rank] : cuts[processes.rank + 1]])


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


def _contents(images: Iterable[str], source: Path | None) -> Iterator[tuple[str, bytes]]:
    """Yield (image, bytes) of every wanted image, in the source's order."""
    from arena.votes.images import ImageFault, Images

    try:
        for image, content in Images([source] if source else []).contents(images):
            if isinstance(content, ImageFault):
                where = f"votes.images: {source} lacks it: " if source else ""
                raise ImageError(f"{where}image {image!r}: {content}")
            yield image, content
    except (OSError, KeyError, ValueError) as error:
        if isinstance(error, TrainingError):
            raise
        raise ImageError(f"votes.images: {source} cannot be read: {error}") from error


def _in_order(images: list[str], source: Path | None) -> list[str]:
    """Return images in the order in which a parquet holds them, others as they come."""
    import pyarrow.parquet as pq

    if source is None or len(images) < 2 or source.suffix != ".parquet":
        return images
    if "image" not in pq.read_schema(source).names:
        return images
    wanted = set(images)
    names = pq.read_table(source, columns=["image"])["image"].to_pylist()
    ordered = [name for name in dict.fromkeys(names) if name in wanted]
    return ordered + sorted(wanted - set(ordered))


def _stamp(file: Path | None) -> str:
    """Name the state of a file, or of a folder's shards, without reading them."""
    if file is None:
        return "files"
    from arena.votes.images import shards

    try:
        states = [(each.resolve(), each.stat()) for each in shards(file)]
    except OSError as error:
        raise ImageError(f"votes.images: {file}: {error.strerror}") from error
    text = "\n".join(f"{path} {state.st_size} {state.st_mtime_ns}" for path, state in states)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
