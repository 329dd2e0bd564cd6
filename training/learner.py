"""The policy, its frozen reference, and one optimiser step on a batch of pairs.

The reference is what the run started from: the policy with its LoRA switched off, so no second
model is held; where every weight is trained, a frozen copy; or neither, where the batch brings the
reference's errors (`reference.py`). Which pairs, when and how often is `loop.py`'s.
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
from training.families import Family
from training.optimizer import (
    RunningMean,
    learning_rate,
    load_optimizer,
    make_optimizer,
    optimizer_tensors,
)
from training.processes import Processes
from training.sharding import gathered, is_shared, share_out, slice_like, unshared

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Batch:
    """B pairs on the device, fp32; a pair's two images share noise and time."""

    winner: Tensor  # (B, c, h, w) latents
    loser: Tensor  # (B, c, h, w)
    texts: tuple[Tensor, ...]  # each (B, ...)
    gap: Tensor  # (B,)
    probability: Tensor  # (B,)
    noise: Tensor  # (B, c, h, w)
    times: Tensor  # (B,)
    reference: Tensor | None = None  # (B, 2) its errors of winner and loser, where known
    corners: Tensor | None = None  # (B, 2, 2) top and left of each one's crop, where cropped

    def parts(self, n: int) -> "Iterator[Batch]":
        """Split into n equal parts, in order."""
        size = len(self.gap) // n
        for start in range(0, len(self.gap), size):
            yield self.rows(slice(start, start + size))

    def rows(self, rows: slice) -> "Batch":
        """Return the pairs at `rows`."""
        columns = {name: value[rows] for name, value in vars(self).items() if name != "texts"
                   and value is not None}  # fmt: skip
        return Batch(texts=tuple(text[rows] for text in self.texts), **columns)


