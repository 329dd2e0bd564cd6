"""Scorers' weights in the layouts of their authors: tiny, random, of the real classes and keys.

| scorer | what its folder holds, and where that is from |
|---|---|
| clip | a CLIPModel in transformers' layout: openai/clip-vit-large-patch14 |
| pickscore | the same: yuvalkirstain/PickScore_v1 |
| hps_v2, hps_v2.1 | HPS_v2_compressed.pt, HPS_v2.1_compressed.pt in open_clip's keys: xswu/HPSv2 |
| imagereward | ImageReward.pt in the keys of its BLIP: THUDM/ImageReward |
| aesthetic | aesthetic-model.pth: trl-lib/ddpo-aesthetic-predictor |
| hps_v3 | HPSv3.safetensors in transformers 4.45's keys, Qwen2-VL's files: MizzenAI/HPSv3 |

Tokenizers lie beside them, and CLIP beside the aesthetic head, because no hub is asked here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from examples.rehearsal import checkpoints
from examples.rehearsal.bases import clip_tokenizer
from examples.rehearsal.checkpoints import shrunk

WIDTH, SIDE, PATCH, WORDS = 64, 32, 8, 24


def save_clip(folder: Path) -> Path:
    """Save a CLIPModel with its tokenizer."""
    from transformers import CLIPConfig, CLIPModel

    tokenizer = clip_tokenizer()
    end = tokenizer.eos_token_id
    shape = {"hidden_size": WIDTH, "intermediate_size": 96, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 1, "projection_dim": 48}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": WORDS, "eos_token_id": end}
    text |= {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": end}
    vision = {"image_size": SIDE, "patch_size": PATCH}
    model = CLIPModel(
        CLIPConfig(projection_dim=48, text_config=shape | text, vision_config=shape | vision)
    )
    spread_out(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def spread_out(model: Any) -> None:
    """Make weights so large that different images score differently."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)


def save_hps(folder: Path, version: str) -> Path:
    """Save a CLIP in open_clip's keys, as HPS's authors did: `{"state_dict": ...}`."""
    tokens = len(clip_tokenizer())
    sizes = {1280: WIDTH, 3840: 3 * WIDTH, 5120: 96, 257: (SIDE // PATCH) ** 2 + 1, 14: PATCH}
    sizes |= {1024: WIDTH, 3072: 3 * WIDTH, 4096: 96, 77: WORDS, 49408: tokens}
    torch.save({"state_dict": drawn(shrunk(checkpoints.HPS, sizes), 0.2)},
               folder / f"HPS_{version}_compressed.pt")  # fmt: skip
    clip_tokenizer().save_pretrained(folder)
    return folder


def drawn(shapes: Mapping[str, tuple[int, ...]], std: float) -> dict[str, torch.Tensor]:
    """Return a tensor of each name and shape."""
    return {name: std * torch.randn(shape) for name, shape in shapes.items()}


def bert_words() -> list[str]:
    """Return a vocabulary of BERT's form: its special tokens, and letters."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789,."
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{x}" for x in letters)]


def imagereward_state(words: int) -> dict[str, torch.Tensor]:
    """Return ImageReward's checkpoint, small, for a vocabulary of so many words."""
    sizes = {1024: 128, 3072: 384, 4096: 96, 197: (SIDE // PATCH) ** 2 + 1, 16: PATCH, 256: 32}
    sizes |= {768: WIDTH, 30524: words, 512: 40, 128: 24, 64: 16}
    state = drawn(shrunk(checkpoints.IMAGEREWARD, sizes), 0.15)
    return state | {"blip.text_encoder.embeddings.position_ids": torch.arange(40)[None]}


def save_imagereward(folder: Path) -> Path:
    """Save ImageReward.pt and BERT's vocabulary."""
    torch.save(imagereward_state(len(bert_words())), folder / "ImageReward.pt")
    (folder / "vocab.txt").write_text("\n".join(bert_words()))
    return folder


def save_aesthetic(folder: Path) -> Path:
    """Save the MLP's linear layers, numbered as in the published head, and CLIP in clip/."""
    sizes = {0: (32, 48), 2: (24, 32), 4: (16, 24), 6: (8, 16), 7: (1, 8)}
    shapes: dict[str, tuple[int, ...]] = {}
    for number, shape in sizes.items():
        shapes |= {f"layers.{number}.weight": shape, f"layers.{number}.bias": shape[:1]}
    torch.save(drawn(shapes, 0.5), folder / "aesthetic-model.pth")
    save_clip(folder / "clip")
    return folder


def save_hps_v3(folder: Path) -> Path:
    """Save HPSv3.safetensors, with Qwen2-VL's configuration and a tokenizer of few words."""
    from safetensors.torch import save_file
    from transformers import Qwen2VLConfig

    tokenizer = qwen_tokenizer()
    sizes = {1280: 32, 3840: 96, 5120: 128, 14: 28, 3584: 32, 512: 16, 18944: 48, 1024: 24}
    sizes |= {151658: len(tokenizer) + 1}  # the reward token is added when it is read
    save_file(drawn(shrunk(checkpoints.HPS_V3, sizes), 0.2), folder / "HPSv3.safetensors")
    text = {"vocab_size": len(tokenizer) + 1, "hidden_size": 32, "intermediate_size": 48}
    text |= {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    marks = {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 1}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "patch_size": 28}
    Qwen2VLConfig(
        text_config=text | marks | {"rope_parameters": rope},
        vision_config=vision,
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def qwen_tokenizer() -> Any:
    """Return a tokenizer that knows Qwen2-VL's marks and the letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    marks = [f"<|{name}|>" for name in ("endoftext", "im_start", "im_end", "vision_start",
                                        "vision_end", "image_pad")]  # fmt: skip
    words = {token: number for number, token in enumerate(["<unk>", *marks, *bert_words()[5:44]])}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.add_special_tokens(marks)
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token=marks[0])


SAVE = {
    "clip": save_clip,
    "pickscore": save_clip,
    "hps_v2": lambda folder: save_hps(folder, "v2"),
    "hps_v2.1": lambda folder: save_hps(folder, "v2.1"),
    "imagereward": save_imagereward,
    "aesthetic": save_aesthetic,
    "hps_v3": save_hps_v3,
}


def save_scorer(kind: str, folder: Path) -> None:
    """Save a scorer's stand-in. Raises ValueError for a kind that has none."""
    if kind not in SAVE:
        raise ValueError(f"the scorer {kind} has no stand-in; there are {', '.join(SAVE)}")
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(len(kind))
    SAVE[kind](folder)
