"""FLUX.1, Chroma, FLUX.2 and klein, Qwen-Image: transformers over latents packed into tokens."""

from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from training.families.family import Family, Texts
from training.families.process import EmpiricalFlow

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
BOTH_STREAMS = (*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


def packed(latents: Tensor) -> Tensor:
    """Cut latents (n, c, h, w) into tokens of 2 x 2 cells: (n, h/2 w/2, 4 c)."""
    n, c, h, w = latents.shape
    cut = latents.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return cut.reshape(n, (h // 2) * (w // 2), 4 * c)


def unpacked(tokens: Tensor, shape: torch.Size) -> Tensor:
    """Put tokens back together into latents of `shape` (n, c, h, w)."""
    n, c, h, w = shape
    cut = tokens.view(n, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return cut.reshape(n, c, h, w)


def places(height: int, width: int, axes: int, like: Tensor) -> Tensor:
    """Return each token's position (height width, axes): row and column on axes 1 and 2."""
    found = like.new_zeros(height, width, axes)
    found[..., 1] += torch.arange(height, device=like.device)[:, None]
    found[..., 2] += torch.arange(width, device=like.device)[None, :]
    return found.view(-1, axes)


class Flux(Family):
    """FLUX.1: T5's hidden states and CLIP's pooled text; dev's guidance is distilled."""

    pipeline = "FluxPipeline"
    results = ("prompt_embeds", "pooled_prompt_embeds", "text_ids")
    limit = ("tokenizer_2", 512)
    targets = BOTH_STREAMS
    guidance = 3.5
    guided = False

    def __init__(self, folder: Path, memo: Path | None = None) -> None:
        super().__init__(folder, memo)
        length = 512 if self.config.get("guidance_embeds") else 256  # schnell reads no more
        self.limit = ("tokenizer_2", length)
        self.encoding = {"max_sequence_length": length}

    def text_shapes(self) -> tuple[tuple[int, ...], ...]:
        """T5's hidden states and CLIP's pooled text."""
        hidden = (self.encoding["max_sequence_length"], self.config["joint_attention_dim"])
        return hidden, (self.config["pooled_projection_dim"],)

    def predict(self, denoiser: Any, noisy: Tensor, times: Tensor, texts: Texts) -> Tensor:
        """Return the velocity (n, c, h, w), packed and unpacked on the way."""
        hidden, pooled = texts.embeds
        told = noisy.new_full((len(noisy),), self.guidance)
        output = denoiser(
            hidden_states=packed(noisy),
            timestep=times,
            guidance=told if self.config.get("guidance_embeds") else None,
            pooled_projections=pooled,
            encoder_hidden_states=hidden,
            txt_ids=hidden.new_zeros(hidden.shape[1], 3),
            img_ids=places(noisy.shape[2] // 2, noisy.shape[3] // 2, 3, hidden),
            return_dict=False,
        )[0]
        return unpacked(output, noisy.shape)


class Chroma(Family):
    """Chroma: FLUX.1 schnell without CLIP, and with a mask over the text.

    diffusers hands the mask on as numbers, which attention adds to its scores: padding is not left
    out by it, only held back. So all 512 tokens are kept, and their mask with them.
    """

    pipeline = "ChromaPipeline"
    results = (
        *("prompt_embeds", "text_ids", "prompt_attention_mask"),
        *("negative_prompt_embeds", "negative_text_ids", "negative_prompt_attention_mask"),
    )
    encoding = MappingProxyType({"do_classifier_free_guidance": False})
    limit = ("tokenizer", 512)
    targets = BOTH_STREAMS
    embeddings = ("prompt_embeds", "prompt_attention_mask")
    mask_name = None

    def text_shapes(self) -> tuple[tuple[int, ...], ...]:
        """T5's hidden states, and which of them are tokens."""
        return (512, self.config["joint_attention_dim"]), (512,)

    def predict(self, denoiser: Any, noisy: Tensor, times: Tensor, texts: Texts) -> Tensor:
        """Return the velocity (n, c, h, w); the mask goes on over the image's tokens."""
        (hidden, mask), tokens = texts.embeds, packed(noisy)
        output = denoiser(
            hidden_states=tokens,
            timestep=times,
            encoder_hidden_states=hidden,
            txt_ids=hidden.new_zeros(hidden.shape[1], 3),
            img_ids=places(noisy.shape[2] // 2, noisy.shape[3] // 2, 3, hidden),
            attention_mask=torch.cat([mask, mask.new_ones(tokens.shape[:2])], dim=1),
            return_dict=False,
        )[0]
        return unpacked(output, noisy.shape)


class Flux2(Family):
    """FLUX.2 dev: latents of 2 x 2 cells, normalised by the VAE's own batch statistics."""

    pipeline = "Flux2Pipeline"
    results = ("prompt_embeds", "text_ids")
    limit = ("tokenizer", 512)
    process_kind = EmpiricalFlow
    patch = 1
    targets = (*BOTH_STREAMS, "to_qkv_mlp_proj")
    guidance = 4.0
    guided = False

    @property
    def latent_channels(self) -> int:
        """Four cells of the VAE make one."""
        return 4 * super().latent_channels

    @property
    def downscale(self) -> int:
        """Pixels a side of four cells of the VAE."""
        return 2 * super().downscale

    def encoded(self, vae: Any, pixels: Tensor) -> Tensor:
        """Return (mean - m) / s of each of the 4 c channels, m and s the VAE's running ones."""
        mean = torch.nn.functional.pixel_unshuffle(vae.encode(pixels).latent_dist.mode(), 2)
        deviation = (vae.bn.running_var + vae.config.batch_norm_eps).sqrt()
        return (mean - vae.bn.running_mean.view(1, -1, 1, 1)) / deviation.view(1, -1, 1, 1)

    def text_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Three layers' hidden states side by side, padding included."""
        return ((512, self.config["joint_attention_dim"]),)

    def predict(self, denoiser: Any, noisy: Tensor, times: Tensor, texts: Texts) -> Tensor:
        """Return the velocity (n, c, h, w); positions have four axes: time, row, column, token."""
        (hidden,), (n, c, h, w) = texts.embeds, noisy.shape
        words = hidden.new_zeros(hidden.shape[1], 4)
        words[:, 3] += torch.arange(hidden.shape[1], device=hidden.device)
        output = denoiser(
            hidden_states=noisy.flatten(2).transpose(1, 2),
            timestep=times,
            guidance=noisy.new_full((n,), self.guidance)
            if self.config.get("guidance_embeds", True)
            else None,
            encoder_hidden_states=hidden,
            txt_ids=words.expand(n, -1, -1),
            img_ids=places(h, w, 4, hidden).expand(n, -1, -1),
            return_dict=False,
        )[0]
        return output.transpose(1, 2).reshape(n, c, h, w)


class Flux2Klein(Flux2):
    """FLUX.2 klein: Qwen3's hidden states; guided unless it is distilled."""

    pipeline = "Flux2KleinPipeline"

    def __init__(self, folder: Path, memo: Path | None = None) -> None:
        super().__init__(folder, memo)
        self.guided = not self.index.get("is_distilled", False)


class QwenImage(Family):
    """Qwen-Image: latents normalised channel by channel, prompts of any length."""

    pipeline = "QwenImagePipeline"
    results = ("prompt_embeds", "prompt_embeds_mask")
    limit = ("tokenizer", 1024)
    targets = BOTH_STREAMS
    guidance_argument = "true_cfg_scale"
    guidance = 4.0
    no_prompt = " "

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return self.vae_config["z_dim"]

    @property
    def downscale(self) -> int:
        """Pixels a side of one latent cell."""
        return 2 ** len(self.vae_config["temperal_downsample"])

    def encoded(self, vae: Any, pixels: Tensor) -> Tensor:
        """Return (mode - mean) / std of each channel; an image is a video of one frame."""
        mode = vae.encode(pixels.unsqueeze(2)).latent_dist.mode().squeeze(2)
        mean, deviation = (mode.new_tensor(vae.config[k]).view(1, -1, 1, 1)
                           for k in ("latents_mean", "latents_std"))  # fmt: skip
        return (mode - mean) / deviation

    def text_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Qwen2.5-VL's hidden states, of a long prompt."""
        return ((256, self.config["joint_attention_dim"]),)

    def predict(self, denoiser: Any, noisy: Tensor, times: Tensor, texts: Texts) -> Tensor:
        """Return the velocity (n, c, h, w), packed and unpacked on the way."""
        n, _, h, w = noisy.shape
        output = denoiser(
            hidden_states=packed(noisy),
            timestep=times,
            encoder_hidden_states=texts.embeds[0],
            encoder_hidden_states_mask=texts.mask,
            img_shapes=[[(1, h // 2, w // 2)]] * n,
            return_dict=False,
        )[0]
        return unpacked(output, noisy.shape)
