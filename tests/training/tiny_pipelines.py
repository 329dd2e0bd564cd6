"""Tiny pipelines of every family, saved by diffusers in the layout of the real ones.

The families of experiments/ are built where their rehearsals are; here are the others.
"""

import json
import shutil
import string
from pathlib import Path
from typing import Any

import torch

from examples.rehearsal.bases import (
    LETTERS,
    SHIFTED,
    qwen3,
    qwen_tokenizer,
    save_flux,
    save_qwen,
    save_sd3,
    save_xl,
    save_zimage,
    t5,
    vae,
)

__all__ = ["save_flux", "save_qwen", "save_sd3", "save_xl", "save_zimage"]


def with_safety_checker(pipeline: Path, folder: Path) -> Path:
    """Copy a Stable Diffusion pipeline, with a safety checker in it as in the published ones."""
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    shutil.copytree(pipeline, folder)
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "projection_dim": 4}
    small |= {"num_attention_heads": 2}
    config = CLIPConfig(vision_config={**small, "image_size": 32}, text_config=small)
    StableDiffusionSafetyChecker(config).save_pretrained(folder / "safety_checker")
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def gemma(width: int) -> tuple[Any, Any]:
    from tokenizers.processors import TemplateProcessing
    from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS, *string.ascii_uppercase]
    tokenizer = GemmaTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 2)]
    )
    config = Gemma2Config(
        vocab_size=128, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, pad_token_id=0, eos_token_id=1,
        bos_token_id=2, query_pre_attn_scalar=8,
    )  # fmt: skip
    return tokenizer, Gemma2Model(config)


def save_chroma(folder: Path, trained_vae: Any = None) -> Path:
    from diffusers import ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler

    torch.manual_seed(4)
    tokenizer, encoder = t5(24)
    transformer = ChromaTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=24, axes_dims_rope=(4, 4, 8),
        approximator_num_channels=8, approximator_hidden_dim=16, approximator_layers=1,
    )  # fmt: skip
    ChromaPipeline(
        vae=trained_vae or vae(16, **SHIFTED), transformer=transformer, text_encoder=encoder,
        tokenizer=tokenizer, scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def flux2_vae() -> Any:
    from diffusers import AutoencoderKLFlux2

    made = AutoencoderKLFlux2(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, latent_channels=4,
        norm_num_groups=4, sample_size=32,
    )  # fmt: skip
    made.bn.running_mean.normal_(0, 0.2)
    made.bn.running_var.uniform_(0.5, 2)
    return made


def flux2_transformer(joint: int, *, guidance: bool) -> Any:
    from diffusers import Flux2Transformer2DModel

    return Flux2Transformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=joint, timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4), guidance_embeds=guidance,
    )  # fmt: skip


def save_klein(folder: Path, trained_vae: Any = None) -> Path:
    from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline

    torch.manual_seed(5)
    Flux2KleinPipeline(
        vae=flux2_vae(), transformer=flux2_transformer(3 * 16, guidance=False),
        text_encoder=qwen3(16, 28), tokenizer=qwen_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_flux2(folder: Path, trained_vae: Any = None) -> Path:
    """FLUX.2 dev. Its processor is Pixtral's, which needs torchvision: here its tokenizer alone."""
    from diffusers import FlowMatchEulerDiscreteScheduler, Flux2Pipeline
    from transformers import (
        Mistral3Config,
        Mistral3ForConditionalGeneration,
        MistralConfig,
        PixtralVisionConfig,
        PreTrainedTokenizerFast,
    )

    torch.manual_seed(6)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=qwen_tokenizer().backend_tokenizer, pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}:{% for c in m.content %}{{ c.text }}{% endfor %}\n"
        "{% endfor %}"
    )
    text = MistralConfig(
        vocab_size=160, hidden_size=16, intermediate_size=32, num_hidden_layers=31,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    vision = PixtralVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        image_size=28, patch_size=14,
    )  # fmt: skip
    config = Mistral3Config(text_config=text, vision_config=vision)
    encoder = Mistral3ForConditionalGeneration(config)
    Flux2Pipeline(
        vae=flux2_vae(), transformer=flux2_transformer(3 * 16, guidance=True),
        text_encoder=encoder, tokenizer=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_sana(folder: Path, trained_vae: Any = None) -> Path:
    from diffusers import (
        AutoencoderDC,
        DPMSolverMultistepScheduler,
        SanaPipeline,
        SanaTransformer2DModel,
    )

    torch.manual_seed(9)
    tokenizer, encoder = gemma(16)
    SanaPipeline(
        vae=AutoencoderDC(
            latent_channels=4, attention_head_dim=2,
            encoder_block_types=("ResBlock", "EfficientViTBlock"),
            decoder_block_types=("ResBlock", "EfficientViTBlock"),
            encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
            encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
            encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
            upsample_block_type="interpolate", downsample_block_type="Conv", scaling_factor=0.5,
        ),
        transformer=SanaTransformer2DModel(
            patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2,
            attention_head_dim=8, num_cross_attention_heads=2, cross_attention_head_dim=8,
            cross_attention_dim=16, caption_channels=16, sample_size=16,
        ),
        text_encoder=encoder, tokenizer=tokenizer,
        scheduler=DPMSolverMultistepScheduler(
            use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"
        ),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_lumina(folder: Path, trained_vae: Any = None) -> Path:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        Lumina2Pipeline,
        Lumina2Transformer2DModel,
    )

    torch.manual_seed(10)
    tokenizer, encoder = gemma(16)
    Lumina2Pipeline(
        vae=trained_vae or vae(16, **SHIFTED),
        transformer=Lumina2Transformer2DModel(
            sample_size=8, patch_size=2, in_channels=16, hidden_size=32, num_layers=1,
            num_refiner_layers=1, num_attention_heads=2, num_kv_heads=1, multiple_of=16,
            axes_dim_rope=(4, 4, 8), axes_lens=(300, 64, 64), cap_feat_dim=16,
        ),
        text_encoder=encoder, tokenizer=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
    ).save_pretrained(folder)  # fmt: skip
    return folder
