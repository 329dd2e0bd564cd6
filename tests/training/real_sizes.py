"""Folders of configurations of the published models at their real size, without weights.

The shapes are those of the hub's config.json files (read 2026-11); what a file states that is the
class's default is left out. Enough for a plan and for the `meta` device.
"""

import json
from pathlib import Path
from typing import Any

CLIP_L = {
    "model_type": "clip_text_model", "max_position_embeddings": 77, "hidden_size": 768,
    "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "vocab_size": 49408, "projection_dim": 768,
}  # fmt: skip
CLIP_G = {
    **CLIP_L, "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
    "num_attention_heads": 20, "projection_dim": 1280, "hidden_act": "gelu",
}  # fmt: skip
T5_XXL = {
    "model_type": "t5", "vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240,
    "num_layers": 24, "num_heads": 64, "feed_forward_proj": "gated-gelu",
}  # fmt: skip
GEMMA_2B = {
    "model_type": "gemma2", "hidden_size": 2304, "intermediate_size": 9216, "vocab_size": 256000,
    "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
}  # fmt: skip
QWEN3_4B = {
    "model_type": "qwen3", "hidden_size": 2560, "intermediate_size": 9728, "vocab_size": 151936,
    "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "tie_word_embeddings": True,
}  # fmt: skip
VAE = {
    "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4, "layers_per_block": 2, "latent_channels": 4,
}  # fmt: skip
VAE_16 = {
    **VAE, "latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159,
    "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip
KL = ("AutoencoderKL", VAE_16)
BETAS = {
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
    "num_train_timesteps": 1000,
}  # fmt: skip
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
CROSS = ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]

# Pipeline: (trained part: (class, config), VAE, scheduler, text encoders, published weights in
# billions: of the model's card or paper).
MODELS: dict[str, tuple[Any, ...]] = {
    "StableDiffusionPipeline": (
        ("UNet2DConditionModel", {"sample_size": 64, "cross_attention_dim": 768}),
        ("AutoencoderKL", VAE), BETAS, {"text_encoder": ("CLIPTextModel", CLIP_L)}, 0.860,
    ),
    "StableDiffusionXLPipeline": (
        ("UNet2DConditionModel", {
            "sample_size": 128, "cross_attention_dim": 2048, "block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "attention_head_dim": [5, 10, 20], "transformer_layers_per_block": [1, 2, 10],
            "use_linear_projection": True, "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
        }),
        ("AutoencoderKL", VAE), BETAS,
        {"text_encoder": ("CLIPTextModel", CLIP_L),
         "text_encoder_2": ("CLIPTextModelWithProjection", CLIP_G)}, 2.57,
    ),
    "StableDiffusion3Pipeline": (  # 3.5 medium
        ("SD3Transformer2DModel", {
            "sample_size": 128, "num_layers": 24, "attention_head_dim": 64,
            "num_attention_heads": 24, "joint_attention_dim": 4096, "caption_projection_dim": 1536,
            "pooled_projection_dim": 2048, "pos_embed_max_size": 384, "in_channels": 16,
            "out_channels": 16, "patch_size": 2, "qk_norm": "rms_norm",
            "dual_attention_layers": list(range(13)),
        }),
        KL, {**FLOW, "shift": 3.0},
        {"text_encoder": ("CLIPTextModelWithProjection", CLIP_L),
         "text_encoder_2": ("CLIPTextModelWithProjection", CLIP_G),
         "text_encoder_3": ("T5EncoderModel", T5_XXL)}, 2.24,  # 2.47 with its table of positions
    ),
    "FluxPipeline": (
        ("FluxTransformer2DModel", {"guidance_embeds": True}), KL,
        {**FLOW, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15},
        {"text_encoder": ("CLIPTextModel", CLIP_L), "text_encoder_2": ("T5EncoderModel", T5_XXL)},
        11.9,
    ),
    "ChromaPipeline": (
        ("ChromaTransformer2DModel", {}), KL, FLOW, {"text_encoder": ("T5EncoderModel", T5_XXL)},
        8.9,
    ),
    "Flux2Pipeline": (
        ("Flux2Transformer2DModel", {}), ("AutoencoderKLFlux2", {}),
        {**FLOW, "use_dynamic_shifting": True}, {}, 32.2,
    ),
    "Flux2KleinPipeline": (  # 4B
        ("Flux2Transformer2DModel", {
            "num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24,
            "joint_attention_dim": 7680, "guidance_embeds": False,
        }),
        ("AutoencoderKLFlux2", {}), {**FLOW, "use_dynamic_shifting": True},
        {"text_encoder": ("Qwen3ForCausalLM", QWEN3_4B)}, 3.9,
    ),
    "QwenImagePipeline": (
        ("QwenImageTransformer2DModel", {}), ("AutoencoderKLQwenImage", {}),
        {**FLOW, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 0.9,
         "max_image_seq_len": 8192}, {}, 20.4,
    ),
    "ZImagePipeline": (
        ("ZImageTransformer2DModel", {}), KL, {**FLOW, "shift": 3.0},
        {"text_encoder": ("Qwen3ForCausalLM", QWEN3_4B)}, 6.15,
    ),
    "SanaPipeline": (  # 1.6B at 1024 px
        ("SanaTransformer2DModel", {}),
        ("AutoencoderDC", {
            "encoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
            "decoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
            "upsample_block_type": "interpolate", "scaling_factor": 0.41407,
        }),
        {"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True, "flow_shift": 3.0},
        {"text_encoder": ("Gemma2Model", GEMMA_2B)}, 1.6,
    ),
    "Lumina2Pipeline": (
        ("Lumina2Transformer2DModel", {"cap_feat_dim": 2304}), KL, {**FLOW, "shift": 6.0},
        {"text_encoder": ("Gemma2Model", GEMMA_2B)}, 2.6,
    ),
}  # fmt: skip


SHALLOW = {
    "layers_per_block": 1, "transformer_layers_per_block": 1, "num_layers": 2, "n_layers": 2,
    "num_single_layers": 1, "n_refiner_layers": 1, "num_refiner_layers": 1,
    "dual_attention_layers": [0],
}  # fmt: skip


def save_configurations(pipeline: str, folder: Path, *, shallow: bool = False) -> Path:
    """Write the configurations of a published pipeline in diffusers' layout.

    `shallow` keeps its widths and cuts its depth, for what does not depend on the depth.
    """
    trained, vae, scheduler, texts, _ = MODELS[pipeline]
    if shallow:
        own = full("diffusers", *trained)
        trained = (trained[0], {**trained[1], **{k: v for k, v in SHALLOW.items() if k in own}})
    part = "unet" if "UNet" in trained[0] else "transformer"
    index = {"_class_name": pipeline, part: ["diffusers", trained[0]], "vae": ["diffusers", vae[0]]}
    files = {
        f"{part}/config.json": full("diffusers", *trained),
        "vae/config.json": full("diffusers", *vae),
        "scheduler/scheduler_config.json": scheduler,
    }
    for name, (kind, config) in texts.items():
        index[name] = ["transformers", kind]
        files[f"{name}/config.json"] = config
        tokenizer = name.replace("text_encoder", "tokenizer")
        index[tokenizer] = ["transformers", "Tokenizer"]
        files[f"{tokenizer}/tokenizer_config.json"] = {}
    for name, content in {"model_index.json": index, **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


def full(library: str, kind: str, config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with the class's defaults, as save_pretrained would write it."""
    import inspect

    import diffusers

    parameters = inspect.signature(getattr(diffusers, kind).__init__).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    return {"_class_name": kind, **defaults, **config}
