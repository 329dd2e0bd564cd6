"""The memory that a run has taken, and what to do when there is not enough."""

import contextlib
import resource
import sys
from collections.abc import Iterator

import torch

from training import TrainingError
from training.config import PolicyConfig


def peak_memory() -> int:
    """Bytes: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


@contextlib.contextmanager
def out_of_memory(config: PolicyConfig) -> Iterator[None]:
    """Turn a full GPU into the settings to lower, and by how much."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        part = config.batch_size // config.accumulation
        ways = []
        if part > 1:
            least = next(n for n in range(2, part + 1) if part % n == 0)
            ways.append(
                f"train.accumulation = {config.accumulation * least} instead of "
                f"{config.accumulation} ({part // least} pairs at once instead of {part}, the same "
                "step)"
            )
        if not config.gradient_checkpointing:
            ways.append("train.gradient_checkpointing = true")
        if config.precision == "fp32":
            ways.append('train.precision = "bf16"')
        if config.adaptation == "full":
            ways.append('train.optimizer = "adamw_8bit"')
            ways.append('train.adaptation = "lora"')
        if not config.shard:
            ways.append("train.shard = true on several GPUs")
        raise TrainingError(
            f"out of GPU memory with {part} pairs at once ({str(error).split('.')[0]}): "
            f"set {', or '.join(ways) or 'a smaller model.resolution'}"
        ) from error
