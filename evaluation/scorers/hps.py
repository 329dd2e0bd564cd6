"""HPS v2 and v2.1 (Wu et al. 2023): the cosine of a CLIP H/14 tuned on human preferences.

The original checkpoint (HPS_v2.1_compressed.pt) is in open_clip's key layout and is mapped to
transformers' here; a folder in transformers' layout serves as well. How images and prompts are
prepared is in `clip_towers`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from evaluation.errors import EvaluationError
from evaluation.hub import find_file, read_state
from evaluation.scorers.clip_towers import (
    ClipTowers,
    CosineScorer,
    Fit,
    Preparation,
    load_tokenizer,
    load_towers,
)

# Head widths of open_clip's larger vision towers; every other tower has heads of 64.
HEAD_WIDTH = {1280: 80, 1408: 88, 1664: 104}
# open_clip's names beside transformers', applied one after the other.
RENAMED = [
    (r"^(module\.)?", ""),
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^visual\.proj$", "visual_projection.weight"),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^text_projection$", "text_projection.weight"),
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
]
KNOWN = re.compile(
    r"(vision_model|text_model)\.(embeddings|encoder\.layers\.\d+|pre_layrnorm|post_layernorm"
    r"|final_layer_norm)\b.*|(visual|text)_projection\.weight|logit_scale"
)


def to_transformers(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Map a CLIP state dict from open_clip's keys to those of transformers' CLIPModel.

    Raises EvaluationError naming a key that has no counterpart.
    """
    mapped: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        name = key
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        if ".attn.in_proj_" in name:  # query, key and value in one
            layer, kind = name.split(".attn.in_proj_")
            for part, tensor in zip("qkv", value.chunk(3), strict=True):
                mapped[f"{layer}.self_attn.{part}_proj.{kind}"] = tensor.clone()
        elif name.endswith("_projection.weight"):
            mapped[name] = value.T.contiguous()
        elif KNOWN.fullmatch(name):
            mapped[name] = value
        elif name != "attn_mask":  # a constant: the causal mask
            raise EvaluationError(f"not a CLIP in open_clip's layout: unknown key {key!r}")
    return mapped


def config_of(state: Mapping[str, torch.Tensor]) -> Any:
    """Read a CLIPConfig off the shapes of a mapped state dict; GELU, as in open_clip's H/14."""
    from transformers import CLIPConfig

    def tower(name: str, width: int, head: int) -> dict[str, Any]:
        layers = {key.split(".")[3] for key in state if key.startswith(f"{name}.encoder.layers.")}
        return {
            "hidden_size": width,
            "intermediate_size": state[f"{name}.encoder.layers.0.mlp.fc1.weight"].shape[0],
            "num_hidden_layers": len(layers),
            "num_attention_heads": max(1, width // head),
            "projection_dim": state["text_projection.weight"].shape[0],
            "hidden_act": "gelu",
        }

    vocabulary, text_width = state["text_model.embeddings.token_embedding.weight"].shape
    positions = state["text_model.embeddings.position_embedding.weight"].shape[0]
    width, _, patch, _ = state["vision_model.embeddings.patch_embedding.weight"].shape
    patches = state["vision_model.embeddings.position_embedding.weight"].shape[0] - 1
    text = tower("text_model", text_width, 64) | {
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,  # CLIP's last token: where the text is pooled
        "pad_token_id": vocabulary - 1,
    }
    vision = tower("vision_model", width, HEAD_WIDTH.get(width, 64)) | {
        "image_size": round(patches**0.5) * patch,
        "patch_size": patch,
    }
    return CLIPConfig(projection_dim=text["projection_dim"], text_config=text, vision_config=vision)


def load_open_clip(path: Path, tokenizer: Any, fit: Fit) -> ClipTowers:
    """Load a CLIP checkpoint in open_clip's layout."""
    from transformers import CLIPModel

    try:
        state = {key: value.float() for key, value in to_transformers(read_state(path)).items()}
        config = config_of(state)
    except (KeyError, RuntimeError, ValueError) as error:
        raise EvaluationError(f"{path}: not a CLIP in open_clip's layout: {error}") from error
    model = CLIPModel(config)
    model.load_state_dict(state, assign=True)
    return ClipTowers(model, tokenizer, Preparation(config.vision_config.image_size, fit=fit))


def hps(source: str, clip: str, *, version: str, fit: Fit) -> CosineScorer:
    """HPS: the bare cosine, about 0.2 to 0.35 (tables often show it times 100).

    version : "v2" or "v2.1". source : a CLIP folder in transformers' layout, or what holds the
    original checkpoint. clip : has CLIP's tokenizer, where there is none beside that. fit :
    "hps_aliased" resizes without antialiasing, as when HPS was trained.
    """
    name = f"hps_{version}"
    if (Path(source) / "config.json").is_file():
        return CosineScorer(load_towers(name, source, fit), 1.0)
    path = find_file(name, source, f"HPS_{version}_compressed.pt")
    return CosineScorer(load_open_clip(path, load_tokenizer(str(path.parent), clip), fit), 1.0)
