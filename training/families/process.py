"""Forward processes: at which times noise is mixed into latents, how, and what is predicted.

A process reads the configuration of the pipeline's scheduler. The scheduler's own steps, with which
it samples, play no part in training.
"""

import inspect
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training import TrainingError


class ModelError(TrainingError):
    """The base model is missing, broken, or of a family that is not supported."""


class Discrete:
    """DDPM's forward process (arXiv 2006.11239) over T steps; t is drawn evenly from 0 to T - 1."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        kind = config.get("_class_name", "its scheduler")
        if not ({"beta_schedule", "trained_betas"} & config.keys()) or kind.startswith("EDM"):
            raise ModelError(
                f"model.base: {folder} samples with {kind}, which states no schedule of betas: its "
                "model was trained under another forward process, which is not supported"
            )
        given = inspect.signature(DDPMScheduler).parameters
        self._schedule = DDPMScheduler(**{k: v for k, v in config.items() if k in given})
        self.prediction_type = self._schedule.config.prediction_type
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise ModelError(
                f"model.base: {folder} predicts {self.prediction_type!r}; "
                "supported: epsilon, v_prediction"
            )

    def draw(
        self, tokens: Sequence[int], generator: torch.Generator, device: torch.device
    ) -> Tensor:
        """Draw a time for each of n images, whole steps; their `tokens` change nothing here."""
        steps = self._schedule.config.num_train_timesteps
        return torch.randint(0, steps, (len(tokens),), generator=generator, device=device)

    def noisy(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps (there, equation 4)."""
        return self._schedule.add_noise(latents, noise, times)

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Return eps, or the velocity (2202.00512) sqrt(abar_t) eps - sqrt(1 - abar_t) x_0."""
        if self.prediction_type == "epsilon":
            return noise
        return self._schedule.get_velocity(latents, noise, times)


class Flow:
    """Flow matching (arXiv 2403.03206): x_sigma = (1 - sigma) x_0 + sigma eps, v = eps - x_0.

    sigma is logit-normal (there, section 3.1), then shifted towards noise as the scheduler shifts
    it when it samples: by a constant, or by the number of the image's tokens.
    """

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        kind = config.get("_class_name")
        flows = kind == "FlowMatchEulerDiscreteScheduler" or config.get("use_flow_sigmas")
        if not flows:
            raise ModelError(f"model.base: {folder} samples with {kind}; a flow model is expected")
        self.config = config

    def draw(
        self, tokens: Sequence[int], generator: torch.Generator, device: torch.device
    ) -> Tensor:
        """Draw a sigma in (0, 1) for each of n images of so many tokens.

        u is logit-normal, and shifted by s to s u / (1 + (s - 1) u).
        """
        u = torch.randn((len(tokens),), generator=generator, device=device).sigmoid()
        shift = torch.tensor([self.shift(each) for each in tokens]).to(device, non_blocking=True)
        return shift * u / (1 + (shift - 1) * u)

    def shift(self, tokens: int) -> float:
        """The shift for an image of so many tokens: a constant (3 for SD3), or exp(mu)."""
        if not self.config.get("use_dynamic_shifting"):
            return float(self.config.get("flow_shift", self.config.get("shift", 1.0)))
        mu = self.mu(tokens)
        return math.exp(mu) if self.config.get("time_shift_type") != "linear" else mu

    def mu(self, tokens: int) -> float:
        """Linear in the number of tokens, as `calculate_shift` of diffusers' pipelines."""
        get = self.config.get
        low, high = get("base_image_seq_len", 256), get("max_image_seq_len", 4096)
        base, most = get("base_shift", 0.5), get("max_shift", 1.15)
        return base + (most - base) / (high - low) * (tokens - low)

    def noisy(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """x_sigma = (1 - sigma) x_0 + sigma eps."""
        sigma = times.view(-1, *[1] * (latents.ndim - 1))
        return (1 - sigma) * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """The velocity d x_sigma / d sigma = eps - x_0, the same at every sigma."""
        return noise - latents


class EmpiricalFlow(Flow):
    """FLUX.2's: mu is the one that its pipeline uses for 50 steps."""

    def mu(self, tokens: int) -> float:
        """`compute_empirical_mu` of diffusers' pipeline."""
        from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

        return compute_empirical_mu(tokens, 50)
