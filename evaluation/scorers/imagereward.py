"""ImageReward (Xu et al. 2023): BLIP reads the prompt while looking at the image, an MLP rates it.

    reward = (MLP(BLIP text state at [CLS], attending to the image) - 0.167) / 1.033

The authors' checkpoint (ImageReward.pt, with BLIP's original keys) runs on transformers' BLIP.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from evaluation import devices, hub
from evaluation.errors import EvaluationError, MissingWeights, first_line
from evaluation.hub import find_file, read_state
from evaluation.scorers.aesthetic import apply_head
from evaluation.scorers.clip_towers import Preparation

CHECKPOINT = "ImageReward.pt"
MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the rewards the authors trained on
TOKENS = 35  # of the prompt; the rest is cut, as the authors do

# BLIP's own names of its image encoder beside transformers', applied one after the other.
RENAMED = [
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^norm\.", "post_layernorm."),
    (r"^blocks\.", "encoder.layers."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"\.attn\.qkv\.", ".self_attn.qkv."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
]


def part_of(state: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors below a prefix, without it."""
    return {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}


def depth(state: Mapping[str, torch.Tensor], prefix: str) -> int:
    """Number of numbered layers below a prefix."""
    return len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})


def vision_model(original: Mapping[str, torch.Tensor]) -> Any:
    """BLIP's image encoder, its sizes read off its original keys; heads are 64 wide."""
    from transformers import BlipVisionConfig, BlipVisionModel

    state = {}
    for key, value in original.items():
        for pattern, replacement in RENAMED:
            key = re.sub(pattern, replacement, key)
        state[key] = value
    width, _, patch, _ = state["embeddings.patch_embedding.weight"].shape
    patches = state["embeddings.position_embedding"].shape[1] - 1
    config = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=state["encoder.layers.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=depth(state, "encoder.layers."),
        num_attention_heads=max(1, width // 64),
        image_size=round(patches**0.5) * patch,
        patch_size=patch,
        layer_norm_eps=1e-6,  # the original's; transformers' default is 1e-5
    )
    model = BlipVisionModel(config)
    model.load_state_dict(state)
    return model


def text_model(state: Mapping[str, torch.Tensor]) -> Any:
    """BLIP's text encoder, attending to the image; its keys are the same in both layouts."""
    from transformers import BlipTextConfig
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    vocabulary, width = state["embeddings.word_embeddings.weight"].shape
    config = BlipTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        encoder_hidden_size=state["encoder.layer.0.crossattention.self.key.weight"].shape[1],
        intermediate_size=state["encoder.layer.0.intermediate.dense.weight"].shape[0],
        num_hidden_layers=depth(state, "encoder.layer."),
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=state["embeddings.position_embeddings.weight"].shape[0],
        bos_token_id=None,
        sep_token_id=None,
    )
    model = BlipTextModel(config, add_pooling_layer=False)
    constant = "embeddings.position_ids"  # a buffer that old checkpoints carry along
    model.load_state_dict({key: value for key, value in state.items() if key != constant})
    return model


class ImageReward:
    """The reward of images for prompts; about standard normal over the authors' images."""

    def __init__(self, state: Mapping[str, torch.Tensor], tokenizer: Any):
        self.device = devices.device()
        self.tokenizer = tokenizer
        vision = vision_model(part_of(state, "blip.visual_encoder."))
        self.vision = vision.eval().requires_grad_(False).to(self.device)
        text = text_model(part_of(state, "blip.text_encoder."))
        self.text = text.eval().requires_grad_(False).to(self.device)
        self.head = {k: v.to(self.device) for k, v in part_of(state, "mlp.").items()}
        self.prepare = Preparation(self.vision.config.image_size)

    @torch.inference_mode()
    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:
        """Rewards, float64 (n,)."""
        pixels = torch.stack([self.prepare(image) for image in images]).to(self.device)
        seen = self.vision(pixel_values=pixels).last_hidden_state
        tokens = self.tokenizer(
            list(prompts), padding=True, truncation=True, max_length=TOKENS, return_tensors="pt"
        ).to(self.device)
        states = self.text(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            encoder_hidden_states=seen,
        ).last_hidden_state
        rewards = (apply_head(self.head, states[:, 0])[:, 0] - MEAN) / STD
        return rewards.double().cpu().numpy()


def imagereward(source: str, bert: str) -> ImageReward:
    """Load ImageReward from a folder, its file, or the hub; BERT's tokenizer from beside it, else
    from `bert`."""
    from transformers import BertTokenizer

    path = find_file("imagereward", source, CHECKPOINT)
    state = {key: value.float() for key, value in read_state(path).items()}
    own = any((path.parent / name).is_file() for name in ("tokenizer.json", "vocab.txt"))
    try:
        tokenizer = BertTokenizer.from_pretrained(
            str(path.parent) if own else bert, local_files_only=hub.out_of_reach()
        )
    except (OSError, ValueError) as error:
        raise MissingWeights(
            f"imagereward: {path.parent} has no tokenizer, and {bert} cannot be fetched; put its "
            "vocab.txt there"
        ) from error
    try:
        return ImageReward(state, tokenizer)
    except (KeyError, RuntimeError) as error:
        reason = first_line(error)
        raise EvaluationError(f"{path}: not ImageReward's checkpoint: {reason}") from error
