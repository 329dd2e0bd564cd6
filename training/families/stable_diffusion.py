"""Stable Diffusion: a UNet under a discrete schedule (1.x, 2.x, XL), a transformer by flow (3)."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from training.families.family import Family, Texts
from training.families.folder import config_of
from training.families.process import Discrete, ModelError

ALONE: Mapping[str, Any] = {"num_images_per_prompt": 1, "do_classifier_free_guidance": False}


class StableDiffusion(Family):
    """Stable Diffusion 1.x and 2.x, noise (`epsilon`) and velocity (`v_prediction`) models."""

    pipeline = "StableDiffusionPipeline"
    trained = "unet"
    results: ClassVar[tuple[str, ...]] = ("prompt_embeds", "negative_prompt_embeds")
    encoding = ALONE
    process_kind = Discrete
    patch = 1

    def __init__(self, folder: Path, memo: Path | None = None) -> None:
        super().__init__(folder, memo)
        if self.config["in_channels"] != self.config["out_channels"]:
            raise ModelError(
                f"model.base: the UNet of {folder} takes {self.config['in_channels']} channels "
                f"and gives {self.config['out_channels']} (an inpainting model?); only text to "
                "image is supported"
            )

    def layout(self, device: torch.device) -> torch.memory_format:
        """Channels last on a GPU, whose convolutions compute in it; a processor's are slower so."""
        return torch.channels_last if device.type == "cuda" else torch.contiguous_format

    def text_shapes(self) -> tuple[tuple[int, ...], ...]:
        """CLIP's hidden states."""
        length = config_of(self.folder / "text_encoder")["max_position_embeddings"]
        return ((length, self.config["cross_attention_dim"]),)

    def predict(self, denoiser: Any, noisy: Tensor, times: Tensor, texts: Texts) -> Tensor:
        """Return noise or velocity (n, c, h, w)."""
        noisy = noisy.contiguous(memory_format=self.layout(noisy.device))
        return denoiser(noisy, times, texts.embeds[0], return_dict=False)[0]


class StableDiffusionXL(StableDiffusion):
    """Stable Diffusion XL (arXiv 2307.01952): two text encoders, pooled text, size conditioning."""

    pipeline = "StableDiffusionXLPipeline"
    results = (
        *("prompt_embeds", "negative_prompt_embeds"),
        *("pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
    )
    told_sizes = True

    def text_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Both encoders' hidden states side by side, and the second's pooled text."""
        both = self.config["projection_class_embeddings_input_dim"]
        return *super().text_shapes(), (both - 6 * self.config["addition_time_embed_dim"],)

    def predict(self, denoiser: Any, noisy: Tensor, times: Tensor, texts: Texts) -> Tensor:
        """Return noise or velocity; without sizes an image is as large as it is asked for."""
        (hidden, pooled), sizes = texts.embeds, texts.sizes
        if sizes is None:
            height, width = (side * self.downscale for side in noisy.shape[-2:])
            told = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32)
            sizes = told.to(noisy.device, non_blocking=True).repeat(len(noisy), 1)
        conditions = {"text_embeds": pooled, "time_ids": sizes}
        noisy = noisy.contiguous(memory_format=self.layout(noisy.device))
        return denoiser(noisy, times, hidden, added_cond_kwargs=conditions, return_dict=False)[0]


class StableDiffusion3(Family):
    """Stable Diffusion 3 and 3.5: MMDiT with two CLIP towers and T5, which may be missing."""

    pipeline = "StableDiffusion3Pipeline"
    results = StableDiffusionXL.results
    encoding = MappingProxyType(
        {**ALONE, "prompt_2": None, "prompt_3": None, "max_sequence_length": 256}
    )
    limit: tuple[str, int | None] = ("tokenizer_3", 256)

    def __init__(self, folder: Path, memo: Path | None = None) -> None:
        super().__init__(folder, memo)
        if "tokenizer_3" not in self.texts:
            self.limit = ("tokenizer", None)

    def text_shapes(self) -> tuple[tuple[int, ...], ...]:
        """CLIP's and T5's hidden states one after the other, and CLIP's pooled texts."""
        length = config_of(self.folder / "text_encoder")["max_position_embeddings"]
        hidden = (length + 256, self.config["joint_attention_dim"])
        return hidden, (self.config["pooled_projection_dim"],)

    def predict(self, denoiser: Any, noisy: Tensor, times: Tensor, texts: Texts) -> Tensor:
        """Return the velocity (n, c, h, w); the transformer counts time from 0 to 1000."""
        hidden, pooled = texts.embeds
        return denoiser(noisy, hidden, pooled, 1000 * times, return_dict=False)[0]
