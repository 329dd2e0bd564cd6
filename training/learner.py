"""The policy, its frozen reference, and one optimiser step on a batch of pairs.

The reference is what the run started from: the policy with its LoRA switched off, so no second
model is held, or, where every weight is trained, a frozen copy. Which pairs, when and how often is
`loop.py`'s.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training import objective
from training.config import PolicyConfig
from training.families import StableDiffusion


@dataclass(frozen=True)
class Batch:
    """B pairs on the device, fp32: latents (B, c, h, w), prompts (B, length, width), gaps (B,)."""

    winner: Tensor
    loser: Tensor
    prompt: Tensor
    gap: Tensor

    def parts(self, n: int) -> "list[Batch]":
        """Split into n equal parts, in order."""
        columns = (tensor.chunk(n) for tensor in vars(self).values())
        return [Batch(*part) for part in zip(*columns, strict=True)]


class Learner:
    """Holds what a run trains; `tensors` and `load` are all of its state."""

    def __init__(self, config: PolicyConfig, family: StableDiffusion, device: torch.device) -> None:
        self.config, self.family, self.device = config, family, device
        self.part = config.batch_size // config.accumulation
        torch.manual_seed(config.seed)  # the adapter's first values
        self.policy = family.denoiser(device)
        self._frozen: Any = None
        self._adapters: list[Any] = []
        if config.adaptation == "lora":
            self._adapters = family.add_adapter(self.policy, config)
        else:
            self.policy.requires_grad_(True)
        self.trained = {n: p for n, p in self.policy.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.trained.values(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then constant; `step` counts from 0."""
        warmed = min(1.0, (step + 1) / max(1, self.config.warmup_steps))
        return self.config.learning_rate * warmed

    def step(self, step: int, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Take one optimiser step; return its measures, on the device, per pair or scalar.

        Time and noise are drawn for the whole batch before it is cut into parts, so accumulation
        changes memory and not the step.
        """
        noise, timesteps = self.draw(batch.winner.shape, generator)
        parts: list[dict[str, Tensor]] = []
        n = self.config.accumulation
        for part, part_noise, part_timesteps in zip(
            batch.parts(n), noise.chunk(n), timesteps.chunk(n), strict=True
        ):
            measured = self._measure(part, part_noise, part_timesteps)
            (measured["loss"].mean() / n).backward()
            parts.append({name: values.detach() for name, values in measured.items()})
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step)
        norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), self.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return {**whole, "grad_norm": norm}

    @torch.no_grad()
    def logits(self, batch: Batch, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The implicit reward's logit (B,) of every pair at the given noise and times."""
        errors = self._errors(batch, noise, timesteps)
        return objective.inside(*errors, beta_dpo=self.config.beta_dpo)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One noise `shape` (B, c, h, w) and one time (B,) for each pair: its images share them."""
        noise = torch.randn(shape, generator=generator, device=self.device)
        times = (0, self.family.timesteps, shape[:1])
        return noise, torch.randint(*times, generator=generator, device=self.device)

    def tensors(self) -> dict[str, Tensor]:
        """Return trained weights and the optimiser's moments by name, on the CPU."""
        state = {f"weights.{name}": value.detach() for name, value in self.trained.items()}
        for name, parameter in self.trained.items():
            for key, value in self.optimizer.state[parameter].items():
                state[f"optimizer.{key}.{name}"] = value
        return {name: value.to("cpu") for name, value in state.items()}

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors` returned."""
        for name, parameter in self.trained.items():
            parameter.copy_(tensors[f"weights.{name}"])
        moments: dict[int, dict[str, Tensor]] = {}
        for index, (name, parameter) in enumerate(self.trained.items()):
            state = {"step": tensors[f"optimizer.step.{name}"]}
            for key in ("exp_avg", "exp_avg_sq"):
                # The fused kernel walks weight and moments by address: their layouts must agree.
                state[key] = torch.empty_like(parameter).copy_(tensors[f"optimizer.{key}.{name}"])
            moments[index] = state
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})

    def save(self, folder: Path, origin: dict[str, str]) -> str:
        """Write the policy as diffusers loads it, with policy.json; return its weights' SHA-256."""
        aside = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        if self.config.adaptation == "lora":
            self.family.save_adapter(self.policy, aside)
            weights = aside
        else:
            self.family.save_pipeline(self.policy, aside)
            weights = aside / "unet"
        digest = hashlib.sha256()
        for path in sorted(weights.glob("*.safetensors")):
            digest.update(path.read_bytes())
        card = {**asdict(self.config), "origin": origin, "weights": digest.hexdigest()}
        (aside / "policy.json").write_text(json.dumps(card, indent=2) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
        return digest.hexdigest()

    def _measure(self, batch: Batch, noise: Tensor, timesteps: Tensor) -> dict[str, Tensor]:
        """Return the loss and what is worth watching, each (B,)."""
        config = self.config
        if config.objective == "sft":
            return {"loss": self._sample_errors(batch.winner, noise, timesteps, batch.prompt)}
        errors = self._errors(batch, noise, timesteps)
        winner, loser, reference_winner, reference_loser = errors
        inside = objective.inside(*errors, config.beta_dpo)
        loss, margin = objective.PREFERENCE[config.objective](inside, batch.gap, config.gamma)
        return {
            "loss": loss,
            "inside": inside,
            "implicit_accuracy": objective.implicit_accuracy(inside),
            "margin": margin,
            "winner_error": winner - reference_winner,
            "loser_error": loser - reference_loser,
        }

    def _errors(
        self, batch: Batch, noise: Tensor, timesteps: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Errors (B,) of policy and reference: winner, loser, reference_winner, reference_loser."""
        twice = (
            torch.cat([batch.winner, batch.loser]),
            torch.cat([noise, noise]),
            torch.cat([timesteps, timesteps]),
            torch.cat([batch.prompt, batch.prompt]),
        )
        with torch.no_grad(), self._as_reference() as reference:
            reference_errors = self._sample_errors(*twice, denoiser=reference)
        errors = self._sample_errors(*twice)
        winner, loser = errors.chunk(2)
        reference_winner, reference_loser = reference_errors.chunk(2)
        return winner, loser, reference_winner, reference_loser

    def _sample_errors(
        self,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        prompt: Tensor,
        denoiser: Any = None,
    ) -> Tensor:
        noisy = self.family.noisy(latents, noise, timesteps)
        half = self.config.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            output = self.family.predict(denoiser or self.policy, noisy, timesteps, prompt)
        return objective.sample_errors(output, self.family.target(latents, noise, timesteps))

    @contextlib.contextmanager
    def _as_reference(self) -> Iterator[Any]:
        """The model the run started from: the policy without its adapter, or the frozen copy."""
        if self.config.adaptation == "full":
            self._frozen = self._frozen or self.family.denoiser(self.device)  # once it is needed
            yield self._frozen
            return
        for adapter in self._adapters:
            adapter.enable_adapters(False)
        try:
            yield self.policy
        finally:
            for adapter in self._adapters:
                adapter.enable_adapters(True)
