"""Several processes that train one policy: who takes which pairs, and how they agree.

`accelerate launch` or `torchrun` starts them; accelerate finds the others and the device. Each
takes its share of every batch and all average their gradients, so the step is that of one process
with the whole batch. Gradients are averaged in one message after the last backward pass: for a
LoRA they are small, and an objective that works on gradients sees them whole.
"""

import os
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training import TrainingError


@dataclass(frozen=True)
class Processes:
    """This process among `count`; `rank` 0 writes and speaks."""

    rank: int
    count: int
    device: torch.device

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
        flat = torch.cat([tensor.flatten() for tensor in tensors]) / self.count
        torch.distributed.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the tensors (n, ...) of all processes, concatenated by rank."""
        if self.count == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.count)]
        torch.distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def wait(self) -> None:
        """Return when all processes have come this far."""
        if self.count > 1:
            torch.distributed.barrier()


def join_processes(batch_size: int, accumulation: int) -> Processes:
    """Find the processes that were started together.

    Raises TrainingError when they cannot share a batch evenly.
    """
    from accelerate import PartialState

    if "RANK" not in os.environ:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return Processes(0, 1, device)
    state = PartialState(cpu=not torch.cuda.is_available())
    if batch_size % (state.num_processes * accumulation):
        raise TrainingError(
            f"train.batch_size = {batch_size} cannot be shared by {state.num_processes} processes "
            f"with train.accumulation = {accumulation}: it must be a multiple of their product"
        )
    return Processes(state.process_index, state.num_processes, state.device)
