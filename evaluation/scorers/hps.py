"""HPS v2 and v2.1 (Wu et al. 2023): the cosine of a CLIP H/14 tuned on human preferences.

The original checkpoint (HPS_v2.1_compressed.pt) is in open_clip's key layout and is mapped to
transformers' here; a folder in transformers' layout serves as well. Images are resized by their
longer side and padded, as the authors' code does.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from evaluation.errors import EvaluationError
from evaluation.scorers.clip_towers import (
    ClipTowers,
    CosineScorer,
    Preparation,
    load_tokenizer,
    load_towers,
)
from evaluation.scorers.weights import find_file, read_state

CHECKPOINT = {"hps_v2": "HPS_v2_compressed.pt", "hps_v2.1": "HPS_v2.1_compressed.pt"}
HUB = "xswu/HPSv2"
# Head widths of open_clip's larger vision towers; every other tower has heads of 64.
HEAD_WIDTH = {1280: 80, 1408: 88, 1664: 104}

RENAMED = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}
TRANSPOSED = {
    "visual.proj": "visual_projection.weight",
    "text_projection": "text_projection.weight",
}
BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def to_transformers(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Map a CLIP state dict from open_clip's keys to those of transformers' CLIPModel.

    Raises EvaluationError naming a key that has no counterpart.
    """
    mapped: dict[str, torch.Tensor] = {}
    for full_key, value in state.items():
        key = full_key.removeprefix("module.")
        if key in RENAMED:
            mapped[RENAMED[key]] = value
        elif key in TRANSPOSED:
            mapped[TRANSPOSED[key]] = value.T.contiguous()
        elif "transformer.resblocks." in key:
            mapped.update(map_block(key, value))
        elif key != "attn_mask":  # a constant: the causal mask
            raise EvaluationError(f"not a CLIP in open_clip's layout: unknown key {full_key!r}")
    return mapped


def map_block(key: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
    """Map one tensor of a transformer block; the fused query-key-value weight becomes three."""
    tower = "vision_model" if key.startswith("visual.") else "text_model"
    number, name = key.split("transformer.resblocks.", 1)[1].split(".", 1)
    layer = f"{tower}.encoder.layers.{number}"
    if name.startswith("attn.in_proj_"):
        kind = name.removeprefix("attn.in_proj_")
        parts = zip(("q_proj", "k_proj", "v_proj"), value.chunk(3), strict=True)
        return {f"{layer}.self_attn.{part}.{kind}": tensor.clone() for part, tensor in parts}
    module, kind = name.rsplit(".", 1)
    if module not in BLOCK:
        raise EvaluationError(f"not a CLIP in open_clip's layout: unknown key {key!r}")
    return {f"{layer}.{BLOCK[module]}.{kind}": value}


def config_of(state: Mapping[str, torch.Tensor]) -> Any:
    """Read a CLIPConfig off the shapes of a mapped state dict; GELU, as in open_clip's H/14."""
    from transformers import CLIPConfig

    def layers(tower: str) -> int:
        prefix = f"{tower}.encoder.layers."
        return 1 + max(int(k.removeprefix(prefix).split(".")[0]) for k in state if prefix in k)

    vocabulary, text_width = state["text_model.embeddings.token_embedding.weight"].shape
    positions = state["text_model.embeddings.position_embedding.weight"].shape[0]
    vision_width, _, patch, _ = state["vision_model.embeddings.patch_embedding.weight"].shape
    patches = state["vision_model.embeddings.position_embedding.weight"].shape[0] - 1
    embedding = state["text_projection.weight"].shape[0]
    return CLIPConfig(
        projection_dim=embedding,
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": text_width,
            "intermediate_size": state["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
            "num_hidden_layers": layers("text_model"),
            "num_attention_heads": max(1, text_width // 64),
            "max_position_embeddings": positions,
            "projection_dim": embedding,
            "hidden_act": "gelu",
            "bos_token_id": vocabulary - 2,
            "eos_token_id": vocabulary - 1,  # CLIP's last token: where the text is pooled
            "pad_token_id": vocabulary - 1,
        },
        vision_config={
            "hidden_size": vision_width,
            "intermediate_size": state["vision_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
            "num_hidden_layers": layers("vision_model"),
            "num_attention_heads": max(1, vision_width // HEAD_WIDTH.get(vision_width, 64)),
            "image_size": round(patches**0.5) * patch,
            "patch_size": patch,
            "projection_dim": embedding,
            "hidden_act": "gelu",
        },
    )


def load_open_clip(path: Path) -> ClipTowers:
    """Load a CLIP checkpoint in open_clip's layout; its tokenizer lies beside it or is CLIP's."""
    from transformers import CLIPModel

    try:
        state = {key: value.float() for key, value in to_transformers(read_state(path)).items()}
        config = config_of(state)
    except (KeyError, RuntimeError, ValueError) as error:
        raise EvaluationError(f"{path}: not a CLIP in open_clip's layout: {error}") from error
    model = CLIPModel(config)
    model.load_state_dict(state, assign=True)
    side = config.vision_config.image_size
    return ClipTowers(model, load_tokenizer(str(path.parent)), Preparation(side, fit="pad"))


def hps(scorer: str, source: str) -> CosineScorer:
    """HPS: the bare cosine, about 0.2 to 0.35 (tables often show it times 100).

    source : a CLIP folder in transformers' layout, or what holds the original checkpoint.
    """
    if (Path(source) / "config.json").is_file():
        towers = load_towers(scorer, source, fit="pad")
    else:
        towers = load_open_clip(find_file(scorer, source, CHECKPOINT[scorer]))
    return CosineScorer(towers, 1.0)
