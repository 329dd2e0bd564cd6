"""Stable Diffusion 3 and FLUX: transformers trained by flow matching (arXiv 2403.03206).

    x_sigma = (1 - sigma) x_0 + sigma eps        target: v = eps - x_0

sigma is logit-normal (there, section 3.1), then shifted towards noise as the pipeline's scheduler
shifts it when it samples. The scheduler's own steps play no part: sigma is continuous.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.families import text
from training.families.pipeline import Family, ModelError, Texts, config_of

T5_LENGTH = {"StableDiffusion3Pipeline": 256, "FluxPipeline": 512}  # the pipelines' defaults


class Flow(Family):
    """What SD3 and FLUX share: the forward process and the transformer."""

    trained = "transformer"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.patch = 2
        self.config = config_of(folder / "transformer")
        self.scheduler = config_of(folder / "scheduler", "scheduler_config.json")
        kind = self.scheduler.get("_class_name")
        if kind != "FlowMatchEulerDiscreteScheduler":
            raise ModelError(f"model.base: {folder} samples with {kind}; a flow model is expected")

    def draw_times(
        self, shape: tuple[int, ...], generator: torch.Generator, device: torch.device
    ) -> Tensor:
        """Sigma (n,) in (0, 1): u logit-normal, shifted by s to s u / (1 + (s - 1) u)."""
        u = torch.randn(shape[:1], generator=generator, device=device).sigmoid()
        shift = self.shift(shape)
        return shift * u / (1 + (shift - 1) * u)

    def shift(self, shape: tuple[int, ...]) -> float:
        """The scheduler's shift towards noise (3 for SD3) for latents of this shape."""
        return float(self.scheduler.get("shift", 1.0))

    def noisy(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """x_sigma = (1 - sigma) x_0 + sigma eps."""
        sigma = times.view(-1, *[1] * (latents.ndim - 1))
        return (1 - sigma) * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """The velocity d x_sigma / d sigma = eps - x_0, the same at every sigma."""
        return noise - latents


class StableDiffusion3(Flow):
    """Stable Diffusion 3 and 3.5: MMDiT with two CLIP towers and T5, which may be missing."""

    pipeline = "StableDiffusion3Pipeline"
    texts = (
        *("tokenizer", "tokenizer_2", "tokenizer_3"),
        *("text_encoder", "text_encoder_2", "text_encoder_3"),
    )

    def denoiser_class(self) -> Any:
        """The MMDiT."""
        from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

        return SD3Transformer2DModel

    def text_shapes(self) -> tuple[tuple[int, ...], ...]:
        """CLIP's and T5's hidden states one after the other, and CLIP's pooled texts."""
        length = config_of(self.folder / "text_encoder")["max_position_embeddings"]
        hidden = (length + T5_LENGTH[self.pipeline], self.config["joint_attention_dim"])
        return hidden, (self.config["pooled_projection_dim"],)

    def predict(
        self,
        denoiser: Any,
        noisy: Tensor,
        times: Tensor,
        texts: Texts,
        corners: Tensor | None = None,
    ) -> Tensor:
        """Return the velocity (n, c, h, w); the transformer counts time from 0 to 1000."""
        hidden, pooled = texts
        return denoiser(
            hidden_states=noisy,
            timestep=1000 * times,
            encoder_hidden_states=hidden,
            pooled_projections=pooled,
            return_dict=False,
        )[0]

    def prompt_encoder(self, device: torch.device) -> Callable[[Sequence[str]], Texts]:
        """CLIP's hidden states, padded to T5's width, then T5's; and both pooled CLIP texts.

        Without T5 its part is zeros, as the pipeline does.
        """
        towers = [
            text.clip(self.folder, f"tokenizer{n}", f"text_encoder{n}", device, projected=True)
            for n in ("", "_2")
        ]
        length, width = T5_LENGTH[self.pipeline], self.config["joint_attention_dim"]
        t5 = None
        if (self.folder / "text_encoder_3").is_dir():
            t5 = text.t5(self.folder, "tokenizer_3", "text_encoder_3", length, device)

        def encode(prompts: Sequence[str]) -> Texts:
            outputs = [tower(prompts) for tower in towers]
            hidden = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
            hidden = torch.nn.functional.pad(hidden, (0, width - hidden.shape[-1]))
            long = t5(prompts).float() if t5 else hidden.new_zeros(len(prompts), length, width)
            pooled = torch.cat([output.text_embeds for output in outputs], dim=-1)
            return torch.cat([hidden, long], dim=-2), pooled

        return encode


class Flux(Flow):
    """FLUX.1: latents packed into 2 x 2 patches, CLIP's pooled text and T5's hidden states."""

    pipeline = "FluxPipeline"
    texts = ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2")
    guided = False
    guidance = 3.5
    """What a guidance-distilled model (FLUX.1 dev) is told, in training as when it samples."""

    def shift(self, shape: tuple[int, ...]) -> float:
        """exp(mu), mu linear in the number of patches (the scheduler's dynamic shifting)."""
        s = self.scheduler
        if not s.get("use_dynamic_shifting"):
            return super().shift(shape)
        low, high = s.get("base_image_seq_len", 256), s.get("max_image_seq_len", 4096)
        slope = (s.get("max_shift", 1.15) - s.get("base_shift", 0.5)) / (high - low)
        patches = shape[2] * shape[3] // 4
        return math.exp(s.get("base_shift", 0.5) + slope * (patches - low))

    def denoiser_class(self) -> Any:
        """The transformer."""
        from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

        return FluxTransformer2DModel

    def text_shapes(self) -> tuple[tuple[int, ...], ...]:
        """T5's hidden states and CLIP's pooled text."""
        hidden = (T5_LENGTH[self.pipeline], self.config["joint_attention_dim"])
        return hidden, (self.config["pooled_projection_dim"],)

    def predict(
        self,
        denoiser: Any,
        noisy: Tensor,
        times: Tensor,
        texts: Texts,
        corners: Tensor | None = None,
    ) -> Tensor:
        """Return the velocity (n, c, h, w), packed and unpacked on the way."""
        hidden, pooled = texts
        n, c, h, w = noisy.shape
        packed = noisy.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
        rows, columns = torch.meshgrid(
            torch.arange(h // 2, device=noisy.device),
            torch.arange(w // 2, device=noisy.device),
            indexing="ij",
        )
        places = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3)
        told = noisy.new_full((n,), self.guidance) if self.config.get("guidance_embeds") else None
        output = denoiser(
            hidden_states=packed.reshape(n, (h // 2) * (w // 2), 4 * c),
            timestep=times,
            guidance=told,
            pooled_projections=pooled,
            encoder_hidden_states=hidden,
            txt_ids=hidden.new_zeros(hidden.shape[1], 3),
            img_ids=places.to(hidden.dtype),
            return_dict=False,
        )[0]
        unpacked = output.view(n, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return unpacked.reshape(n, c, h, w)

    def prompt_encoder(self, device: torch.device) -> Callable[[Sequence[str]], Texts]:
        """T5's hidden states (n, 512, width) and CLIP's pooled text."""
        tower = text.clip(self.folder, "tokenizer", "text_encoder", device)
        length = T5_LENGTH[self.pipeline]
        t5 = text.t5(self.folder, "tokenizer_2", "text_encoder_2", length, device)

        def encode(prompts: Sequence[str]) -> Texts:
            return t5(prompts).float(), tower(prompts).pooler_output

        return encode
