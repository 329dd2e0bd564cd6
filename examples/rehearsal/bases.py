"""Tiny pipelines in the layout of the real ones: every component is the real class, random.

Two pixels of an image make a latent cell (three VAE levels, 32 px to 8 x 8), CLIP tokenizers spell
words letter by letter, and T5's has a vocabulary of letters. With a `trained_vae` the transformers
are a little larger: those can be trained to something.
"""

import string
from pathlib import Path
from typing import Any

import torch

SHIFTED = {"shift_factor": 0.1, "use_quant_conv": False, "use_post_quant_conv": False}
LETTERS = string.ascii_lowercase + string.digits + ",.!?-'"


def clip_tokenizer() -> Any:
    """Return a CLIP tokenizer that spells words."""
    from transformers import CLIPTokenizer

    tokens = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{x}</w>" for x in LETTERS)]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=24)


def clip_encoder(width: int, *, projected: bool) -> Any:
    """Return a CLIP text encoder."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=2 + 2 * len(LETTERS), hidden_size=width, intermediate_size=2 * width,
        projection_dim=width, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=24, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def t5(width: int) -> tuple[Any, Any]:
    """Return T5's tokenizer and encoder."""
    from transformers import T5Config, T5EncoderModel, T5TokenizerFast

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -2.0)]
    tokenizer = T5TokenizerFast(vocab=pieces + [(x, -3.0) for x in LETTERS], extra_ids=0)
    config = T5Config(
        vocab_size=len(pieces) + len(LETTERS), d_model=width, d_kv=8, d_ff=2 * width, num_layers=2,
        num_heads=2, feed_forward_proj="gated-gelu", pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return tokenizer, T5EncoderModel(config)


def vae(channels: int, **config: object) -> Any:
    """Return a VAE of three levels, so 4 pixels a side of a latent cell."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1, latent_channels=channels, norm_num_groups=4, sample_size=32,
        scaling_factor=0.5, **config,
    )  # fmt: skip


def save_sd(folder: Path, *, prediction_type: str = "epsilon", seed: int = 0) -> Path:
    """Save a Stable Diffusion of 100 kB."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    torch.manual_seed(seed)
    StableDiffusionPipeline(
        text_encoder=clip_encoder(32, projected=False), tokenizer=clip_tokenizer(), vae=vae(4),
        unet=UNet2DConditionModel(
            sample_size=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=32,
            attention_head_dim=2,
        ),
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1,
            prediction_type=prediction_type, clip_sample=False, set_alpha_to_one=False,
        ),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_xl(folder: Path, trained_vae: Any = None) -> Path:
    """Save an SDXL."""
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
    """Save a Stable Diffusion 3."""
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
    """Save a FLUX.1 dev."""
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


def qwen_tokenizer() -> Any:
    """Spells words byte by byte, with Qwen's special tokens and a chat template of its form."""
    from transformers import Qwen2Tokenizer

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    letters = [*LETTERS, *string.ascii_uppercase, *":;/()<>|_", "Ġ", "Ċ"]
    tokens = [*special, *letters]
    tokenizer = Qwen2Tokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer


def qwen3(width: int, layers: int) -> Any:
    """Return a Qwen3."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(
        vocab_size=128, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, pad_token_id=0, eos_token_id=0,
        bos_token_id=0,
    ))  # fmt: skip


def save_qwen(folder: Path, trained_vae: Any = None) -> Path:
    """Save a Qwen-Image."""
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
    )
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(7)
    text = {
        "vocab_size": 128, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 2048,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2,
        "out_hidden_size": 16,
    }  # fmt: skip
    encoder = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    )
    QwenImagePipeline(
        vae=AutoencoderKLQwenImage(
            base_dim=8, z_dim=4, dim_mult=[1, 1, 1], num_res_blocks=1,
            temperal_downsample=[False, True], latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.5, 0.8, 1.2, 1.0],
        ),
        transformer=QwenImageTransformer2DModel(
            patch_size=2, in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=16, axes_dims_rope=(4, 4, 8),
        ),
        text_encoder=encoder, tokenizer=qwen_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, max_image_seq_len=8192,
            shift_terminal=0.02,
        ),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_zimage(folder: Path, trained_vae: Any = None) -> Path:
    """Save a Z-Image."""
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel

    torch.manual_seed(8)
    transformer = ZImageTransformer2DModel(
        in_channels=16, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2,
        cap_feat_dim=16, axes_dims=[4, 4, 8], axes_lens=[512, 32, 32],
    )  # fmt: skip
    for name, parameter in transformer.named_parameters():
        if name.endswith("pad_token"):  # which the class leaves without values
            torch.nn.init.normal_(parameter, std=0.02)
    ZImagePipeline(
        vae=trained_vae or vae(16, **SHIFTED), transformer=transformer, text_encoder=qwen3(16, 3),
        tokenizer=qwen_tokenizer(), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_sd15(folder: Path) -> Path:
    """SD 1.5 as the hub has it: PNDM, a safety checker and its feature extractor."""
    from diffusers import PNDMScheduler, StableDiffusionPipeline
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    small |= {"num_attention_heads": 2, "projection_dim": 16}
    seen = small | {"image_size": 32, "patch_size": 8}
    config = CLIPConfig(projection_dim=16, text_config=small, vision_config=seen)
    pipeline = StableDiffusionPipeline.from_pretrained(save_sd(folder))
    StableDiffusionPipeline(
        vae=pipeline.vae, unet=pipeline.unet, text_encoder=pipeline.text_encoder,
        tokenizer=pipeline.tokenizer,
        scheduler=PNDMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
            set_alpha_to_one=False, skip_prk_steps=True, steps_offset=1,
        ),
        safety_checker=StableDiffusionSafetyChecker(config),
        feature_extractor=CLIPImageProcessor(size=32, crop_size=32),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def publish(folder: Path) -> None:
    """Add what a repository holds besides: weights in half precision, single files, a card."""
    from safetensors.torch import load_file, save_file

    for file in sorted(folder.glob("*/*.safetensors")):
        halves = {key: value.half() for key, value in load_file(file).items()}
        save_file(halves, file.with_suffix(".fp16.safetensors"), {"format": "pt"})
    save_file({"model.weight": torch.zeros(1)}, folder / f"{folder.name}.safetensors")
    (folder / "README.md").write_text("---\nlibrary_name: diffusers\n---\n")
