"""Tiny pipelines of every family, saved by diffusers in the layout of the real ones.

Every component is the real class, randomly initialised: two pixels of an image make a latent cell
(three VAE levels, 32 px to 8 x 8), CLIP tokenizers spell words letter by letter, and T5's has a
vocabulary of letters. With a `trained_vae` the transformers are a little larger: those can be
trained to something.
"""

import string
from pathlib import Path
from typing import Any

import torch

SHIFTED = {"shift_factor": 0.1, "use_quant_conv": False, "use_post_quant_conv": False}
LETTERS = string.ascii_lowercase + string.digits + ",.!?-'"


def clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    tokens = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{x}</w>" for x in LETTERS)]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=24)


def clip_encoder(width: int, *, projected: bool) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=2 + 2 * len(LETTERS), hidden_size=width, intermediate_size=2 * width,
        projection_dim=width, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=24, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def t5(width: int) -> tuple[Any, Any]:
    from transformers import T5Config, T5EncoderModel, T5TokenizerFast

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -2.0)]
    tokenizer = T5TokenizerFast(vocab=pieces + [(x, -3.0) for x in LETTERS], extra_ids=0)
    config = T5Config(
        vocab_size=len(pieces) + len(LETTERS), d_model=width, d_kv=8, d_ff=2 * width, num_layers=2,
        num_heads=2, feed_forward_proj="gated-gelu", pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return tokenizer, T5EncoderModel(config)


def vae(channels: int, **config: object) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1, latent_channels=channels, norm_num_groups=4, sample_size=32,
        scaling_factor=0.5, **config,
    )  # fmt: skip


def save_xl(folder: Path, trained_vae: Any = None) -> Path:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    torch.manual_seed(1)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4), transformer_layers_per_block=(1, 2), cross_attention_dim=48,
        use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + 16,
    )  # fmt: skip
    StableDiffusionXLPipeline(
        vae=trained_vae or vae(4), unet=unet,
        text_encoder=clip_encoder(32, projected=False), tokenizer=clip_tokenizer(),
        text_encoder_2=clip_encoder(16, projected=True), tokenizer_2=clip_tokenizer(),
        scheduler=EulerDiscreteScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1
        ),
        add_watermarker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_sd3(folder: Path, trained_vae: Any = None, *, with_t5: bool = True) -> Path:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    torch.manual_seed(2)
    channels = trained_vae.config.latent_channels if trained_vae else 16
    layers, head = (3, 16) if trained_vae else (2, 8)
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=channels, out_channels=channels,
        num_layers=layers, attention_head_dim=head, num_attention_heads=4, joint_attention_dim=40,
        caption_projection_dim=4 * head, pooled_projection_dim=32, pos_embed_max_size=16,
    )  # fmt: skip
    tokenizer, encoder = t5(40) if with_t5 else (None, None)
    StableDiffusion3Pipeline(
        vae=trained_vae or vae(16, **SHIFTED),
        transformer=transformer,
        text_encoder=clip_encoder(16, projected=True), tokenizer=clip_tokenizer(),
        text_encoder_2=clip_encoder(16, projected=True), tokenizer_2=clip_tokenizer(),
        text_encoder_3=encoder, tokenizer_3=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_flux(folder: Path, trained_vae: Any = None) -> Path:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    torch.manual_seed(3)
    channels = trained_vae.config.latent_channels if trained_vae else 16
    layers, heads = (2, 4) if trained_vae else (1, 2)
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=4 * channels, num_layers=layers, num_single_layers=layers,
        attention_head_dim=16, num_attention_heads=heads,
        joint_attention_dim=24, pooled_projection_dim=16,
        guidance_embeds=True, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    tokenizer, encoder = t5(24)
    FluxPipeline(
        vae=trained_vae or vae(16, **SHIFTED),
        transformer=transformer,
        text_encoder=clip_encoder(16, projected=False), tokenizer=clip_tokenizer(),
        text_encoder_2=encoder, tokenizer_2=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15
        ),
    ).save_pretrained(folder)  # fmt: skip
    return folder
