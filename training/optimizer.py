"""The optimiser, its learning rate over the steps, and the running mean of the weights."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from training.config import ConfigError, PolicyConfig
from training.sharding import slice_like


def require_library(config: PolicyConfig) -> None:
    """Raise ConfigError where the optimiser's library is not installed."""
    if config.optimizer == "adamw_8bit":
        try:
            import bitsandbytes.optim  # type: ignore[import-not-found]  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f'train.optimizer = "adamw_8bit" needs bitsandbytes ({error}): '
                'pip install bitsandbytes, or set train.optimizer = "adamw"'
            ) from error


def make_optimizer(config: PolicyConfig, weights: Iterable[Tensor]) -> torch.optim.Optimizer:
    """AdamW, fused, or bitsandbytes' 8-bit form, which keeps less than 4096 weights in fp32."""
    keys: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimizer == "adamw":
        return torch.optim.AdamW(weights, fused=True, **keys)
    from bitsandbytes.optim import AdamW8bit

    weights = list(weights)
    for weight in weights:
        # bitsandbytes does so too, but only after it made its moments in the old layout: their
        # strides would not tell the order of their bytes, and a checkpoint would shuffle them.
        weight.data = weight.data.contiguous()
    return AdamW8bit(weights, **keys)


def learning_rate(config: PolicyConfig, step: int) -> float:
    """The rate of `step`, counted from 0: a linear warm-up, then the schedule down to 0."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    passed = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    left = {
        "constant": 1.0,
        "linear": 1 - passed,
        "cosine": (1 + math.cos(math.pi * passed)) / 2,
    }
    return config.learning_rate * left[config.schedule]


class RunningMean:
    """The exponential running mean of weights: mean += (1 - decay) (weights - mean)."""

    def __init__(self, decay: float, weights: dict[str, Tensor]) -> None:
        self.decay = decay
        self.mean = {name: value.detach().clone() for name, value in weights.items()}

    @torch.no_grad()
    def update(self, step: int, weights: dict[str, Tensor]) -> None:
        """Take in the weights after `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.mean.values()), list(weights.values()), 1 - decay)

    @torch.no_grad()
    def swap(self, weights: dict[str, Tensor]) -> None:
        """Exchange the mean and the weights, in place."""
        for name, value in weights.items():
            kept = value.detach().clone()
            value.copy_(self.mean[name])
            self.mean[name].copy_(kept)


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, weights: dict[str, Any]
) -> dict[str, Tensor]:
    """Return the optimiser's state by `KEY.NAME` of the weight, no two sharing memory."""

    def own(key: str, value: Any) -> Tensor:
        # The 8-bit form's weights all hold the same two tables; safetensors refuses that.
        return value.clone() if key in ("qmap1", "qmap2") else torch.as_tensor(value)

    return {
        f"{key}.{name}": own(key, value)
        for name, weight in weights.items()
        for key, value in optimizer.state[weight].items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, weights: dict[str, Any], tensors: dict[str, Tensor]
) -> None:
    """Take over what `optimizer_tensors` returned."""
    states: dict[int, dict[str, Any]] = {index: {} for index in range(len(weights))}
    places = {name: index for index, name in enumerate(weights)}
    for both, value in tensors.items():
        key, _, name = both.partition(".")
        weight = weights[name]
        if value.shape == weight.shape and value.is_floating_point():
            # The fused kernel walks weight and moments by address: their layouts must agree.
            value = torch.empty_like(weight, dtype=value.dtype).copy_(slice_like(value, weight))
        eight_bit_step = key == "step" and not isinstance(optimizer, torch.optim.AdamW)
        states[places[name]][key] = int(value) if eight_bit_step else value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})
