"""Scorers' weights in the layouts of their authors: tiny, random, of the real classes and keys.

| scorer | what its folder holds, and where that is from |
|---|---|
| clip | a CLIPModel in transformers' layout: openai/clip-vit-large-patch14 |
| pickscore | the same: yuvalkirstain/PickScore_v1 |
| hps_v2, hps_v2.1 | HPS_v2_compressed.pt, HPS_v2.1_compressed.pt in open_clip's keys: xswu/HPSv2 |
| imagereward | ImageReward.pt in the keys of its BLIP: THUDM/ImageReward |
| aesthetic | aesthetic-model.pth: trl-lib/ddpo-aesthetic-predictor |

Tokenizers lie beside them, and CLIP beside the aesthetic head, because no hub is asked here.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from examples.rehearsal.bases import clip_tokenizer

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
    keys = dict(open_clip_keys())
    torch.save({"state_dict": {k: 0.2 * torch.randn(s) for k, s in keys.items()}},
               folder / f"HPS_{version}_compressed.pt")  # fmt: skip
    clip_tokenizer().save_pretrained(folder)
    return folder


def open_clip_keys() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield (key, shape) of open_clip's CLIP with two layers in each tower."""
    joint, tokens = 48, len(clip_tokenizer())
    yield "logit_scale", ()
    yield "positional_embedding", (WORDS, WIDTH)
    yield "token_embedding.weight", (tokens, WIDTH)
    yield "text_projection", (WIDTH, joint)
    yield "visual.class_embedding", (WIDTH,)
    yield "visual.positional_embedding", ((SIDE // PATCH) ** 2 + 1, WIDTH)
    yield "visual.conv1.weight", (WIDTH, 3, PATCH, PATCH)
    yield "visual.proj", (WIDTH, joint)
    for norm in ("ln_final", "visual.ln_pre", "visual.ln_post"):
        yield f"{norm}.weight", (WIDTH,)
        yield f"{norm}.bias", (WIDTH,)
    for prefix in ("transformer", "visual.transformer"):
        for layer in range(2):
            block = f"{prefix}.resblocks.{layer}"
            yield f"{block}.attn.in_proj_weight", (3 * WIDTH, WIDTH)
            yield f"{block}.attn.in_proj_bias", (3 * WIDTH,)
            for name, out, into in (
                ("attn.out_proj", WIDTH, WIDTH),
                ("mlp.c_fc", 96, WIDTH),
                ("mlp.c_proj", WIDTH, 96),
            ):
                yield from linear(f"{block}.{name}", out, into)
            for name in ("ln_1", "ln_2"):
                yield from norm_keys(f"{block}.{name}", WIDTH)


def linear(name: str, out: int, into: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the keys of a linear layer."""
    yield f"{name}.weight", (out, into)
    yield f"{name}.bias", (out,)


def norm_keys(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the keys of a layer norm."""
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def imagereward_keys(words: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield (key, shape) of ImageReward's BLIP with two layers in each encoder, and of its head."""
    vision, text = 128, WIDTH
    v, t = "blip.visual_encoder", "blip.text_encoder"
    yield f"{v}.cls_token", (1, 1, vision)
    yield f"{v}.pos_embed", (1, (SIDE // PATCH) ** 2 + 1, vision)
    yield f"{v}.patch_embed.proj.weight", (vision, 3, PATCH, PATCH)
    yield f"{v}.patch_embed.proj.bias", (vision,)
    yield from norm_keys(f"{v}.norm", vision)
    yield f"{t}.embeddings.word_embeddings.weight", (words, text)
    yield f"{t}.embeddings.position_embeddings.weight", (40, text)
    yield from norm_keys(f"{t}.embeddings.LayerNorm", text)
    for i in range(2):
        for name in ("norm1", "norm2"):
            yield from norm_keys(f"{v}.blocks.{i}.{name}", vision)
        yield from linear(f"{v}.blocks.{i}.attn.qkv", 3 * vision, vision)
        yield from linear(f"{v}.blocks.{i}.attn.proj", vision, vision)
        yield from linear(f"{v}.blocks.{i}.mlp.fc1", 96, vision)
        yield from linear(f"{v}.blocks.{i}.mlp.fc2", vision, 96)
        layer = f"{t}.encoder.layer.{i}"
        for kind, width in (("attention", text), ("crossattention", vision)):
            yield from linear(f"{layer}.{kind}.self.query", text, text)
            yield from linear(f"{layer}.{kind}.self.key", text, width)
            yield from linear(f"{layer}.{kind}.self.value", text, width)
            yield from linear(f"{layer}.{kind}.output.dense", text, text)
            yield from norm_keys(f"{layer}.{kind}.output.LayerNorm", text)
        yield from linear(f"{layer}.intermediate.dense", 96, text)
        yield from linear(f"{layer}.output.dense", text, 96)
        yield from norm_keys(f"{layer}.output.LayerNorm", text)
    for number, (out, into) in {0: (32, text), 2: (24, 32), 4: (16, 24), 6: (8, 16)}.items():
        yield from linear(f"mlp.layers.{number}", out, into)
    yield from linear("mlp.layers.7", 1, 8)


def bert_words() -> list[str]:
    """Return a vocabulary of BERT's form: its special tokens, and letters."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789,."
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{x}" for x in letters)]


def save_imagereward(folder: Path) -> Path:
    """Save ImageReward.pt and BERT's vocabulary."""
    state = {key: 0.15 * torch.randn(shape) for key, shape in imagereward_keys(len(bert_words()))}
    torch.save(state, folder / "ImageReward.pt")
    (folder / "vocab.txt").write_text("\n".join(bert_words()))
    return folder


def save_aesthetic(folder: Path) -> Path:
    """Save the MLP's linear layers, numbered as in the published head, and CLIP in clip/."""
    shapes = {0: (32, 48), 2: (24, 32), 4: (16, 24), 6: (8, 16), 7: (1, 8)}
    state = {
        key: 0.5 * torch.randn(shape)
        for number, (out, into) in shapes.items()
        for key, shape in linear(f"layers.{number}", out, into)
    }
    torch.save(state, folder / "aesthetic-model.pth")
    save_clip(folder / "clip")
    return folder


SAVE = {
    "clip": save_clip,
    "pickscore": save_clip,
    "hps_v2": lambda folder: save_hps(folder, "v2"),
    "hps_v2.1": lambda folder: save_hps(folder, "v2.1"),
    "imagereward": save_imagereward,
    "aesthetic": save_aesthetic,
}


def save_scorer(kind: str, folder: Path) -> None:
    """Save a scorer's stand-in. Raises ValueError for a kind that has none."""
    if kind not in SAVE:
        raise ValueError(f"the scorer {kind} has no stand-in; there are {', '.join(SAVE)}")
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(len(kind))
    SAVE[kind](folder)
