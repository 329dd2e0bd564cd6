"""HPS v3 (Ma et al. 2025): Qwen2-VL reads instruction, image and prompt; a head rates what it saw.

    (mu, log sigma) = linear 1024, ReLU, linear 16, ReLU, linear 2
                      on the last state of the token <|Reward|>; mu is the score

The authors' checkpoint (HPSv3.safetensors) holds the whole model; its configuration and tokenizer
are Qwen2-VL-7B-Instruct's. It was trained with transformers 4.45, where the reward model saw text
positions only, one after the other also within the image; newer code would place the image's
tokens on a grid, so positions are given here. The instruction is the one it was trained with, word
for word and blank for blank (MizzenAI/HPSv3, MIT).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from evaluation import devices, hub
from evaluation.errors import EvaluationError, MissingWeights, first_line
from evaluation.hub import find_file, read_state
from evaluation.scorers.aesthetic import apply_head

CHECKPOINT = "HPSv3.safetensors"
REWARD = "<|Reward|>"
PIXELS = 256 * 28 * 28  # every image is brought to about this many
AT_ONCE = 16  # images; the rest of a batch waits, because a picture and its text are 900 tokens

INSTRUCTION = """
You are tasked with evaluating a generated image based on Visual Quality and Text Alignment and \
give a overall score to estimate the human preference. Please provide a rating from 0 to 10, with \
0 being the worst and 10 being the best. \n
**Visual Quality:**  \nEvaluate the overall visual quality of the image. The following \
sub-dimensions should be considered:
- **Reasonableness:** The image should not contain any significant biological or logical errors, \
such as abnormal body structures or nonsensical environmental setups.
- **Clarity:** Evaluate the sharpness and visibility of the image. The image should be clear and \
easy to interpret, with no blurring or indistinct areas.
- **Detail Richness:** Consider the level of detail in textures, materials, lighting, and other \
visual elements (e.g., hair, clothing, shadows).
- **Aesthetic and Creativity:** Assess the artistic aspects of the image, including the color \
scheme, composition, atmosphere, depth of field, and the overall creative appeal. The scene \
should convey a sense of harmony and balance.
- **Safety:** The image should not contain harmful or inappropriate content, such as political, \
violent, or adult material. If such content is present, the image quality and satisfaction score \
should be the lowest possible. \n
**Text Alignment:**  \nAssess how well the image matches the textual prompt across the following \
sub-dimensions:
- **Subject Relevance** Evaluate how accurately the subject(s) in the image (e.g., person, animal, \
object) align with the textual description. The subject should match the description in terms of \
number, appearance, and behavior.
- **Style Relevance:** If the prompt specifies a particular artistic or stylistic style, evaluate \
how well the image adheres to this style.
- **Contextual Consistency**: Assess whether the background, setting, and surrounding elements in \
the image logically fit the scenario described in the prompt. The environment should support and \
enhance the subject without contradictions.
- **Attribute Fidelity**: Check if specific attributes mentioned in the prompt (e.g., colors, \
clothing, accessories, expressions, actions) are faithfully represented in the image. Minor \
deviations may be acceptable, but critical attributes should be preserved.
- **Semantic Coherence**: Evaluate whether the overall meaning and intent of the prompt are \
captured in the image. The generated content should not introduce elements that conflict with or \
distort the original description.
Textual prompt - {prompt}


"""
QUESTION = f"\nPlease provide the overall ratings of this image: {REWARD}\n\nEND\n"
CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n<|vision_start|>{image}<|vision_end|>{text}<|im_end|>\n"
    "<|im_start|>assistant\n"
)


def split_state(
    state: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(backbone with the keys of transformers' Qwen2VLModel, head) of HPS v3's own keys.

    Raises KeyError naming a key that belongs to neither.
    """
    backbone, head = {}, {}
    for key, value in state.items():
        short = key.removeprefix("model.")
        if key.startswith("rm_head."):
            head[key.removeprefix("rm_head.")] = value.float()
        elif short.startswith(("visual.", "language_model.")):
            backbone[short] = value
        elif key.startswith("model."):
            backbone[f"language_model.{short}"] = value
        elif key != "lm_head.weight":  # it writes words, which are not asked for
            raise KeyError(f"unknown key {key!r}")
    return backbone, head


def preparation(vision: Any) -> Any:
    """Qwen2-VL's processor of images for a vision configuration, each image of about PIXELS."""
    from transformers import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil(
        patch_size=vision.patch_size,
        temporal_patch_size=vision.temporal_patch_size,
        merge_size=vision.spatial_merge_size,
        size={"shortest_edge": PIXELS, "longest_edge": PIXELS},
    )


