"""The optimiser, its state by name, and its learning rate over the steps."""

import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from training.config import PolicyConfig
from training.processes import Processes
from training.sharding import slice_like


def make_optimizer(config: PolicyConfig, weights: Iterable[Tensor]) -> torch.optim.Optimizer:
    """Return the optimiser by its name; bitsandbytes' keeps less than 4096 weights in fp32."""
    weights = list(weights)
    keys: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimizer == "adamw":
        fused = weights[0].device.type != "meta"
        return torch.optim.AdamW(weights, fused=fused, **keys)
    if config.optimizer == "adafactor":
        return torch.optim.Adafactor(weights, **keys)
    if config.optimizer == "prodigy":
        from prodigyopt import Prodigy  # type: ignore[import-not-found]

        return Prodigy(weights, safeguard_warmup=True, use_bias_correction=True, **keys)
    from bitsandbytes.optim import AdamW8bit  # type: ignore[import-not-found]

    for weight in weights:
        # bitsandbytes does so too, but only after it made its moments in the old layout: their
        # strides would not tell the order of their bytes, and a checkpoint would shuffle them.
        weight.data = weight.data.contiguous()
    return AdamW8bit(weights, **keys)


class ExactSums:
    """Sums of the gradients of several backward passes, the same in any order and grouping.

    Each gradient is rounded to a multiple of 2^-48, a whole number of 64 bits: such sums are exact
    up to 2^15. fp32 sums would depend on their order in the last bits.
    """

    UNIT = 2.0**48

    def __init__(self, weights: Iterable[Tensor]) -> None:
        self._sums = {weight: torch.zeros_like(weight, dtype=torch.int64) for weight in weights}
        for weight, total in self._sums.items():
            weight.register_hook(functools.partial(self._add, total))

    def _add(self, total: Tensor, gradient: Tensor) -> None:
        total += (gradient.double() * self.UNIT).round().long()

    def into_gradients(self, processes: Processes) -> None:
        """Put the sums over all processes in place of the gradients, and start anew at nothing."""
        for weight, total in self._sums.items():
            processes.sum(total)
            if weight.grad is not None:
                exact = (total.double() / self.UNIT).to(weight.dtype)
                weight.grad = exact.where(weight.grad.isfinite(), weight.grad)
            total.zero_()


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


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, weights: dict[str, Any]
) -> dict[str, Tensor]:
    """Return the optimiser's state by `KEY.NAME` of the weight, no two sharing memory.

    What it keeps for a group of weights, as Prodigy does its distance, is under `group.KEY`.
    """

    def own(key: str, value: Any) -> Tensor:
        # The 8-bit form's weights all hold the same two tables; safetensors refuses that.
        if key in ("qmap1", "qmap2"):
            return value.clone()
        return torch.as_tensor(value, dtype=torch.float64 if isinstance(value, float) else None)

    state = {
        f"{key}.{name}": own(key, value)
        for name, weight in weights.items()
        for key, value in optimizer.state[weight].items()
        if value is not None
    }
    group = optimizer.param_groups[0]
    kept = {k: v for k, v in group.items() if isinstance(v, int | float) or torch.is_tensor(v)}
    return state | {f"group.{key}": own(key, value) for key, value in kept.items()}


def load_optimizer(
    optimizer: torch.optim.Optimizer, weights: dict[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Take over what `optimizer_tensors` returned, under `optimizer.`, a tensor at a time."""
    states: dict[int, dict[str, Any]] = {index: {} for index in range(len(weights))}
    places = {name: index for index, name in enumerate(weights)}
    groups = optimizer.state_dict()["param_groups"]
    for full in (name for name in tensors if name.startswith("optimizer.")):
        key, _, name = full.removeprefix("optimizer.").partition(".")
        value = tensors[full]
        if key == "group":
            groups[0][name] = value if torch.is_tensor(groups[0].get(name)) else value.item()
            continue
        weight = weights[name]
        if value.shape == weight.shape and value.is_floating_point():
            # The fused kernel walks weight and moments by address: their layouts must agree.
            value = torch.empty_like(weight, dtype=value.dtype).copy_(slice_like(value, weight))
        plain = isinstance(optimizer, torch.optim.AdamW | torch.optim.Adafactor)
        states[places[name]][key] = int(value) if key == "step" and not plain else value
    optimizer.load_state_dict({"state": states, "param_groups": groups})
