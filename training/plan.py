"""What a run will take, before anything is spent: memory, disk, operations, hours.

The denoiser is built without values on the `meta` device and one pair is sent through it: its
parameters, the bytes that autograd would keep and the operations are counted, not guessed. What is
an assumption is printed as one: the card's speed and the share of it that a run attains.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from training.checkpoint import KEPT
from training.config import DataConfig, PolicyConfig
from training.families import Family, open_family
from training.learner import DTYPES
from training.pairs import open_pairs

GIB = 2**30
CARDS = {"RTX 4090": 165e12, "A100": 312e12, "H100, H200": 989e12}  # dense bf16, per second
SHARE = 0.35  # of a card's speed, a usual model FLOP utilisation for diffusion models
RESERVED = 1.5 * GIB  # CUDA's context, workspaces, fragmentation


@dataclass(frozen=True)
class Cost:
    """Of one image through the denoiser."""

    weights: int  # parameters, the additions included
    trained: int  # parameters that are trained
    kept: int  # bytes that autograd keeps until the backward pass
    operations: int  # of the forward pass


class _Kept:
    """Counts the bytes that autograd keeps, every storage once and no parameter."""

    def __init__(self, model: Any) -> None:
        self._seen = {p.untyped_storage()._cdata for p in model.parameters()}
        self._alive: list[Tensor] = []  # a freed storage's address would be used again
        self.bytes = 0

    def __call__(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self._alive.append(tensor)
            self.bytes += tensor.numel() * tensor.element_size()
        return tensor


class _Attention(torch.autograd.Function):
    """Attention that keeps what fused kernels keep: queries, keys, values and output.

    On the `meta` device torch takes the plain form, which also keeps the scores of all pairs.
    """

    @staticmethod
    def forward(ctx: Any, attention: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = attention(query, key, value)
        ctx.save_for_backward(query, key, value, output)
        return output


def cost_of_an_image(family: Family, config: PolicyConfig) -> Cost:
    """Send one image through the denoiser on the `meta` device and count.

    With checkpointed activations, what is kept is each block's inputs and the largest block.
    """
    from torch.utils.flop_counter import FlopCounterMode

    dtype = DTYPES[config.precision]
    model = family.empty_denoiser(dtype)
    frozen = sum(p.numel() for p in model.parameters())
    if config.adaptation == "lora":
        with torch.device("meta"):
            family.add_adapter(model, config)
    else:
        model.requires_grad_(True)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    blocks = {"inputs": 0, "largest": 0}

    def checkpointed(block: Any, *arguments: Any) -> Any:
        tensors = [a for a in arguments if isinstance(a, Tensor)]
        blocks["inputs"] += sum(t.numel() * t.element_size() for t in tensors)
        within = _Kept(model)
        with torch.autograd.graph.saved_tensors_hooks(within, lambda t: t):
            output = block(*arguments)
        blocks["largest"] = max(blocks["largest"], within.bytes)
        return output

    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing(checkpointed)
    side = config.resolution // family.downscale
    meta = {"device": "meta", "dtype": dtype}
    latents = torch.zeros(1, family.latent_channels, side, side, **meta)  # type: ignore[call-overload]
    texts = tuple(torch.zeros(1, *shape, **meta) for shape in family.text_shapes())  # type: ignore[call-overload]
    times = torch.zeros(1, device="meta")
    kept, operations = _Kept(model), FlopCounterMode(display=False)
    plain = torch.nn.functional.scaled_dot_product_attention

    def fused(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        return _Attention.apply(plain, query, key, value)

    with (
        operations,
        patch.object(torch.nn.functional, "scaled_dot_product_attention", fused),
        torch.autograd.graph.saved_tensors_hooks(kept, lambda t: t),
    ):
        family.predict(model, latents, times, texts)
    total = kept.bytes + blocks["inputs"] + blocks["largest"]
    weights = frozen + (trained if config.adaptation == "lora" else 0)
    return Cost(weights, trained, total, operations.get_total_flops())


@dataclass(frozen=True)
class Estimate:
    """What a run will take.

    memory, disk: bytes by what they are for. operations: of the whole run, in `passes` passes of
    the denoiser an image's pair. known: the images and prompts were counted, and are no bound.
    """

    cost: Cost
    pipeline: str
    memory: dict[str, int]
    disk: dict[str, int]
    operations: int
    passes: int
    known: bool

    @property
    def hours(self) -> dict[str, float]:
        """By card, at the assumed share of its speed."""
        return {name: self.operations / (speed * SHARE) / 3600 for name, speed in CARDS.items()}


def estimate(config: PolicyConfig, data: DataConfig) -> Estimate:
    """Count what a run will take. Nothing is encoded, trained or written."""
    family = open_family(config.base, weights=False)
    family.check_resolution(config.resolution)
    cost = cost_of_an_image(family, config)
    half = DTYPES[config.precision].itemsize
    lora = config.adaptation == "lora"
    live = config.objective != "sft" and not config.reference_draws
    optimizer = 2 if config.optimizer == "adamw_8bit" else 8
    part = config.batch_size // config.accumulation
    sides = 1 if config.objective == "sft" else 2
    memory = {
        "weights": (cost.weights - cost.trained) * half + cost.trained * 4 if lora
        else cost.trained * 4,
        "gradients and optimiser": cost.trained * (4 + optimizer),
        "running mean of the weights": cost.trained * 4 if config.ema_decay else 0,
        "frozen reference": 0 if lora or not live else cost.weights * half,
        f"activations, {part} pairs at once": cost.kept * sides * part,
        "reserved (assumed)": int(RESERVED),
    }  # fmt: skip
    backward = (1 if lora else 2) + (1 if config.gradient_checkpointing else 0)
    passes = sides * (1 + backward + (1 if live else 0))
    step = cost.operations * passes * config.batch_size
    images, prompts, known = _counts(data, config)
    row = family.latent_channels * (config.resolution // family.downscale) ** 2
    text = sum(torch.Size(shape).numel() for shape in family.text_shapes())
    stored = 4 if config.precision == "fp32" else 2
    disk = {
        f"latents of {images:,} images": images * row * stored * config.crops * (1 + config.mirror),
        f"embeddings of {prompts:,} prompts": prompts * text * stored,
        f"{KEPT + 1} checkpoints": (KEPT + 1) * cost.trained * (12 + 4 * bool(config.ema_decay)),
        "the policy": cost.trained * 4 * (2 if lora and family.trained == "unet" else 1),
    }
    return Estimate(cost, family.pipeline, memory, disk, step * config.steps, passes, known)


def plan(config: PolicyConfig, data: DataConfig, out: Path) -> str:
    """Return the plan of a run as a page of text. Nothing is encoded, trained or written."""
    found = estimate(config, data)
    cost = found.cost
    lines = [
        f"{config.name}: {config.objective}, {config.adaptation}, {found.pipeline} at "
        f"{config.resolution} px, {config.steps} steps of {config.batch_size} pairs, "
        f"{config.precision}",
        f"{cost.weights / 1e9:.3f} billion weights, {cost.trained / 1e6:.2f} million trained; "
        f"{cost.operations / 1e12:.3f} TFLOP an image forward",
        "",
        *_table("memory of the GPU, of each process", found.memory),
        *_shared(found, config),
        "",
        *_table(f"disk ({data.cache} and {out})", found.disk),
        *([] if found.known else ["  at most: the training set is not built yet"]),
        "",
        f"time: {found.operations / 1e18:.3f} EFLOP in {found.passes} passes an image's pair, and "
        f"at {SHARE:.0%} of a card's bf16 speed (assumed)",
        *(f"  {hours:10.2f} h   one {name}" for name, hours in found.hours.items()),
    ]
    return "\n".join(lines)


def _shared(found: Estimate, config: PolicyConfig) -> list[str]:
    """Say what of the memory several processes share, where they do."""
    if not config.shard:
        return []
    names = ["weights", "frozen reference"]
    if config.adaptation == "full":
        names += ["gradients and optimiser", "running mean of the weights"]
    size = sum(found.memory[name] for name in names) / GIB
    return [f"  {size:10.2f} GiB  of it is shared out (train.shard): divide by the processes"]


def _counts(data: DataConfig, config: PolicyConfig) -> tuple[int, int, bool]:
    """Images and prompts of the training set if it is there; else the most there can be."""
    if data.pairs.exists():
        pairs = open_pairs(data.pairs)
        return len(pairs.images), len(pairs.prompts), True
    most = config.steps * config.batch_size
    return 2 * most, most, False


def _table(title: str, rows: dict[str, int]) -> list[str]:
    whole = {**rows, "together": sum(rows.values())}
    return [title, *(f"  {size / GIB:10.2f} GiB  {name}" for name, size in whole.items() if size)]