class Learner:
    """Holds what a run trains; `tensors` and `load` are all of its state."""

    def __init__(self, config: PolicyConfig, family: Family, processes: Processes) -> None:
        self.config, self.family, self.processes = config, family, processes
        self.device = processes.device
        self.part = max(1, config.batch_size // (config.accumulation * processes.count))
        self.dtype = DTYPES[config.precision]
        torch.manual_seed(config.seed)  # the adapter's first values
        lora = config.adaptation == "lora"
        self.shared = is_shared(config, processes)
        place = torch.device("cpu") if self.shared else self.device
        self.policy = family.denoiser(place, self.dtype if lora else torch.float32)
        self._frozen: Any = None
        self._adapters: list[Any] = []
        if lora:
            self._adapters = family.add_adapter(self.policy, config)
        else:
            self.policy.requires_grad_(True)
        self.trained = {n: p for n, p in self.policy.named_parameters() if p.requires_grad}
        for parameter in self.trained.values():
            parameter.data = parameter.data.float()
        if self.shared:
            share_out(self.policy, processes, whole=self.trained.values() if lora else ())
            trained = dict(self.policy.named_parameters())
            self.trained = {name: trained[name] for name in self.trained}
        self.optimizer = make_optimizer(config, self.trained.values())
        self._mean = RunningMean(config.ema_decay, self.trained) if config.ema_decay else None
        # Half-precision gradients below 6e-8 vanish unless the loss is scaled up before them.
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "fp16")
        if config.gradient_checkpointing:
            self.policy.enable_gradient_checkpointing()
        if config.compile:
            self.policy.compile()

    def step(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """Take one optimiser step; return its measures, on the device, per pair or scalar.

        The batch goes through the model in `accumulation` parts, and other processes take their
        shares of it; neither changes the step.
        """
        n = self.config.accumulation
        parts: list[dict[str, Tensor]] = []
        for part in batch.parts(n):
            measured = self._measure(part)
            self._scaler.scale(measured["loss"].mean() / n).backward()
            parts.append({name: values.detach() for name, values in measured.items()})
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, step)
        gradients = [p.grad for p in self.trained.values() if p.grad is not None]
        self.processes.average(unshared(gradients))
        self._scaler.unscale_(self.optimizer)
        longest = self.config.max_grad_norm
        norm = gathered(torch.nn.utils.clip_grad_norm_(self.trained.values(), longest))
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self._mean:
            self._mean.update(step, self.trained)
        whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return {**whole, "grad_norm": norm}

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return the measures (B,) of a batch without learning from it, of `sft` as of pairs."""
        return self._measure(batch, as_pairs=True)

    @torch.no_grad()
    def reference_errors(self, batch: Batch) -> Tensor:
        """Errors (B, 2) of the reference on winner and loser."""
        with self._as_reference() as reference:
            residual = self._residual(batch, reference)
        return objective.sample_errors(residual).view(2, -1).T

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Within, the policy has the running mean of its weights, where one is kept."""
        if self._mean:
            self._mean.swap(self.trained)
        try:
            yield
        finally:
            if self._mean:
                self._mean.swap(self.trained)

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights, their mean, the optimiser's and the scaler's state, on the CPU.

        All are whole; where weights are `shared`, all processes must ask together.
        """
        state: dict[str, Tensor] = {f"weights.{n}": p.detach() for n, p in self.trained.items()}
        optimizer = optimizer_tensors(self.optimizer, self.trained)
        state |= {f"optimizer.{name}": value for name, value in optimizer.items()}
        if self._mean:
            state |= {f"mean.{name}": value for name, value in self._mean.mean.items()}
        scaler = self._scaler.state_dict()
        state |= {f"scaler.{key}": torch.tensor(value) for key, value in scaler.items()}
        return {name: gathered(value).to("cpu") for name, value in state.items()}

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `tensors` returned."""

        def of(kind: str) -> dict[str, Tensor]:
            return {k.removeprefix(kind): v for k, v in tensors.items() if k.startswith(kind)}

        for name, parameter in self.trained.items():
            parameter.copy_(slice_like(tensors[f"weights.{name}"], parameter))
        load_optimizer(self.optimizer, self.trained, of("optimizer."))
        if self._mean:
            for name, value in of("mean.").items():
                mean = self._mean.mean[name]
                mean.copy_(slice_like(value, mean))
        if scaler := of("scaler."):
            self._scaler.load_state_dict({key: value.item() for key, value in scaler.items()})

    def save(self, folder: Path, origin: dict[str, str]) -> str:
        """Write the policy as diffusers loads it, with policy.json; return its weights' SHA-256.

        Where weights are `shared`, all processes must take part; only the first one writes, and
        the others return "".
        """
        policy = self._whole_policy()
        if self.processes.rank:
            return ""
        aside = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        if self.config.adaptation == "lora":
            self.family.save_adapter(policy, aside)
            weights = aside
        else:
            self.family.save_pipeline(policy, aside)
            weights = aside / self.family.trained
        digest = hashlib.sha256()
        for path in sorted(weights.glob("*.safetensors")):
            digest.update(path.read_bytes())
        card = {**asdict(self.config), "origin": origin, "weights": digest.hexdigest()}
        (aside / "policy.json").write_text(json.dumps(card, indent=2) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
        return digest.hexdigest()

    def _whole_policy(self) -> Any:
        """The policy with whole weights: itself, or a copy on the CPU of the first process."""
        if not self.shared or self.config.adaptation == "lora":  # a LoRA is never shared out
            return self.policy
        weights = {name: gathered(value.detach()).to("cpu") for name, value in self.trained.items()}
        if self.processes.rank:
            return None
        whole = self.family.denoiser(torch.device("cpu"))
        whole.load_state_dict(weights, strict=False)  # what is not trained is the base's
        return whole

    def _measure(self, batch: Batch, *, as_pairs: bool = False) -> dict[str, Tensor]:
        """Return the loss and what is worth watching, each (B,)."""
        config = self.config
        if config.objective == "sft" and not as_pairs:
            return {"loss": objective.sample_errors(self._residual(batch, winners_alone=True))}
        drift: dict[str, Tensor] = {}
        reference = batch.reference
        if reference is None:
            with torch.no_grad(), self._as_reference() as model:
                before = self._residual(batch, model)
            reference = objective.sample_errors(before).view(2, -1).T
        residual = self._residual(batch)
        if batch.reference is None:
            both = objective.sample_errors(residual.detach() - before).view(2, -1)
            drift["drift"] = both.mean(dim=0)
        winner, loser = objective.sample_errors(residual).chunk(2)
        if config.objective == "sdpo":
            of_winner, of_loser = residual.chunk(2)
            factor = objective.safeguard(of_winner, of_loser, config.safeguard_slack)
            loser = objective.scaled_gradient(loser, factor)
        reference_winner, reference_loser = reference.unbind(dim=1)
        inside = objective.inside(winner, loser, reference_winner, reference_loser, config.beta_dpo)
        loss, margin = winner, torch.zeros_like(winner)
        if loss_of := objective.PREFERENCE.get(config.objective):
            loss, margin = loss_of(inside, batch.gap, batch.probability, config.gamma)
        return {
            "loss": loss,
            "inside": inside,
            "implicit_accuracy": objective.implicit_accuracy(inside),
            "margin": margin,
            "winner_error": winner - reference_winner,
            "loser_error": loser - reference_loser,
            **drift,
        }

    def _residual(
        self, batch: Batch, denoiser: Any = None, *, winners_alone: bool = False
    ) -> Tensor:
        """Output - target (2 B, c, h, w), winners before losers, or of the winners (B, c, h, w)."""
        sides = [batch.winner] if winners_alone else [batch.winner, batch.loser]
        n = len(sides)
        latents, noise = torch.cat(sides), torch.cat([batch.noise] * n)
        times, texts = torch.cat([batch.times] * n), tuple(torch.cat([t] * n) for t in batch.texts)
        corners = batch.corners
        if corners is not None:
            corners = torch.cat([corners[:, side] for side in range(n)])
        noisy = self.family.noisy(latents, noise, times)
        half = self.dtype != torch.float32
        if half:
            noisy, texts = noisy.to(self.dtype), tuple(text.to(self.dtype) for text in texts)
        with torch.autocast(self.device.type, self.dtype, enabled=half):
            output = self.family.predict(denoiser or self.policy, noisy, times, texts, corners)
        return output.float() - self.family.target(latents, noise, times)

    @contextlib.contextmanager
    def _as_reference(self) -> Iterator[Any]:
        """The model the run started from: the policy without its adapter, or the frozen copy."""
        if self.config.adaptation == "full":
            # Once it is needed: a run whose reference's errors are known never holds it.
            if self._frozen is None:
                place = torch.device("cpu") if self.shared else self.device
                self._frozen = self.family.denoiser(place, self.dtype)
                if self.shared:
                    share_out(self._frozen, self.processes)
            yield self._frozen
            return
        for adapter in self._adapters:
            adapter.enable_adapters(False)
        try:
            yield self.policy
        finally:
            for adapter in self._adapters:
                adapter.enable_adapters(True)
