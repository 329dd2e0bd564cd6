"""What a run will take, before anything is spent: memory, disk, operations, hours.

The denoiser is built without values on the `meta` device and one pair is sent through it: its
parameters, the bytes that autograd would keep and the operations are counted, not guessed. What is
an assumption is printed as one: the card's speed and the share of it that a run attains.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from training.checkpoint import KEPT
from training.config import DataConfig, PolicyConfig
from training.families import Family, Texts, open_family
from training.families.adapter import add_adapter
from training.model import DTYPES
from training.pairs import open_pairs
from training.processes import refuse_uneven
from training.views import views_of

GIB = 2**30
CARDS = {"RTX 4090": 165e12, "A100": 312e12, "H100, H200": 989e12}  # dense bf16, per second
SHARE = 0.35  # of a card's speed, a usual model FLOP utilisation for diffusion models
RESERVED = 1.5 * GIB  # CUDA's context, workspaces, fragmentation
SIZES = (24, 48, 80)  # GB of memory that cards have
MOMENTS = {"adamw": 8, "adamw_8bit": 2, "adafactor": 0.1, "prodigy": 16}  # bytes for each weight
OF_ALL_WEIGHTS = (
    "gradients and optimiser", "autocast's copies of the weights", "running mean of the weights"
)  # fmt: skip


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
    model = family.empty(family.trained, dtype)
    frozen = sum(p.numel() for p in model.parameters())
    if config.adaptation == "lora":
        with torch.device("meta"):
            add_adapter(family, model, config)
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
    shape = family.latent_shape(config.resolution, config.resolution)
    latents = torch.zeros(1, *shape, device="meta", dtype=dtype)
    texts, times = meta_texts(family, dtype), torch.zeros(1, device="meta")
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


def meta_texts(family: Family, dtype: torch.dtype) -> Texts:
    """Embeddings of one prompt without values, as long as a long prompt's."""
    shapes = family.text_shapes()
    embeds = tuple(torch.zeros(1, *shape, device="meta", dtype=dtype) for shape in shapes)
    if not family.ragged:
        return Texts(embeds)
    length = shapes[0][0]
    place = "cpu" if family.asks_mask else "meta"  # attention is counted without it
    return Texts(embeds, torch.ones(1, length, dtype=torch.bool, device=place), (length,))


@dataclass(frozen=True)
class Encoding:
    """What the encoders take: operations of an image and of a prompt, bytes of their weights."""

    image: int
    prompt: int
    memory: int


def cost_of_encoding(family: Family, resolution: int) -> Encoding:
    """Count one image through the VAE, and the text encoders by their weights and tokens.

    A text encoder takes two operations a weight and token; those of CLIP are kept in fp32.
    """
    from torch.utils.flop_counter import FlopCounterMode

    vae = family.empty("vae", torch.float32)
    operations = FlopCounterMode(display=False)
    with operations, torch.no_grad():
        family.encoded(vae, torch.zeros(1, 3, resolution, resolution, device="meta"))
    prompt = memory = 0
    for name in (each for each in family.texts if each.startswith("text_encoder")):
        weights = family.text_weights(name)
        prompt += 2 * weights * max(shape[0] for shape in family.text_shapes() if len(shape) > 1)
        memory += weights * (4 if str(family.index[name][1]).startswith("CLIP") else 2)
    of_vae = sum(p.numel() for p in vae.parameters()) * 4
    return Encoding(operations.get_total_flops(), prompt, max(memory, of_vae))


@dataclass(frozen=True)
class Estimate:
    """What a run will take.

    memory, disk: bytes by what they are for, memory of each process. work: operations by what they
    are for, in `passes` passes of the denoiser an image's pair. known: the images and prompts were
    counted, and are no bound. encoding: bytes that the encoders take before the denoiser is loaded.
    """

    cost: Cost
    pipeline: str
    memory: dict[str, int]
    disk: dict[str, int]
    work: dict[str, int]
    passes: int
    known: bool
    encoding: int
    processes: int = 1

    @property
    def operations(self) -> int:
        """Of the whole run."""
        return sum(self.work.values())

    @property
    def hours(self) -> dict[str, float]:
        """By card, at the assumed share of its speed, the processes sharing the work evenly."""
        each = self.operations / self.processes
        return {name: each / (speed * SHARE) / 3600 for name, speed in CARDS.items()}


