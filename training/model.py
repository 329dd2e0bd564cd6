"""The policy and its reference: built, switched between, averaged, saved.

The reference is what the run started from: the policy with its LoRA switched off, so no second
model is held; where every weight is trained, a frozen copy; or neither, where the reference's
errors are known before the first step (`reference.py`).
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from torch import Tensor

from training.config import ConfigError, PolicyConfig
from training.families import Family
from training.families.adapter import add_adapter, fuse_adapter, save_adapter
from training.families.folder import quiet
from training.processes import Processes
from training.sharding import collected, is_shared, mesh_of, share_out, slice_like

DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


class Model:
    """The denoiser that is trained; `trained` are its weights that learn, by name, in fp32."""

    def __init__(self, config: PolicyConfig, family: Family, processes: Processes) -> None:
        self.config, self.family, self.processes = config, family, processes
        self.device, self.dtype = processes.device, DTYPES[config.precision]
        self.lora, self.shared = config.adaptation == "lora", is_shared(config, processes)
        torch.backends.cuda.matmul.allow_tf32 = config.precision != "fp32"
        torch.backends.cudnn.allow_tf32 = config.precision != "fp32"
        self._adapters: list[Any] = []
        self._frozen: Any = None
        self._mesh = mesh_of(processes) if self.shared else None
        with self._in_turn():
            self.policy = self._base(self.dtype if self.lora else torch.float32)
            torch.manual_seed(config.seed)  # the adapter's first values
            if self.lora:
                self._adapters = add_adapter(family, self.policy, config)
                self.policy.eval()  # PEFT's layers begin as those that learn, with dropout
            else:
                self.policy.requires_grad_(True)
            self.trained = self._learning()
            for parameter in self.trained.values():
                parameter.data = parameter.data.float()
            if self._mesh:
                whole = self.trained.values() if self.lora else ()
                share_out(self.policy, self._mesh, processes.device, whole)
                self.trained = self._learning()
        self.mean: EMAModel | None = None
        if config.ema_decay:
            self.mean = EMAModel(self.trained.values(), decay=config.ema_decay)
        # What of the reference moves, where it follows the policy; else it stays as it was.
        self.reference: dict[str, Tensor] = {}
        if config.reference_decay:
            moving = self.trained if self.lora else dict(self._frozen_copy().named_parameters())
            self.reference = {n: p.detach().clone() if self.lora else p for n, p in moving.items()}
        if config.attention:
            set_attention(self.policy, config.attention)
        if config.gradient_checkpointing:
            self.policy.enable_gradient_checkpointing()
        if config.compile and getattr(self.policy, "_repeated_blocks", None):
            self.policy.compile_repeated_blocks()
        elif config.compile:
            self.policy.compile()

    def _base(self, dtype: torch.dtype) -> Any:
        """Load the denoiser, with the LoRA that the run starts from in its weights."""
        place = torch.device("cpu") if self.shared else self.device
        model = self.family.denoiser(place, dtype, self.config.quantization)
        if self.config.adapter:
            fuse_adapter(self.family, model, self.config.adapter)
        return model

    def _learning(self) -> dict[str, Any]:
        return {n: p for n, p in self.policy.named_parameters() if p.requires_grad}

    def _frozen_copy(self) -> Any:
        """The base again, frozen, once it is needed.

        The weights of its linear layers and convolutions are in the type that autocast would round
        them to in the policy; norms, biases and embeddings stay fp32 as they are there, so that
        policy and reference agree to the bit until the first step.
        """
        if self._frozen is None:
            with self._in_turn():
                self._frozen = self._base(torch.float32)
                rounded = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)
                for module in self._frozen.modules():
                    if isinstance(module, rounded) and not self.config.reference_decay:
                        module.weight.data = module.weight.data.to(self.dtype)
                if self._mesh:
                    share_out(self._frozen, self._mesh, self.device)
        return self._frozen

    def _in_turn(self) -> contextlib.AbstractContextManager[None]:
        """Within, no other process of this machine holds a whole denoiser to be shared out."""
        return self.processes.one_after_the_other() if self.shared else contextlib.nullcontext()

    @contextlib.contextmanager
    def as_reference(self, *, untrained: bool = False) -> Iterator[Any]:
        """Within, the model the run started from, or what has followed the policy from there.

        `untrained` says that the policy has not learnt yet: then it is its own reference.
        """
        if not self.lora:
            yield self.policy if untrained else self._frozen_copy()
        elif self.reference:
            learning = self.policy.training
            self.policy.eval()  # a reference has no dropout
            self._swap_reference()
            try:
                yield self.policy
            finally:
                self._swap_reference()
                self.policy.train(learning)
        else:
            for adapter in self._adapters:
                adapter.enable_adapters(False)
            try:
                yield self.policy
            finally:
                for adapter in self._adapters:
                    adapter.enable_adapters(True)

    def _swap_reference(self) -> None:
        for name, parameter in self.trained.items():
            parameter.data, self.reference[name] = self.reference[name], parameter.data

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Within, the policy has the running mean of its weights, where one is kept."""
        if self.mean is None:
            yield
            return
        self.mean.store(self.trained.values())
        self.mean.copy_to(self.trained.values())
        try:
            yield
        finally:
            self.mean.restore(self.trained.values())

    @torch.no_grad()
    def follow(self) -> None:
        """Move the running mean and a moving reference, after a step."""
        if self.mean:
            self.mean.step(self.trained.values())
        for name, value in self.reference.items():
            value.lerp_(self.trained[name].detach(), 1 - self.config.reference_decay)

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights, their mean and a moving reference, as they are kept here."""
        state = {f"weights.{n}": p.detach() for n, p in self.trained.items()}
        state |= {f"reference.{name}": value for name, value in self.reference.items()}
        if self.mean:
            means = zip(self.trained, self.mean.shadow_params, strict=True)
            state |= {f"mean.{name}": value for name, value in means}
        return state

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Take over what `tensors` returned after `step` steps, whole or not."""
        for name, value in self.tensors().items():
            value.copy_(slice_like(tensors[name], value))
        if self.mean:
            self.mean.optimization_step = step

    @torch.no_grad()
    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the weights alone, by their names."""
        for name, parameter in self.trained.items():
            parameter.copy_(slice_like(tensors[name], parameter))

    def save(self, folder: Path, origin: dict[str, Any]) -> str:
        """Write the policy as diffusers loads it, with policy.json; return its weights' SHA-256.

        Where weights are `shared`, all processes must take part; only the first one writes, and
        the others return "".
        """
        policy = self._whole_policy()
        if self.processes.rank:
            return ""
        aside = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        if self.lora:
            save_adapter(self.family, policy, aside)
            weights = aside
        else:
            self.family.save_pipeline(policy, aside)
            weights = aside / self.family.trained
        digest = weights_digest(weights)
        card = {**asdict(self.config), "origin": origin, "weights": digest}
        (aside / "policy.json").write_text(json.dumps(card, indent=2) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
        return digest

    def _whole_policy(self) -> Any:
        """The policy with whole weights: itself, or a copy on the CPU of the first process."""
        if not self.shared or self.lora:  # a LoRA is never shared out
            return self.policy
        weights = collected(self.trained, self.processes)
        if self.processes.rank:
            return None
        policy = self.family.denoiser(torch.device("cpu"))
        policy.load_state_dict(weights, strict=False)  # what is not trained is the base's
        return policy


def set_attention(denoiser: Any, backend: str) -> None:
    """Compute attention by one of diffusers' backends. Raises ConfigError where there is none."""
    processors = [getattr(module, "processor", None) for module in denoiser.modules()]
    if not any(hasattr(each, "_attention_backend") for each in processors):
        raise ConfigError(
            f'train.attention = "{backend}": {type(denoiser).__name__} computes attention by torch '
            "alone; leave it empty"
        )
    try:
        with quiet():
            denoiser.set_attention_backend(backend)
    except (ValueError, RuntimeError, ImportError) as error:
        raise ConfigError(f'train.attention = "{backend}": {error}') from error


def weights_digest(folder: Path) -> str:
    """SHA-256 over the names and values of a folder's tensors.

    Not over the files: safetensors writes its metadata in another order each time.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in sorted(file.keys()):
                value = file.get_tensor(name)
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
                digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
