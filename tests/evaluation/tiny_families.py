"""Tiny pipelines of other families in diffusers' own layout: SDXL, SD3 and FLUX, random weights."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TOKENS = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]


def clip_tokenizer() -> CLIPTokenizer:
    vocabulary = {token: i for i, token in enumerate(TOKENS)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=24)


def clip_text(projected: bool) -> CLIPTextModel:
    kind = CLIPTextModelWithProjection if projected else CLIPTextModel
    return kind(
        CLIPTextConfig(
            vocab_size=len(TOKENS), hidden_size=32, intermediate_size=64, projection_dim=32,
            num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=24,
            bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )
    )  # fmt: skip


def t5(width: int) -> tuple[PreTrainedTokenizerFast, T5EncoderModel]:
    tokens = ["<pad>", "</s>", "<unk>", "a", "bold", "thin", "seven", "one", "nine"]
    core = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    config = T5Config(
        vocab_size=len(tokens), d_model=width, d_kv=16, d_ff=48, num_layers=1, num_heads=2
    )
    return tokenizer, T5EncoderModel(config)


def vae(channels: int = 4) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, latent_channels=channels,
        norm_num_groups=4, sample_size=32, scaling_factor=0.5, shift_factor=0.0,
    )  # fmt: skip


def save_sdxl(folder: Path) -> Path:
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=64,
        attention_head_dim=(2, 4), transformer_layers_per_block=(1, 2),
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32,
    )  # fmt: skip
    StableDiffusionXLPipeline(
        vae=vae(), text_encoder=clip_text(False), text_encoder_2=clip_text(True),
        tokenizer=clip_tokenizer(), tokenizer_2=clip_tokenizer(), unet=unet,
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_sd3(folder: Path) -> Path:
    tokenizer, text = t5(64)
    transformer = SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=1,
        attention_head_dim=8, num_attention_heads=4, joint_attention_dim=64,
        caption_projection_dim=32, pooled_projection_dim=64, pos_embed_max_size=16,
    )  # fmt: skip
    StableDiffusion3Pipeline(
        vae=vae(), text_encoder=clip_text(True), text_encoder_2=clip_text(True),
        text_encoder_3=text, tokenizer=clip_tokenizer(), tokenizer_2=clip_tokenizer(),
        tokenizer_3=tokenizer, transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_flux(folder: Path) -> Path:
    tokenizer, text = t5(32)
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    )  # fmt: skip
    FluxPipeline(
        vae=vae(), text_encoder=clip_text(False), text_encoder_2=text,
        tokenizer=clip_tokenizer(), tokenizer_2=tokenizer, transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    ).save_pretrained(folder)  # fmt: skip
    return folder


FAMILIES = {"sdxl": save_sdxl, "sd3": save_sd3, "flux": save_flux}


def save_family(name: str, folder: Path) -> Path:
    torch.manual_seed(0)
    return FAMILIES[name](folder)