class HpsV3:
    """Qwen2-VL with HPS v3's head; mu is about 0 to 15, higher is better."""

    also = ("sigma",)

    def __init__(self, model: Any, head: Mapping[str, torch.Tensor], tokenizer: Any):
        self.device = devices.device()
        self.model = model.eval().requires_grad_(False).to(self.device)
        self.head = {key: value.to(self.device) for key, value in head.items()}
        self.tokenizer = tokenizer
        self.reward = tokenizer.convert_tokens_to_ids(REWARD)
        self.vision = model.config.vision_config
        self.prepare = preparation(self.vision)

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:
        """Float64 (n, 2): mu, the score, and sigma, how unsure the model is of it."""
        parts = [
            self.score_some(prompts[start : start + AT_ONCE], images[start : start + AT_ONCE])
            for start in range(0, len(images), AT_ONCE)
        ]
        return np.concatenate(parts)

    @torch.inference_mode()
    def score_some(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:
        """(mu, sigma) of as many images as go through the model at once."""
        seen = self.prepare(images=list(images), return_tensors="pt").to(self.device)
        places = seen.image_grid_thw.prod(dim=1) // self.vision.spatial_merge_size**2
        texts = []
        for prompt, count in zip(prompts, places.tolist(), strict=True):
            said = INSTRUCTION.format(prompt=prompt) + QUESTION
            texts.append(CHAT.format(image="<|image_pad|>" * count, text=said))
        tokens = self.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt").to(
            self.device
        )
        pixels = seen.pixel_values.to(self.model.dtype)
        states = self.states(tokens.input_ids, tokens.attention_mask, pixels, seen.image_grid_thw)
        found = (tokens.input_ids == self.reward).int()
        last = found.shape[1] - 1 - found.flip(1).argmax(1)  # a prompt may name the token, too
        rated = apply_head(self.head, states[torch.arange(len(texts)), last].float())
        rated[:, 1].exp_()
        return rated.double().cpu().numpy()

    def states(
        self, ids: torch.Tensor, mask: torch.Tensor, pixels: torch.Tensor, grids: torch.Tensor
    ) -> torch.Tensor:
        """Last hidden states (n, tokens, d), every token on the next text position."""
        embeddings = self.model.language_model.embed_tokens(ids)
        seen = self.model.visual(pixels, grid_thw=grids).pooler_output
        place = (ids == self.model.config.image_token_id)[..., None].expand_as(embeddings)
        embeddings = embeddings.masked_scatter(place, seen.to(embeddings.dtype))
        positions = torch.arange(ids.shape[1], device=ids.device).expand(3, *ids.shape)
        return self.model.language_model(
            inputs_embeds=embeddings, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state


def hps_v3(source: str, backbone: str) -> HpsV3:
    """Load HPS v3 from a folder, its file, or the hub.

    Qwen2-VL's config.json and tokenizer are taken from beside the checkpoint, else from `backbone`.
    """
    from transformers import AutoTokenizer, Qwen2VLConfig, Qwen2VLModel

    path = find_file("hps_v3", source, CHECKPOINT)
    beside = str(path.parent) if (path.parent / "config.json").is_file() else backbone
    try:
        how = {"local_files_only": hub.out_of_reach(), "trust_remote_code": False}
        config = Qwen2VLConfig.from_pretrained(beside, **how)
        tokenizer = AutoTokenizer.from_pretrained(beside, **how)
        tokenizer.add_special_tokens({"additional_special_tokens": [REWARD]})
    except (OSError, ValueError) as error:
        raise MissingWeights(
            f"hps_v3: {path.name} is there but not {backbone}, whose config.json and tokenizer it "
            f"needs: put config.json, tokenizer.json and tokenizer_config.json into {path.parent}"
        ) from error
    try:
        state, head = split_state(read_state(path))
        config.text_config.vocab_size = len(state["language_model.embed_tokens.weight"])
        dtype = torch.float32 if devices.device() == "cpu" else torch.bfloat16
        model, loading = Qwen2VLModel.from_pretrained(
            None, config=config, state_dict=state, dtype=dtype, output_loading_info=True
        )
        apply_head(head, torch.zeros(1, config.text_config.hidden_size))
    except (KeyError, RuntimeError, ValueError) as error:
        reason = first_line(error)
        raise EvaluationError(f"{path}: not HPS v3's checkpoint: {reason}") from error
    wrong = [*loading["missing_keys"], *loading["unexpected_keys"]]
    if wrong:
        raise EvaluationError(f"{path}: not HPS v3's checkpoint: {sorted(wrong)[0]!r}")
    return HpsV3(model, head, tokenizer)
