"""One optimiser step on a batch of pairs, and what is worth watching of it.

Which pairs, when and how often is `loop.py`'s; what is trained is `model.py`'s.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training import objective
from training.config import PolicyConfig
from training.families import Family, Texts
from training.model import Model
from training.optimizer import (
    ExactSums,
    learning_rate,
    load_optimizer,
    make_optimizer,
    optimizer_tensors,
)
from training.processes import Processes
from training.sharding import collected, gathered, unshared


@dataclass(frozen=True)
class Batch:
    """B pairs of one shape on the device, fp32; a pair's two images share noise and time."""

    winner: Tensor  # (B, c, h, w) latents
    loser: Tensor  # (B, c, h, w)
    texts: Texts  # of B prompts
    gap: Tensor  # (B,)
    probability: Tensor  # (B,)
    noise: Tensor  # (B, c, h, w)
    times: Tensor  # (B,)
    sizes: Tensor | None = None  # (B, 2, 6) of winner and loser, where the denoiser is told them
    reference: Tensor | None = None  # (B, 2) its errors of winner and loser, where known

    def __len__(self) -> int:
        return len(self.gap)


class Learner:
    """Holds what a run trains; `tensors` and `load` are all of its state."""

    def __init__(self, config: PolicyConfig, family: Family, processes: Processes) -> None:
        self.config, self.family, self.processes = config, family, processes
        self.device = processes.device
        self.model = Model(config, family, processes)
        self.optimizer = make_optimizer(config, self.model.trained.values())
        self._exact = ExactSums(self.model.trained.values()) if config.exact_sums else None
        # Half-precision gradients below 6e-8 vanish unless the loss is scaled up before them.
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        self.beta_dpo = config.beta_dpo
        self._preference = torch.tensor(0.5, device=self.device)  # running mean of sigmoid(inside)
        self._steps = 0

    def step(self, step: int, parts: Sequence[Batch]) -> dict[str, Tensor]:
        """Take one optimiser step; return its measures, on the device, per pair or scalar.

        The batch goes through the model in `parts`, and other processes take their shares of it;
        neither changes the step.
        """
        trained = self.model.trained.values()
        # Of this process: the processes' gradients are averaged. Exact ones are summed.
        size = self.config.batch_size if self._exact else sum(len(part) for part in parts)
        found: list[dict[str, Tensor]] = []
        if self.config.lora_dropout:
            self._start_dropout(step)
        for part in parts:
            measured = self._measure(part)
            self._scaler.scale(measured["loss"].sum() / size).backward()
            found.append({name: values.detach() for name, values in measured.items()})
        self.model.policy.eval()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, step)
        self.processes.average(unshared([p.grad for p in trained if p.grad is not None]))
        if self._exact:
            self._exact.into_gradients(self.processes)
        self._scaler.unscale_(self.optimizer)
        longest = self.config.max_grad_norm
        norm = gathered(torch.nn.utils.clip_grad_norm_(trained, longest))
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.model.follow()
        self._steps = step + 1
        every = {name: torch.cat([each[name] for each in found]) for name in found[0]}
        if self.config.objective == "alpha_dpo":
            self._preference.lerp_(self.processes.gather(every["inside"]).sigmoid().mean(), 0.01)
        return {**every, "grad_norm": norm}

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return the measures (B,) of a batch without learning from it, of `sft` as of pairs."""
        return self._measure(batch, as_pairs=True)

    @torch.no_grad()
    def reference_errors(self, batch: Batch) -> Tensor:
        """Errors (B, 2) of the reference on winner and loser."""
        with self.model.as_reference(untrained=self._steps == 0) as reference:
            residual, _ = self._residual(batch, reference)
        return objective.sample_errors(residual).view(2, -1).T

    def tensors(self) -> dict[str, Tensor]:
        """Return the model's, the optimiser's and the scaler's state, as `collected` does."""
        state = self.model.tensors()
        optimizer = optimizer_tensors(self.optimizer, self.model.trained)
        state |= {f"optimizer.{name}": value for name, value in optimizer.items()}
        scaler = self._scaler.state_dict()
        state |= {f"scaler.{key}": torch.tensor(value) for key, value in scaler.items()}
        return collected({**state, "preference": self._preference}, self.processes)

    def whole_weights(self) -> dict[str, Tensor]:
        """Return the weights that would be saved, as `collected` does."""
        with self.model.averaged():
            return collected(self.model.trained, self.processes, copy=True)

    def load(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Take over what `tensors` returned after `step` steps."""
        self._steps = step
        self.model.load(tensors, step)
        load_optimizer(self.optimizer, self.model.trained, tensors)
        self._preference.copy_(tensors["preference"])
        if self._scaler.is_enabled():
            state = self._scaler.state_dict()
            self._scaler.load_state_dict({key: tensors[f"scaler.{key}"].item() for key in state})

    def asked(self, gap: Tensor, probability: Tensor) -> objective.Asked:
        """Return what pairs of these gaps and probabilities are asked for."""
        config, alpha = self.config, self.config.alpha
        a = 0.9999 * self._preference if config.objective == "alpha_dpo" else alpha
        return objective.Asked(gap, probability, config.gamma, a)

    def _start_dropout(self, step: int) -> None:
        """Let the LoRA drop inputs, which ones being a function of (seed, step) and the process."""
        numbers = [self.config.seed, step, self.processes.rank]
        torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]))
        self.model.policy.train()

    def _measure(self, batch: Batch, *, as_pairs: bool = False) -> dict[str, Tensor]:
        """Return the loss and what is worth watching, each (B,)."""
        config, errors_of = self.config, objective.sample_errors
        if config.objective == "sft" and not as_pairs:
            residual, target = self._residual(batch, winners_only=True)
            return {"loss": errors_of(residual), "target": errors_of(target)}
        before = None
        if batch.reference is None:
            with torch.no_grad(), self.model.as_reference() as model:
                before, _ = self._residual(batch, model)
        residual, target = self._residual(batch)
        errors = errors_of(residual).view(2, -1)
        if before is not None:
            reference = errors_of(before).view(2, -1)
            drift = errors_of(residual.detach() - before).view(2, -1)
        else:
            assert batch.reference is not None
            reference = batch.reference.T
            # The least it can be, by the triangle's inequality; the outputs are not known.
            drift = (errors.detach().sqrt() - reference.sqrt()).square()
        winner, loser = errors
        if config.objective == "sdpo":
            of_winner, of_loser = residual.chunk(2)
            jointly = config.safeguard == "part"
            factor = objective.safeguard(
                of_winner, of_loser, config.safeguard_slack, jointly=jointly
            )
            loser = objective.scaled_gradient(loser, factor)
        beta: float | Tensor = self.beta_dpo
        if config.gap_power:
            beta = beta * batch.gap.clamp(min=0) ** config.gap_power
        inside = objective.inside(winner, loser, reference[0], reference[1], beta)
        loss, margin = winner, torch.zeros_like(winner)
        if loss_of := objective.PREFERENCE.get(config.objective):
            loss, margin = loss_of(inside, self.asked(batch.gap, batch.probability))
        return {
            "loss": loss,
            "inside": inside,
            "implicit_accuracy": objective.implicit_accuracy(inside),
            "margin": margin,
            "winner_error": winner - reference[0],
            "loser_error": loser - reference[1],
            "drift": drift.mean(dim=0),
            "target": errors_of(target).view(2, -1).mean(dim=0),
        }

    def _residual(
        self, batch: Batch, denoiser: Any = None, *, winners_only: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return output - target and target, each (2 B, c, h, w), winners before losers.

        Of the winners only, each is (B, c, h, w).
        """
        sides = [batch.winner] if winners_only else [batch.winner, batch.loser]
        n, process, dtype = len(sides), self.family.process, self.model.dtype
        latents, noise = torch.cat(sides), torch.cat([batch.noise] * n)
        times, texts = torch.cat([batch.times] * n), batch.texts.repeated(n)
        if batch.sizes is not None:
            texts = replace(texts, sizes=torch.cat([batch.sizes[:, side] for side in range(n)]))
        noisy = process.noisy(latents, noise, times)
        half = dtype != torch.float32
        if half:
            noisy, texts = noisy.to(dtype), texts.to(dtype)
        with torch.autocast(self.device.type, dtype) if half else contextlib.nullcontext():
            denoiser = self.model.policy if denoiser is None else denoiser
            output = self.family.predict(denoiser, noisy, times, texts)
        target = process.target(latents, noise, times)
        return output.float() - target, target
