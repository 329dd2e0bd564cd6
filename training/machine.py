"""What a run asks of its machine: refused before it starts, and explained where it is not there."""

import contextlib
import importlib.util
import re
import resource
import sys
from collections.abc import Iterator
from typing import Literal

import torch

from training import TrainingError
from training.config import ConfigError, PolicyConfig
from training.processes import Processes
from training.sharding import is_shared

Doing = Literal["encoding", "loading", "training"]
LIBRARIES = {"adamw_8bit": "bitsandbytes", "prodigy": "prodigyopt"}


def refuse_on_cpu(config: PolicyConfig, device: str) -> None:
    """Raise ConfigError where compiled gradients were wrong (docs/guide/training.md)."""
    if config.compile and device == "cpu":
        raise ConfigError(
            "train.compile = true needs a GPU: on a CPU torch's compiler gives the denoiser wrong "
            "gradients without an error; set train.compile = false"
        )


def require_libraries(config: PolicyConfig) -> None:
    """Raise ConfigError where a library that the configuration needs is not installed."""
    needed = {f'train.optimizer = "{config.optimizer}"': LIBRARIES.get(config.optimizer)}
    if config.quantization != "none":
        needed[f'train.quantization = "{config.quantization}"'] = "bitsandbytes"
    needed |= {f'train.trackers = ["{name}"]': name for name in config.trackers}
    for setting, library in needed.items():
        if library and importlib.util.find_spec(library) is None:
            raise ConfigError(f"{setting} needs {library}: pip install {library}, or give it up")


def refuse_what_cannot_be_shared(config: PolicyConfig, processes: Processes) -> None:
    """Raise ConfigError for settings that cannot be combined with shared weights."""
    if not is_shared(config, processes):
        return
    full = config.adaptation == "full"
    others = {
        "train.compile = true": config.compile,
        'train.precision = "fp16"': full and config.precision == "fp16",
        'train.optimizer = "adamw_8bit"': full and config.optimizer == "adamw_8bit",
    }
    for other in (name for name, on in others.items() if on):
        raise ConfigError(
            f"train.shard = true and {other} do not go together"
            f"{' in full fine-tuning' if full and 'compile' not in other else ''}: "
            'give one of them up (train.precision = "bf16" needs no scaled loss)'
        )


@contextlib.contextmanager
def compile_errors(config: PolicyConfig) -> Iterator[None]:
    """Turn a failure of torch.compile into one sentence; it never goes on uncompiled."""
    try:
        yield
    except RuntimeError as error:
        if not config.compile:
            raise
        from torch._dynamo.exc import TorchDynamoException

        if not isinstance(error, TorchDynamoException):
            raise
        # A compiler's own first error, else the first line, of hundreds of lines.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = next((line for line in lines if re.search(r"\berror: ", line)), lines[0])[:300]
        raise TrainingError(
            f"train.compile = true: torch.compile failed ({reason}): it needs a C++ compiler and "
            "Python's headers (Debian: g++ and python3-dev); or set train.compile = false and "
            "continue with --resume"
        ) from error


def forget_peak() -> None:
    """Count the peak of the GPU's memory from here."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_gib() -> float:
    """GiB: of the GPU where there is one, since `forget_peak`; else of this process, ever."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (peak if sys.platform == "darwin" else 1024 * peak) / 2**30


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
