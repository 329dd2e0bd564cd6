"""Tensors by name on disk, computed once and read by memory map ever after.

A store is a folder of safetensors shards that only grows. It is named by what computed it, and a
tensor in it by the content that it was computed from: another VAE or another image can never be
taken for this one. A shard appears whole, by a rename, so a job that was killed keeps what it
finished, and two jobs that fill one store at once at worst write the same tensors twice.
"""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from arena.atomic import replacing
from training import TrainingError

Say = Callable[[str], None]


class Store:
    """A growing set of tensors by name, of any shapes, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._shards: dict[str, Any] = {}  # by tensor: the open shard that holds it
        self._opened: set[Path] = set()
        self.refresh()

    def __contains__(self, name: str) -> bool:
        return name in self._shards

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor in the precision of the store. Raises KeyError for an absent one."""
        return self._shards[name].get_tensor(name)

    def refresh(self) -> None:
        """Open the shards that others have written meanwhile."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path not in self._opened:
                self._open(path)

    def add(self, tensors: Mapping[str, Tensor]) -> None:
        """Write one shard, whole or not at all."""
        path = self.folder / f"{hashlib.sha256(''.join(tensors).encode()).hexdigest()}.safetensors"
        with replacing(path) as aside:
            save_file({name: value.contiguous() for name, value in tensors.items()}, aside)
        self._open(path)

    def _open(self, path: Path) -> None:
        try:
            shard = safe_open(path, "pt")  # maps the file: tensors are read when they are used
        except SafetensorError as error:
            raise TrainingError(
                f"cache.root: {path} is damaged ({error}): delete it and it is made again"
            ) from error
        self._opened.add(path)
        self._shards |= dict.fromkeys(shard.keys(), shard)


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
