"""The memory that a run has taken, and what to do when there is not enough."""

import contextlib
import resource
import sys
from collections.abc import Iterator
from typing import Literal

import torch

from training import TrainingError
from training.config import PolicyConfig

Doing = Literal["encoding", "loading", "training"]


def forget_peak() -> None:
    """Count the peak of the GPU's memory from here."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> int:
    """Bytes: of the GPU where there is one, since `forget_peak`; else of this process, ever."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


@contextlib.contextmanager
def out_of_memory(config: PolicyConfig, doing: Doing) -> Iterator[None]:
    """Turn a full GPU into the settings to change, those first that the run goes on with."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"out of GPU memory while {doing} ({str(error).split('.')[0]}): {advice(config, doing)}"
        ) from error


def advice(config: PolicyConfig, doing: Doing) -> str:
    """Return what then takes less memory: of the same run, and of another one."""
    if doing == "encoding":
        return (
            "set train.offload_encoders = true"
            if not config.offload_encoders
            else "the encoders' largest layer does not fit beside what else is on the GPU: free it"
        )
    full, same, other = config.adaptation == "full", [], []
    at_once = min(config.pairs_at_once, config.batch_size)
    if doing == "training" and at_once > 1:
        same.append(f"train.pairs_at_once = {at_once // 2} instead of {at_once}")
    if doing == "training" and not config.gradient_checkpointing:
        same.append("train.gradient_checkpointing = true")
    if not (config.shard or config.compile or (full and config.optimizer == "adamw_8bit")):
        same.append("train.shard = true on several GPUs")
    if config.precision in ("fp32", "tf32"):
        other.append('train.precision = "bf16"')
    if full:
        if config.optimizer == "adamw":
            other.append('train.optimizer = "adamw_8bit"')
        other.append('train.adaptation = "lora"')
    elif config.quantization == "none":
        other.append('train.quantization = "nf4"')
    if doing == "training":
        other.append("a smaller model.resolution")
    ways = [f"continue with --resume and {', or '.join(same)} (the same step)"] if same else []
    ways += [f"start again in a new --out with {', or '.join(other)}"] if other else []
    return "; or ".join(ways) or "take a larger GPU"
