"""Tensors by name on disk, computed once and read by memory map ever after.

A store is a folder of safetensors shards that only grows. It is named by what computed it, and a
row in it by the content that it was computed from: another VAE or another image can never be taken
for this one. A shard appears whole, by a rename, so a job that was killed keeps what it finished,
and two jobs that fill one store at once at worst write the same rows twice.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from arena.atomic import replacing
from training import TrainingError

Say = Callable[[str], None]


class Store:
    """A growing set of tensors by name, of any shapes and one number of axes, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._values: list[Tensor] = []  # each shard's, one after the other
        self._places: list[np.ndarray] = []  # (rows, 1 + axes) each row's start and shape
        self._rows: dict[str, tuple[int, int]] = {}
        self._opened: set[Path] = set()
        self.refresh()

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def refresh(self) -> None:
        """Open the shards that others have written meanwhile."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path not in self._opened:
                self._open(path)

    def add(self, names: Sequence[str], rows: Sequence[Tensor]) -> None:
        """Write one shard: a tensor for each name, whole or not at all."""
        path = self.folder / f"{hashlib.sha256(''.join(names).encode()).hexdigest()}.safetensors"
        sizes = np.array([row.numel() for row in rows])
        places = np.column_stack([sizes.cumsum() - sizes, [tuple(row.shape) for row in rows]])
        tensors = {"values": torch.cat([row.reshape(-1) for row in rows]),
                   "places": torch.from_numpy(places)}  # fmt: skip
        with replacing(path) as aside:
            save_file(tensors, aside, {"names": json.dumps(list(names))})
        self._open(path)

    def select(self, names: Sequence[str]) -> "Rows":
        """Return the tensors of `names`, in their order. Raises KeyError for an absent one."""
        where = np.array([self._rows[name] for name in names], dtype=np.int64).reshape(-1, 2)
        return Rows(self._values, self._places, where)

    def _open(self, path: Path) -> None:
        try:
            with safe_open(path, "pt") as file:  # maps the file: rows are read when they are used
                values, names = file.get_tensor("values"), json.loads(file.metadata()["names"])
                places = file.get_tensor("places").numpy()
        except (SafetensorError, KeyError, TypeError) as error:
            raise TrainingError(
                f"cache.root: {path} is damaged ({error}): delete it and it is made again"
            ) from error
        self._opened.add(path)
        self._values.append(values)
        self._places.append(places)
        self._rows.update({name: (len(self._values) - 1, row) for row, name in enumerate(names)})


class Rows:
    """Tensors of a store by position; what `Store.select` gives."""

    def __init__(self, values: list[Tensor], places: list[np.ndarray], where: np.ndarray) -> None:
        self._values, self._places, self._where = values, places, where

    def __len__(self) -> int:
        return len(self._where)

    def take(self, rows: np.ndarray) -> list[Tensor]:
        """Return the tensors at `rows` (n,), in the precision of the store."""
        found = []
        for shard, row in self._where[rows].tolist():
            start, *shape = self._places[shard][row].tolist()
            size = int(np.prod(shape))
            found.append(self._values[shard][start : start + size].view(shape))
        return found


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
