"""Weights shared out over the processes (FSDP): for a denoiser that does not fit one card.

Each process keeps its slice of every weight and of the optimiser's state, and gathers a block's
weights while that block computes (torch's `fully_shard`; Zhao et al., arXiv 2304.11277). A LoRA is
small, so it stays whole on every process and only the frozen weights beneath it are shared out.
The step is the same as with whole weights: gathered and reduced in fp32, or in the frozen weights'
own type.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from training.config import PolicyConfig
from training.processes import Processes


def is_shared(config: PolicyConfig, processes: Processes) -> bool:
    """Whether weights are shared out: the run asks for it, and there is more than one process."""
    return config.shard and processes.count > 1


def mesh_of(processes: Processes) -> Any:
    """Return the mesh over which weights are shared out; all processes must ask together."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(processes.device.type, (processes.count,))


def share_out(
    denoiser: Any, mesh: Any, device: torch.device, whole: Iterable[torch.nn.Parameter] = ()
) -> None:
    """Leave this process its slice of each weight of `denoiser` but those in `whole`, in place.

    The denoiser lies on the CPU and comes to the device block by block, so no card ever holds all
    of it. Blocks are those that diffusers never splits over devices.
    """
    from torch.distributed.fsdp import fully_shard

    kept = set(whole)
    for parameter in kept:
        parameter.data = parameter.data.to(device)
    names = set(denoiser._no_split_modules)
    blocks = [module for module in denoiser.modules() if type(module).__name__ in names]
    # From the inside out, since a block may lie in another one; what is in none is the root's.
    # None keeps its gathered weights: they would outlive a change of the slices, as when a
    # validation has put the running mean in their place.
    for block in [*reversed(blocks), denoiser]:
        fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=kept)


def gathered(tensor: Any) -> Tensor:
    """Return the whole of a tensor that may be shared out; all processes must ask together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def collected(
    tensors: Mapping[str, Tensor], processes: Processes, *, copy: bool = False
) -> dict[str, Tensor]:
    """Return the tensors whole and on the CPU in the first process, nothing in the others.

    All processes must ask together; the others would hold the whole for nothing.
    """
    found = {}
    for name, value in tensors.items():
        whole = gathered(value.detach())
        if processes.rank == 0:
            found[name] = whole.to("cpu", copy=copy)
    return found


def slice_like(value: Tensor, like: Any) -> Tensor:
    """Return of the whole `value` what this process keeps of `like`, shared out or not."""
    if not isinstance(like, DTensor):
        return value
    value = value.to(like.device)
    # Every process holds the same whole value: nothing is sent.
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def kept_here(parameters: Iterable[Any]) -> tuple[int, int]:
    """Count the values that this process keeps, and all of them."""
    both = [(p.to_local() if isinstance(p, DTensor) else p, p) for p in parameters]
    return sum(mine.numel() for mine, _ in both), sum(p.numel() for _, p in both)


def unshared(gradients: Iterable[Tensor]) -> list[Tensor]:
    """Return the gradients of whole weights: those of shared ones are averaged as they arise."""
    return [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
