"""What a run shows the model: which images and prompts, their latents and their embeddings.

The rows of every step are a function of (seed, step), so only the images and prompts that the run
will show are read and encoded. Every policy and study that shares them shares the work.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arena.atomic import replacing
from training import TrainingError
from training.families import Family
from training.processes import Processes
from training.store import Rows, Say, Store, announce
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

    def remember() -> None:
        for note in sorted(folder.glob("*.json")):
            kept = json.loads(note.read_text())
            known.update({name: Picture(*of) for name, of in kept.items()})

    def key(image: str) -> str:  # a file may change by itself, a parquet's rows with the parquet
        return image if source.images else f"{image} {_stamp(Path(image))}"

    remember()
    missing = [image for image in images if key(image) not in known]
    source.processes.wait()  # until all know what is missing
    mine = _share(_in_order(missing, source.images), source.processes)
    for part in _parts(_contents(mine, source.images), READ_AT_ONCE):
        found = {key(image): (hashlib.sha256(content).hexdigest(), *size_of(image, content))
                 for image, content in part}  # fmt: skip
        name = hashlib.sha256("\n".join(found).encode()).hexdigest()
        with replacing(folder / f"{name}.json") as aside:
            aside.write_text(json.dumps(found))
    source.processes.wait()
    remember()
    if any(key(image) not in known for image in images):  # nodes that share no disk
        return pictures(_alone(source), images)
    return {image: known[key(image)] for image in images}


def latents(source: Source, shown: Sequence[tuple[str, Picture]], shape: Shape, view: View) -> Rows:
    """Return the latent (c, h, w) of every image in one shape and one view, in order.

    The VAE is loaded only when a latent is missing. Raises ImageError naming an image that cannot
    be decoded.
    """
    family, height, width = source.family, *shape
    size = str(height) if height == width else f"{height}x{width}"
    kind = f"{family.digest('vae')[:16]}-{size}-{_name(source.latent_dtype)}{view}"
    store = Store(source.cache / "latents" / kind)
    missing = {picture.digest: image for image, picture in shown if picture.digest not in store}
    source.processes.wait()  # until all know what is missing
    if missing:
        row = int(np.prod(family.latent_shape(*shape))) * source.latent_dtype.itemsize
        what = f"{len(missing)} images at {width} x {height}"
        announce(what, row * len(missing), store.folder, source.say)
        _tell_of_another_vae(store.folder, source.say)
        ordered = _in_order(list(missing.values()), source.images)
        by_image = {image: digest for digest, image in missing.items()}
        mine = _share(ordered, source.processes)
        _encode_images(source, store, mine, by_image, shape, view)
    source.processes.wait()
    store.refresh()
    if any(picture.digest not in store for _, picture in shown):  # nodes that share no disk
        return latents(_alone(source), shown, shape, view)
    return store.select([picture.digest for _, picture in shown])


def prompt_embeddings(source: Source, prompts: Sequence[str]) -> tuple[Rows, ...]:
    """Return every prompt's embeddings, in order: one Rows for each of `family.embeddings`."""
    names = [hashlib.sha256(prompt.encode()).hexdigest() for prompt in prompts]
    return _embeddings(source, dict(zip(names, prompts, strict=True)), names)


def unprompted_embeddings(source: Source) -> tuple[Rows, ...]:
    """Return what the pipeline guides against where it is given no negative prompt."""
    return _embeddings(source, {"unprompted": None}, ["unprompted"])


def _embeddings(
    source: Source, wanted: dict[str, str | None], names: Sequence[str]
) -> tuple[Rows, ...]:
    """Return the embeddings of `names`; `wanted` has the prompt of each, None for no prompt.

    The text encoders are loaded only where one is missing, and go through a few prompts at a time.
    """
    family = source.family
    told = hashlib.sha256(repr(sorted(family.encoding.items())).encode()).hexdigest()[:8]
    kind = f"{family.digest(*family.texts)[:16]}-{told}-{_name(source.text_dtype)}"
    stores = [Store(source.cache / "prompts" / kind / name) for name in family.embeddings]
    # The last store is written last: what is in it is in all of them.
    missing = [name for name in wanted if name not in stores[-1]]
    source.processes.wait()  # until all know what is missing
    if mine := _share(missing, source.processes):
        _encode_prompts(source, stores, {name: wanted[name] for name in mine})
    source.processes.wait()
    for store in stores:
        store.refresh()
    if any(name not in stores[-1] for name in wanted):  # nodes that share no disk
        return _embeddings(_alone(source), wanted, names)
    return tuple(store.select(names) for store in stores)


def _encode_prompts(source: Source, stores: list[Store], wanted: dict[str, str | None]) -> None:
    folder, device = stores[0].folder.parent, source.processes.device
    encoder = source.family.prompt_encoder(device, offload=source.offload)
    texts = [text for text in wanted.values() if text is not None]
    if texts and (cut := sum(encoder.cut(texts[i : i + 1024]) for i in range(0, len(texts), 1024))):
        source.say(f"{cut} of {len(texts)} prompts are longer than the text encoder reads: cut off")
    ready: dict[str, tuple[Tensor, ...]] = {}
    for i, part in enumerate(_parts(list(wanted), PROMPTS_AT_ONCE)):
        if wanted[part[0]] is None:
            found = [encoder.unprompted()]
        else:
            found = encoder.encode([wanted[name] or "" for name in part])
        ready |= {name: tuple(t.to("cpu", source.text_dtype) for t in tensors)
                  for name, tensors in zip(part, found, strict=True)}  # fmt: skip
        if not i:
            row = sum(t.numel() for t in ready[part[0]]) * source.text_dtype.itemsize
            announce(f"{len(wanted)} prompts", row * len(wanted), folder, source.say)
        if len(ready) >= SHARD_ROWS or part[-1] == list(wanted)[-1]:
            for number, store in enumerate(stores):
                store.add(list(ready), [tensors[number] for tensors in ready.values()])
            ready = {}


def _encode_images(
    source: Source,
    store: Store,
    images: Sequence[str],
    digests: dict[str, str],
    shape: Shape,
    view: View,
) -> None:
    """Decode in a pool, encode a batch at a time, write a shard at a time."""
    if not images:
        return
    encoder = source.family.image_encoder(source.processes.device)
    at_once = min(64, max(1, BATCH_PIXELS // (shape[0] * shape[1])))
    names: list[str] = []
    rows: list[Tensor] = []
    done = 0

    def decode(item: tuple[str, bytes]) -> tuple[str, Tensor]:
        return digests[item[0]], pixels_of(*item, shape, view, digests[item[0]])

    with ThreadPoolExecutor(8, "decode") as pool:
        for batch in _parts(_contents(images, source.images), at_once):
            found = list(pool.map(decode, batch))
            encoded = encoder(torch.stack([pixels for _, pixels in found]))
            names += [digest for digest, _ in found]
            rows += list(encoded.to("cpu", source.latent_dtype))
            done += len(batch)
            if len(names) >= SHARD_ROWS or done == len(images):
                store.add(names, rows)
                source.say(f"{done} of {len(images)} images encoded")
                names, rows = [], []


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


def _alone(source: Source) -> Source:
    """The same source for a node by itself, whose processes do all that it lacks."""
    if source.processes.count == 1:
        raise TrainingError(f"cache.root: what was written into {source.cache} cannot be read back")
    return replace(source, processes=source.processes.of_node())


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