def estimate(config: PolicyConfig, data: DataConfig, processes: int = 1) -> Estimate:
    """Count what a run will take. Nothing is encoded, trained or written.

    Raises TrainingError where the processes cannot share a batch.
    """
    refuse_uneven(config.batch_size, processes)
    family = open_family(config.base, revision=config.revision or None, weights=False)
    family.check_resolution(config.resolution)
    cost, encoding = cost_of_an_image(family, config), cost_of_encoding(family, config.resolution)
    lora, sft = config.adaptation == "lora", config.objective == "sft"
    images, prompts, known = _counts(data, config)
    views, stored = len(views_of(config)), DTYPES[config.precision].itemsize
    row = math.prod(family.latent_shape(config.resolution, config.resolution))
    text = sum(math.prod(shape) for shape in family.text_shapes())
    moments, kept = MOMENTS[config.optimizer], (config.ema_decay > 0) + (config.reference_decay > 0)
    disk = {
        f"latents of {images:,} images": images * row * stored * views,
        f"embeddings of {prompts:,} prompts": prompts * text * stored,
        f"{KEPT + 1} checkpoints": int((KEPT + 1) * cost.trained * (4 + moments + 4 * kept)),
        "the policy": cost.trained * 4 * (2 if lora and family.trained == "unet" else 1),
    }
    backward = (1 if lora else 2) + config.gradient_checkpointing
    live = not sft and not config.reference_draws
    passes = (1 if sft else 2) * (1 + backward + live)
    errors = 0
    if config.reference_draws and not sft:
        errors = min(config.steps * config.batch_size, images * config.reference_draws * views)
    work = {
        "training": cost.operations * passes * config.batch_size * config.steps,
        "the reference's errors": cost.operations * 2 * errors,
        "encoding": images * views * encoding.image + prompts * encoding.prompt,
    }
    memory = _memory(config, cost, processes)
    return Estimate(
        cost, family.pipeline, memory, disk, work, passes, known, encoding.memory, processes
    )


def _memory(config: PolicyConfig, cost: Cost, processes: int) -> dict[str, int]:
    """Bytes of each process by what they are for."""
    half, lora, sft = (
        DTYPES[config.precision].itemsize, config.adaptation == "lora", config.objective == "sft"
    )  # fmt: skip
    at_once = 1 if config.exact_sums else config.pairs_at_once
    part = min(at_once, config.batch_size // processes)
    frozen = cost.weights - cost.trained if lora else 0
    reference = 0
    if config.reference_decay:
        reference = cost.trained * 4
    elif not (lora or sft or config.reference_draws):
        reference = cost.weights * half
    memory = {
        "weights": frozen * (0.55 if config.quantization == "nf4" else half) + cost.trained * 4,
        "gradients and optimiser": cost.trained * (4 + MOMENTS[config.optimizer]),
        "autocast's copies of the weights": 0 if lora or half == 4 else cost.trained * half,
        "running mean of the weights": cost.trained * 4 if config.ema_decay else 0,
        "reference": reference,
        "exact sums of the gradients": cost.trained * 8 if config.exact_sums else 0,
        "gradients on their way to the others": cost.trained * 4 if processes > 1 else 0,
        f"activations, {part} pairs at once": cost.kept * (1 if sft else 2) * part,
        "reserved (assumed)": RESERVED,
    }
    if config.shard and processes > 1:
        for name in ("weights", "reference", *(() if lora else OF_ALL_WEIGHTS)):
            memory[name] /= processes
        if not lora:
            memory["gradients on their way to the others"] = 0
    return {name: int(size) for name, size in memory.items()}


def plan(config: PolicyConfig, data: DataConfig, out: Path, processes: int = 1) -> str:
    """Return the plan of a run as a page of text. Nothing is encoded, trained or written."""
    found = estimate(config, data, processes)
    cost, whole = found.cost, sum(found.memory.values())
    share = config.batch_size // processes
    most = max(whole, found.encoding + int(RESERVED))
    lines = [
        f"{config.name}: {config.objective}, {config.adaptation}, {found.pipeline} at "
        f"{config.resolution} px, {config.steps} steps of {config.batch_size} pairs, "
        f"{config.precision}",
        f"{processes} processes of {share} pairs a step, "
        f"{min(share, config.pairs_at_once)} at once",
        f"{cost.weights / 1e9:.3f} billion weights, {cost.trained / 1e6:.2f} million trained; "
        f"{cost.operations / 1e12:.3f} TFLOP an image forward",
        "",
        *_table("memory of the GPU, of each process", found.memory),
        f"  {found.encoding / GIB:10.2f} GiB  before that, while encoding: the encoders' weights",
        "  fits a card of " + ", ".join(
            f"{size} GB: {'yes' if most < size * 1e9 else 'no'}" for size in SIZES
        ),
        "",
        *_table(f"disk ({data.cache} and {out})", found.disk),
        *([] if found.known else ["  at most: the training set is not built yet"]),
        "",
        f"time: {found.operations / 1e18:.3f} EFLOP, training in {found.passes} passes an image's "
        f"pair; at {SHARE:.0%} of a card's bf16 speed (assumed)",
        *(f"  {n / found.operations:10.0%}     {name}" for name, n in found.work.items() if n),
        *(f"  {hours:10.2f} h   {processes} x {name}" for name, hours in found.hours.items()),
    ]  # fmt: skip
    return "\n".join(lines)


def _counts(data: DataConfig, config: PolicyConfig) -> tuple[int, int, bool]:
    """Images and prompts that the run shows if the training set is there; else the most."""
    most = config.steps * config.batch_size
    if data.pairs.exists():
        pairs = open_pairs(data.pairs)
        return min(len(pairs.images), 2 * most), min(len(pairs.prompts), most), True
    return 2 * most, most, False


def _table(title: str, rows: dict[str, int]) -> list[str]:
    whole = {**rows, "together": sum(rows.values())}
    return [title, *(f"  {size / GIB:10.2f} GiB  {name}" for name, size in whole.items() if size)]
