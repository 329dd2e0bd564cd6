"""Several processes that train one policy: who takes which pairs, and how they agree.

`accelerate launch` or `torchrun` starts them; accelerate finds the others and the device. Each
takes its share of every batch and all average their gradients, so the step is that of one process
with the whole batch. Gradients are averaged in one message after the last backward pass: for a
LoRA they are small, and an objective that works on gradients sees them whole.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training import TrainingError

LONGEST = timedelta(days=7)  # one process may encode for hours while the others wait


@dataclass(frozen=True)
class Processes:
    """This process among `count`; `rank` 0 writes and speaks."""

    rank: int
    count: int
    device: torch.device
    host: Any = None
    """The group in which processes wait and agree over the network, without the device."""
    node: Any = None
    """The same among the processes of one machine."""

    def share(self, n: int) -> slice:
        """Return this process's part of n things, n a multiple of `count`."""
        part = n // self.count
        return slice(self.rank * part, (self.rank + 1) * part)

    def turns(self, n: int, size: int) -> list[np.ndarray]:
        """Return this process's part of n things, in arrays of at most `size` of their numbers.

        Every process has as many arrays, the last one perhaps empty: where they compute with
        weights that are shared out, they must do so equally often.
        """
        mine = np.arange(n)[self.rank :: self.count]
        most = -(-n // self.count)
        return np.array_split(mine, -(-most // size)) if n else []

    def average(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its mean over the processes."""
        if self.count == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors]).div_(self.count)
        torch.distributed.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def sum(self, tensor: Tensor) -> None:
        """Replace the tensor by its sum over the processes."""
        if self.count > 1:
            torch.distributed.all_reduce(tensor)

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the tensors (n, ...) of all processes, concatenated by rank."""
        if self.count == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.count)]
        torch.distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def any(self, value: bool) -> bool:
        """Whether the value is true in any process. It does not wait for the device."""
        if self.count == 1:
            return value
        flag = torch.tensor([int(value)])
        torch.distributed.all_reduce(flag, group=self.host)
        return bool(flag)

    def agree(self, value: Any, what: str) -> None:
        """Raise TrainingError unless the value is the same in every process."""
        if self.count > 1:
            every: list[Any] = [None] * self.count
            torch.distributed.all_gather_object(every, value, group=self.host)
            if any(each != every[0] for each in every):
                raise TrainingError(
                    f"the processes see different {what} ({every[:8]}): --out must lie on storage "
                    "that all nodes share"
                )

    def wait(self) -> None:
        """Return when all processes have come this far, however long that takes."""
        if self.count > 1:
            torch.distributed.barrier(group=self.host)

    def of_node(self) -> "Processes":
        """Return the processes of this machine by themselves."""
        rank, count = (int(os.environ[key]) for key in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
        return replace(self, rank=rank, count=count, host=self.node)

    @contextlib.contextmanager
    def one_after_the_other(self) -> Iterator[None]:
        """Within, the processes of one machine take turns, and need what they need in turn."""
        rank = int(os.environ.get("LOCAL_RANK", 0))
        count = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        for _ in range(rank):
            torch.distributed.barrier(group=self.node)
        yield
        for _ in range(count - rank) if self.count > 1 else ():
            torch.distributed.barrier(group=self.node)


def join_processes(batch_size: int) -> Processes:
    """Find the processes that were started together.

    Raises TrainingError when they cannot share a batch evenly.
    """
    if "RANK" not in os.environ:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return Processes(0, 1, device)
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    refuse_uneven(batch_size, state.num_processes)
    if state.num_processes == 1:
        return Processes(0, 1, state.device)
    new_group = torch.distributed.new_group
    host, node = new_group(backend="gloo", timeout=LONGEST), None
    local = int(os.environ.get("LOCAL_WORLD_SIZE", state.num_processes))
    for first in range(0, state.num_processes, local):  # every process takes part in making each
        ranks = list(range(first, min(first + local, state.num_processes)))
        group = new_group(ranks, backend="gloo", timeout=LONGEST)
        node = group if state.process_index in ranks else node
    return Processes(state.process_index, state.num_processes, state.device, host, node)


def refuse_uneven(batch_size: int, count: int) -> None:
    """Raise TrainingError where a batch cannot be shared evenly by `count` processes."""
    if batch_size % count:
        fits = ", ".join(str(n) for n in range(1, min(batch_size, 64) + 1) if batch_size % n == 0)
        raise TrainingError(
            f"train.batch_size = {batch_size} cannot be shared by {count} processes: start a "
            f"number of them that divides it ({fits})"
        )
