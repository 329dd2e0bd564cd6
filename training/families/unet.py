"""Stable Diffusion 1.x, 2.x and XL: a UNet under a discrete schedule.

The UNet predicts noise (`epsilon`) or velocity (arXiv 2202.00512), at t drawn evenly from the
schedule's steps.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from training.families import text
from training.families.pipeline import Family, ModelError, Texts, config_of


class StableDiffusion(Family):
    """Stable Diffusion 1.x and 2.x, noise (`epsilon`) and velocity (`v_prediction`) models."""

    pipeline = "StableDiffusionPipeline"
    trained = "unet"
    texts: ClassVar[tuple[str, ...]] = ("tokenizer", "text_encoder")
    embeddings: ClassVar[tuple[str, ...]] = ("hidden",)

    def __init__(self, folder: Path) -> None:
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        super().__init__(folder)
        config = config_of(folder / "scheduler", "scheduler_config.json")
        # The training process (forward diffusion) is DDPM's whatever sampler the pipeline names.
        keys = "num_train_timesteps beta_start beta_end beta_schedule trained_betas prediction_type"
        self.schedule = DDPMScheduler(**{k: config[k] for k in keys.split() if k in config})
        self.prediction_type = self.schedule.config.prediction_type
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise ModelError(
                f"model.base: {folder} predicts {self.prediction_type!r}; "
                "supported: epsilon, v_prediction"
            )
        self.config = unet = config_of(folder / "unet")
        if unet["in_channels"] != unet["out_channels"]:
            raise ModelError(
                f"model.base: the UNet of {folder} takes {unet['in_channels']} channels and gives "
                f"{unet['out_channels']} (an inpainting model?); only text to image is supported"
            )

    def draw_times(
        self, shape: tuple[int, ...], generator: torch.Generator, device: torch.device
    ) -> Tensor:
        """Steps (n,) of the forward diffusion, evenly from 0 to their number minus 1."""
        steps = self.schedule.config.num_train_timesteps
        return torch.randint(0, steps, shape[:1], generator=generator, device=device)

    def noisy(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps (DDPM, arXiv 2006.11239, equation 4)."""
        return self.schedule.add_noise(latents, noise, times)

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """What the denoiser should give: eps, or v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0."""
        if self.prediction_type == "epsilon":
            return noise
        return self.schedule.get_velocity(latents, noise, times)

    def layout(self, device: torch.device) -> torch.memory_format:
        """Channels last on a GPU, whose convolutions compute in it; a processor's are slower so."""
        return torch.channels_last if device.type == "cuda" else torch.contiguous_format

    def denoiser_class(self) -> Any:
        """The UNet."""
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        return UNet2DConditionModel

    def text_shapes(self) -> tuple[tuple[int, ...], ...]:
        """CLIP's hidden states."""
        length = config_of(self.folder / "text_encoder")["max_position_embeddings"]
        return ((length, self.config["cross_attention_dim"]),)

    def predict(
        self,
        denoiser: Any,
        noisy: Tensor,
        times: Tensor,
        texts: Texts,
        corners: Tensor | None = None,
    ) -> Tensor:
        """Return noise or velocity (n, c, h, w)."""
        noisy = noisy.contiguous(memory_format=self.layout(noisy.device))
        return denoiser(noisy, times, texts[0], return_dict=False)[0]

    def prompt_encoder(self, device: torch.device) -> Callable[[Sequence[str]], Texts]:
        """CLIP's last hidden states (n, length, width)."""
        encode = text.clip(self.folder, "tokenizer", "text_encoder", device)
        return lambda prompts: (encode(prompts).last_hidden_state,)


class StableDiffusionXL(StableDiffusion):
    """Stable Diffusion XL (arXiv 2307.01952): two text encoders, pooled text, size conditioning."""

    pipeline = "StableDiffusionXLPipeline"
    texts = ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2")
    embeddings = ("hidden", "pooled")

    def text_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Both encoders' hidden states side by side, and the second's pooled text."""
        both = self.config["projection_class_embeddings_input_dim"]
        return *super().text_shapes(), (both - 6 * self.config["addition_time_embed_dim"],)

    def predict(
        self,
        denoiser: Any,
        noisy: Tensor,
        times: Tensor,
        texts: Texts,
        corners: Tensor | None = None,
    ) -> Tensor:
        """Return noise (n, c, h, w), told that the image is as large as it is asked for.

        The six time ids are (original size, crop's corner, target size). The pipeline samples with
        (h, w, 0, 0, h, w) unless told otherwise, and so do the authors of Diffusion-DPO train;
        where `corners` are given, each image is told of its own.
        """
        hidden, pooled = texts
        height, width = (side * self.downscale for side in noisy.shape[-2:])
        sizes = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32)
        ids = sizes.to(noisy.device, non_blocking=True).repeat(len(noisy), 1)
        if corners is not None:
            ids[:, 2:4] = corners
        conditions = {"text_embeds": pooled, "time_ids": ids}
        noisy = noisy.contiguous(memory_format=self.layout(noisy.device))
        return denoiser(noisy, times, hidden, added_cond_kwargs=conditions, return_dict=False)[0]

    def prompt_encoder(self, device: torch.device) -> Callable[[Sequence[str]], Texts]:
        """Both encoders' last but one hidden states, side by side, and the second's pooled text."""
        first = text.clip(self.folder, "tokenizer", "text_encoder", device)
        second = text.clip(self.folder, "tokenizer_2", "text_encoder_2", device, projected=True)

        def encode(prompts: Sequence[str]) -> Texts:
            one, two = first(prompts), second(prompts)
            hidden = torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1)
            return hidden, two.text_embeds

        return encode
