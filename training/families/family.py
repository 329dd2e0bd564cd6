"""What a model family declares of a pipeline, and what follows for images, prompts and times.

A family is a declaration: the pipeline's name, the part that is trained, what its `encode_prompt`
returns, the forward process, and one call of the denoiser. Its parts on disk are `folder.py`'s.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from training.families.folder import PipelineFolder, config_of, quiet
from training.families.process import Discrete, Flow, ModelError


@dataclass(frozen=True)
class Texts:
    """Embeddings of n prompts, as the pipeline's `encode_prompt` gives them."""

    embeds: tuple[Tensor, ...]
    """In the order of `Family.embeddings`: each (n, length, width) or (n, width)."""
    mask: Tensor | None = None
    """(n, length), true for tokens and false for padding; None where no prompt is padded."""
    lengths: tuple[int, ...] = ()
    """The mask's sums, on the host."""
    sizes: Tensor | None = None
    """(n, 6), for a family that is told of the images' sizes: original height and width, the crop's
    top and left, target height and width, in pixels."""

    def repeated(self, n: int) -> "Texts":
        """Return the prompts n times, one after the other."""
        mask = None if self.mask is None else torch.cat([self.mask] * n)
        return Texts(tuple(torch.cat([e] * n) for e in self.embeds), mask, self.lengths * n)

    def to(self, dtype: torch.dtype, device: torch.device | None = None) -> "Texts":
        """Return the embeddings in `dtype`, on another device if one is given."""
        mask = None if self.mask is None else self.mask.to(device)
        return replace(self, embeds=tuple(e.to(device, dtype) for e in self.embeds), mask=mask)


@dataclass(frozen=True)
class PromptEncoder:
    """A pipeline's text encoders, loaded."""

    encode: Callable[[Sequence[str]], list[tuple[Tensor, ...]]]
    """n prompts -> n times the embeddings of one, in the order of `Family.embeddings`."""
    unprompted: Callable[[], tuple[Tensor, ...]]
    """What the pipeline guides against where no negative prompt is given."""
    cut: Callable[[Sequence[str]], int]
    """How many of n prompts are longer than what the encoder reads."""


