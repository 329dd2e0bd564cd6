"""Where torch.compile may be used, and what to say when it fails. It never goes on uncompiled."""

import contextlib
import re
from collections.abc import Iterator

from training import TrainingError
from training.config import ConfigError, PolicyConfig


def refuse_on_cpu(config: PolicyConfig, device: str) -> None:
    """Raise ConfigError where compiled gradients were wrong (docs/guide/training.md)."""
    if config.compile and device == "cpu":
        raise ConfigError(
            "train.compile = true needs a GPU: on a CPU torch's compiler gives the denoiser wrong "
            "gradients without an error; set train.compile = false"
        )


@contextlib.contextmanager
def compile_errors(config: PolicyConfig) -> Iterator[None]:
    """Turn a failure of torch.compile into one sentence that names the setting."""
    try:
        yield
    except RuntimeError as error:
        if not config.compile:
            raise
        from torch._dynamo.exc import TorchDynamoException

        if not isinstance(error, TorchDynamoException):
            raise
        raise TrainingError(
            f"train.compile = true: torch.compile failed ({_reason(str(error))}): it needs a C++ "
            "compiler and Python's headers (Debian: g++ and python3-dev); or set train.compile = "
            "false and continue with --resume"
        ) from error


def _reason(text: str) -> str:
    """Return a compiler's own first error, else the first line, of hundreds of lines."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if re.search(r"\berror: ", line)), lines[0])[:300]
