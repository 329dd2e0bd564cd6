"""Z-Image, SANA and Lumina 2: transformers over latents as they are, after a language model."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.families.family import Family, Texts

ALONE: Mapping[str, Any] = {"do_classifier_free_guidance": False}
MASKED = (
    *("prompt_embeds", "prompt_attention_mask"),
    *("negative_prompt_embeds", "negative_prompt_attention_mask"),
)


class ZImage(Family):
    """Z-Image and its Turbo: Qwen3's hidden states; time runs from 0 (noise) to 1 (image)."""

    pipeline = "ZImagePipeline"
    results = ("prompt_embeds", "negative_prompt_embeds")
    encoding = ALONE
    limit = ("tokenizer", 512)

    @property
    def ragged(self) -> bool:
        """Each prompt has its own length."""
        return True

    def text_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Hidden states of a long prompt."""
        return ((256, self.config["cap_feat_dim"]),)

    def as_arguments(self, texts: Texts) -> dict[str, Any]:
        """Return embeddings as a list of one tensor for each prompt, as the pipeline takes them."""
        return {"prompt_embeds": self._unpadded_prompts(texts)}

    def predict(self, denoiser: Any, noisy: Tensor, times: Tensor, texts: Texts) -> Tensor:
        """Return the velocity (n, c, h, w): the transformer's output is its negative."""
        images = list(noisy.unsqueeze(2).unbind(0))
        output = denoiser(images, 1 - times, self._unpadded_prompts(texts), return_dict=False)[0]
        return -torch.stack(list(output)).squeeze(2)

    @staticmethod
    def _unpadded_prompts(texts: Texts) -> list[Tensor]:
        return [row[:n] for row, n in zip(texts.embeds[0], texts.lengths, strict=True)]


class Sana(Family):
    """SANA (arXiv 2410.10629): a VAE of 32 pixels a cell, Gemma after a long instruction."""

    pipeline = "SanaPipeline"
    results = MASKED
    encoding = ALONE
    limit = ("tokenizer", 300)
    patch = 1
    guidance = 4.5

    def __init__(self, folder: Path, memo: Path | None = None) -> None:
        import diffusers

        super().__init__(folder, memo)
        # What the pipeline tells Gemma before the prompt when it draws.
        given = inspect.signature(diffusers.SanaPipeline.__call__).parameters
        instruction = given["complex_human_instruction"].default
        self.encoding = {**ALONE, "complex_human_instruction": instruction}

    @property
    def downscale(self) -> int:
        """Pixels a side of one latent cell."""
        return 2 ** (len(self.vae_config["encoder_block_out_channels"]) - 1)

    def encoded(self, vae: Any, pixels: Tensor) -> Tensor:
        """Return the scaled latent; the autoencoder has no posterior."""
        return vae.encode(pixels).latent * vae.config.scaling_factor

    def text_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Gemma's hidden states, of a long prompt."""
        return ((256, self.config["caption_channels"]),)

    def predict(self, denoiser: Any, noisy: Tensor, times: Tensor, texts: Texts) -> Tensor:
        """Return the velocity (n, c, h, w), without a learned variance beside it."""
        output = denoiser(
            noisy,
            encoder_hidden_states=texts.embeds[0],
            encoder_attention_mask=texts.mask,
            timestep=1000 * times * self.config.get("timestep_scale", 1.0),
            return_dict=False,
        )[0]
        return output[:, : noisy.shape[1]]


class Lumina2(Family):
    """Lumina Image 2 (arXiv 2503.21758): Gemma's hidden states; time runs from noise to image."""

    pipeline = "Lumina2Pipeline"
    results = MASKED
    encoding = ALONE
    limit = ("tokenizer", 256)
    guidance = 4.0
    asks_mask = True

    def text_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Gemma's hidden states, of a long prompt."""
        return ((256, self.config["cap_feat_dim"]),)

    def predict(self, denoiser: Any, noisy: Tensor, times: Tensor, texts: Texts) -> Tensor:
        """Return the velocity (n, c, h, w): the transformer's output is its negative."""
        return -denoiser(noisy, 1 - times, texts.embeds[0], texts.mask, return_dict=False)[0]