class Family(PipelineFolder, ABC):
    """A pipeline in diffusers' layout, as the trainer sees it.

    Times t (n,) are the forward process's own (whole steps, or sigma in (0, 1)); nothing outside a
    family reads them.
    """

    results: ClassVar[tuple[str, ...]]
    """What `encode_prompt` returns, in order, by the names of the pipeline's own arguments."""
    encoding: Mapping[str, Any] = MappingProxyType({})
    """What `encode_prompt` is told besides."""
    limit: tuple[str, int | None] = ("tokenizer", None)
    """The tokenizer whose limit cuts a prompt, and the tokens it reads (None: the tokenizer's)."""
    process_kind: ClassVar[type[Discrete] | type[Flow]] = Flow
    patch: ClassVar[int] = 2
    """Latent cells a side of one token of the denoiser."""
    targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    """Layers that get additions where a study names none: the attention's projections."""
    guidance_argument: ClassVar[str] = "guidance_scale"
    """The pipeline's argument for the scale of classifier-free guidance."""
    guidance: ClassVar[float] = 5.0
    """That scale where a study names none; a distilled model is told it in training too."""
    guided: bool = True
    """Whether the pipeline guides, so against the text of no prompt."""
    no_prompt: ClassVar[str] = ""
    """The negative prompt of a pipeline whose `encode_prompt` makes none."""
    asks_mask: ClassVar[bool] = False
    """Whether the denoiser asks the mask for numbers, and so waits for the device each time."""
    told_sizes: ClassVar[bool] = False
    """Whether the denoiser is told of each image's size and crop."""

    def __init__(self, folder: Path, memo: Path | None = None) -> None:
        super().__init__(folder, memo)
        scheduler = config_of(folder / "scheduler", "scheduler_config.json")
        self.process = self.process_kind(folder, scheduler)

    # What a family declares --------------------------------------------------------------------

    @abstractmethod
    def predict(self, denoiser: Any, noisy: Tensor, times: Tensor, texts: Texts) -> Tensor:
        """Return noise or velocity (n, c, h, w) for noisy latents (n, c, h, w) at t (n,)."""

    @abstractmethod
    def text_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of one prompt's embeddings, of a long one where they differ."""

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return self.vae_config["latent_channels"]

    @property
    def downscale(self) -> int:
        """Pixels a side of one latent cell."""
        return 2 ** (len(self.vae_config["block_out_channels"]) - 1)

    def encoded(self, vae: Any, pixels: Tensor) -> Tensor:
        """Return the latents of pixels (n, 3, h, w) in [-1, 1], as the denoiser knows them."""
        shift = self.vae_config.get("shift_factor") or 0.0
        return (vae.encode(pixels).latent_dist.mean - shift) * vae.config.scaling_factor

    def layout(self, device: torch.device) -> torch.memory_format:
        """Return the layout of the denoiser's weights and of what it is given."""
        return torch.contiguous_format

    # What follows from the declaration ---------------------------------------------------------

    @property
    def embeddings(self) -> tuple[str, ...]:
        """Names of a prompt's tensors, as the pipeline's arguments."""
        return tuple(name for name in self.results if name.endswith("prompt_embeds")
                     and not name.startswith("negative"))  # fmt: skip

    @property
    def mask_name(self) -> str | None:
        """The pipeline's argument for the mask of padded prompts, where it has one."""
        return next((n for n in self.results if "mask" in n and "negative" not in n), None)

    @property
    def ragged(self) -> bool:
        """Whether prompts differ in length, and are padded to the longest of a batch."""
        return self.mask_name is not None

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Shape (c, h, w) of the latent of an image of so many pixels."""
        return self.latent_channels, height // self.downscale, width // self.downscale

    def tokens(self, shape: Sequence[int]) -> int:
        """Tokens of a latent (..., h, w) in the denoiser."""
        return shape[-2] * shape[-1] // self.patch**2

    def check_resolution(self, resolution: int) -> None:
        """Raise ModelError unless the model can draw images of this many pixels a side."""
        if resolution % (self.downscale * self.patch):
            raise ModelError(
                f"model.resolution = {resolution}: {self.folder} needs a multiple of "
                f"{self.downscale * self.patch}"
            )

    def denoiser(
        self, device: torch.device, dtype: torch.dtype = torch.float32, quantization: str = "none"
    ) -> Any:
        """Load the component that is trained, frozen; `nf4` keeps its weights in 4 bits."""
        how = {}
        if quantization == "nf4":
            from diffusers import BitsAndBytesConfig

            how["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
            )
        model = self.loaded(self.trained, dtype, **how)
        if how:
            return model.to(device).eval().requires_grad_(False)
        return model.to(device, memory_format=self.layout(device)).eval().requires_grad_(False)

    def image_encoder(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Load the VAE; return pixels (n, 3, h, w) in [-1, 1] -> latents (n, c, h/f, w/f).

        A latent is the posterior's mean, not a sample: the posterior's spread is far below the
        noise of every timestep that matters, a mean can be computed once and named by its image,
        and no two runs disagree on it. It is computed in fp32, in which no VAE overflows.
        """
        vae = self.loaded("vae", torch.float32).to(device).eval()

        @torch.no_grad()
        def encode(pixels: Tensor) -> Tensor:
            return self.encoded(vae, pixels.to(device))

        return encode

    def prompt_encoder(self, device: torch.device, *, offload: bool = False) -> PromptEncoder:
        """Load tokenizers and text encoders, as the pipeline's own `encode_prompt` uses them.

        On a GPU all but CLIP are in bf16: T5's 4.8 billion weights would take 19 GB in fp32.
        """
        half = torch.bfloat16 if device.type == "cuda" else torch.float32
        clip = {n for n in self.texts if str(self.index[n][1]).startswith("CLIP")}
        dtypes = {n: torch.float32 if n in clip else half for n in self.texts}
        pipe = self.assembled(self.texts, dtype={**dtypes, "default": half})
        if offload and device.type != "cpu":
            pipe.enable_sequential_cpu_offload(device=device)
        else:
            pipe.to(device)

        if self.trained == "transformer":  # SD3 without T5 asks for the width of what is missing
            pipe.transformer = SimpleNamespace(config=SimpleNamespace(**self.config))

        def run(prompts: Sequence[str], **how: Any) -> dict[str, Any]:
            how = {**self.encoding, **how}
            with torch.no_grad(), quiet():
                found = pipe.encode_prompt(prompt=list(prompts), device=device, **how)
            return dict(zip(self.results, found, strict=True))

        def encode(prompts: Sequence[str]) -> list[tuple[Tensor, ...]]:
            return self._unpadded(run(prompts))

        def unprompted() -> tuple[Tensor, ...]:
            if "do_classifier_free_guidance" not in self.encoding:
                return encode([self.no_prompt])[0]
            found = run([""], do_classifier_free_guidance=True)
            own = {k.removeprefix("negative_"): v for k, v in found.items() if "negative" in k}
            return self._unpadded(own)[0]

        name, most = self.limit
        tokenizer = getattr(pipe, name)
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor
        most = most or tokenizer.model_max_length

        def cut(prompts: Sequence[str]) -> int:
            with quiet():
                return sum(len(ids) > most for ids in tokenizer(list(prompts)).input_ids)

        return PromptEncoder(encode, unprompted, cut)

    def _unpadded(self, found: dict[str, Any]) -> list[tuple[Tensor, ...]]:
        """Return each prompt's tensors, its padding left out where the family has a mask."""
        embeds = [found[name] for name in self.embeddings]
        rows = [tuple(each[i] for each in embeds) for i in range(len(embeds[0]))]
        mask = found.get(self.mask_name) if self.mask_name else None
        if mask is not None:
            rows = [(row[0][keep.bool()], *row[1:]) for row, keep in zip(rows, mask, strict=True)]
        return rows

    def as_arguments(self, texts: Texts) -> dict[str, Any]:
        """Return embeddings as arguments of the pipeline's call."""
        named: dict[str, Any] = dict(zip(self.embeddings, texts.embeds, strict=True))
        if self.mask_name and texts.mask is not None:
            named[self.mask_name] = texts.mask
        return named
