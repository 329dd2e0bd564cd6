"""CLIP's two towers, and the scorers that are a cosine between them: CLIP score and PickScore.

    clip        100 cos(image, text)                    Hessel et al. 2021, without the cut at 0
    pickscore   exp(logit_scale) cos(image, text)       Kirstain et al. 2023

Weights come through transformers from a folder or a hub name, in fp32 as the authors' examples run
them. An image becomes the tower's input to the pixel as each scorer's authors do it (`fit`):

    clip       OpenAI's CLIP, ImageReward, LAION: shorter side to size, bicubic in Pillow, centre
               crop whose corner is rounded                     (torchvision's CenterCrop)
    processor  PickScore: the same, the corner rounded down     (transformers' image processor)
    hps        HPS v2 and v2.1: a float tensor, longer side to size, bicubic, antialiased, not
               clamped, then padded with zeros to a square

HPS was trained when torchvision did not antialias tensors by default (before 0.17), and its code
does so today: `hps` is what its code gives today, `hps_aliased` what it was trained with. The two
are up to 95 grey levels apart.
"""

import gzip
import html
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from weakref import WeakValueDictionary

import numpy as np
import torch
from PIL import Image

from evaluation import devices, hub
from evaluation.errors import EvaluationError, MissingWeights
from evaluation.scorers.naming import CLIP

MERGES = "bpe_simple_vocab_16e6.txt.gz"
PREPARERS = ThreadPoolExecutor(min(16, os.cpu_count() or 1))

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
Fit = Literal["clip", "processor", "hps", "hps_aliased"]


@dataclass(frozen=True)
class Preparation:
    """side : of the tower's input, pixels. mean, std : per channel, of values from 0 to 1."""

    side: int
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    fit: Fit = "clip"

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Return the normalised float32 tensor (3, side, side)."""
        image = image.convert("RGB")
        pixels = self.padded(image) if self.fit.startswith("hps") else self.cropped(image)
        mean, std = (torch.tensor(one)[:, None, None] for one in (self.mean, self.std))
        return (pixels - mean) / std

    def cropped(self, image: Image.Image) -> torch.Tensor:
        """Resize the shorter side and cut the middle out."""
        side, shorter = self.side, min(image.size)
        width, height = (int(side * length / shorter) for length in image.size)
        small = image.resize((width, height), Image.Resampling.BICUBIC)
        if self.fit == "clip":
            left, top = round((width - side) / 2), round((height - side) / 2)
        else:
            left, top = (width - side) // 2, (height - side) // 2
        return as_tensor(small.crop((left, top, left + side, top + side)))

    def padded(self, image: Image.Image) -> torch.Tensor:
        """Resize the longer side and pad the rest with black."""
        scale = self.side / max(image.size)
        width, height = (round(length * scale) for length in image.size)
        small = torch.nn.functional.interpolate(
            as_tensor(image)[None],
            size=(height, width),
            mode="bicubic",
            align_corners=False,
            antialias=self.fit == "hps",
        )[0]
        left, top = (self.side - width) // 2, (self.side - height) // 2
        borders = (left, self.side - width - left, top, self.side - height - top)
        return torch.nn.functional.pad(small, borders)


def as_tensor(image: Image.Image) -> torch.Tensor:
    """Return an RGB image as float32 (3, height, width) from 0 to 1."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


class ClipTowers:
    """A CLIPModel with its tokenizer and image preparation; features are unit vectors.

    Scorers on the same CLIP share one of these: a batch of images that several of them score one
    after the other goes through the image tower once.
    """

    def __init__(self, model: Any, tokenizer: Any, prepare: Preparation):
        self.device = devices.device()
        self.model = model.eval().requires_grad_(False).to(self.device)
        self.tokenizer = tokenizer
        self.prepare = prepare
        self.texts: dict[str, torch.Tensor] = {}
        self.seen: tuple[list[Image.Image], torch.Tensor] | None = None

    def image_features(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Unit image embeddings (n, d); those of the batch before are kept."""
        before = self.seen
        same = before is not None and [*map(id, before[0])] == [*map(id, images)]
        if before is None or not same:
            before = self.seen = (list(images), self.embed(images))
        return before[1]

    @torch.inference_mode()
    def embed(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Unit image embeddings (n, d)."""
        prepared = list(PREPARERS.map(self.prepare, images))  # Pillow works outside the GIL
        pixels = torch.stack(prepared).to(self.device)
        with self.precision():
            pooled = self.model.vision_model(pixel_values=pixels).pooler_output
            features = self.model.visual_projection(pooled)
        return torch.nn.functional.normalize(features.float(), dim=-1)

    def precision(self) -> Any:
        """HPS runs under autocast to fp16 on a GPU, as its authors' code does; others in fp32."""
        kind = torch.device(self.device).type
        enabled = kind != "cpu" and self.prepare.fit.startswith("hps")
        return torch.autocast(kind, torch.float16, enabled=enabled)

    @torch.inference_mode()
    def text_features(self, prompts: Sequence[str]) -> torch.Tensor:
        """Unit text embeddings (n, d); each different prompt is embedded once."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.texts]
        if new:
            said = [cleaned(text) for text in new] if self.prepare.fit.startswith("hps") else new
            length = self.model.config.text_config.max_position_embeddings
            tokens = self.tokenizer(
                said, padding=True, truncation=True, max_length=length, return_tensors="pt"
            ).to(self.device)
            with self.precision():
                pooled = self.model.text_model(
                    input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
                ).pooler_output
                features = self.model.text_projection(pooled)
            features = torch.nn.functional.normalize(features.float(), dim=-1)
            self.texts.update(zip(new, features, strict=True))
        return torch.stack([self.texts[prompt] for prompt in prompts])


def cleaned(text: str) -> str:
    """A prompt as open_clip's tokenizer reads it: mended by ftfy, HTML's names resolved twice."""
    from ftfy import fix_text

    return " ".join(html.unescape(html.unescape(fix_text(text))).split())


class CosineScorer:
    """scale x cos(image, text)."""

    def __init__(self, towers: ClipTowers, scale: float):
        self.towers = towers
        self.scale = scale

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:
        """Scores, float64 (n,)."""
        image, text = self.towers.image_features(images), self.towers.text_features(prompts)
        return self.scale * (image * text).sum(-1).double().cpu().numpy()


def load_tokenizer(source: str, standard: str = CLIP) -> Any:
    """CLIP's tokenizer: the source's own, or built from its BPE merges, or the standard one.

    Checkpoints are often published without a tokenizer; all of CLIP's share OpenAI's.
    """
    from transformers import CLIPTokenizer

    folder = Path(source)
    if (folder / MERGES).is_file():
        return tokenizer_from_merges(folder / MERGES)
    own = any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json"))
    name = standard if folder.exists() and not own else source
    try:
        return CLIPTokenizer.from_pretrained(name, local_files_only=hub.out_of_reach())
    except (OSError, ValueError) as error:
        raise MissingWeights(
            f"{source}: has no tokenizer, and {name} cannot be fetched; put CLIP's tokenizer.json "
            f"(or vocab.json and merges.txt, or {MERGES}) into that folder"
        ) from error


def tokenizer_from_merges(path: Path) -> Any:
    """Build CLIP's tokenizer (49,408 tokens) from the merges that OpenAI published."""
    from transformers import CLIPTokenizer

    lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    merges = [(a, b) for a, b in (line.split() for line in lines[1 : 49152 - 256 - 2 + 1])]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(m) for m in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)}, merges=merges, model_max_length=77
    )


# What is loaded now, by source, fit and device; an entry goes with the last scorer that uses it.
LOADED: WeakValueDictionary[tuple[str, str, str], ClipTowers] = WeakValueDictionary()


def load_towers(scorer: str, source: str, fit: Fit = "clip") -> ClipTowers:
    """Load a CLIP in transformers' layout from a folder or the hub, or share one that is loaded.

    Mean and std of the pixels are of its preprocessor_config.json, else OpenAI's. Raises
    MissingWeights, which says where to put them, when there is none.
    """
    from transformers import CLIPModel

    folder, here = Path(source), Path(source).exists()
    place = (str(folder.resolve()) if here else source, fit, devices.device())
    if (towers := LOADED.get(place)) is not None:
        return towers
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise MissingWeights(
            f"{scorer}: {source} has no config.json; put a CLIP in transformers' layout there "
            "(config.json, model.safetensors, tokenizer)"
        )
    try:
        model = CLIPModel.from_pretrained(
            source,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=hub.out_of_reach(),
        )
    except (OSError, ValueError) as error:
        raise MissingWeights(
            f"{scorer}: no weights: {source} is not a folder here and cannot be fetched from the "
            f"hub; put a CLIP in transformers' layout into a folder and give {scorer}=FOLDER"
        ) from error
    path = folder / "preprocessor_config.json"
    said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    mean, std = tuple(said.get("image_mean", MEAN)), tuple(said.get("image_std", STD))
    prepare = Preparation(model.config.vision_config.image_size, mean, std, fit)
    towers = LOADED[place] = ClipTowers(model, load_tokenizer(source), prepare)
    return towers


def clip_score(source: str) -> CosineScorer:
    """CLIP score, 100 cos."""
    return CosineScorer(load_towers("clip", source), 100.0)


def pickscore(source: str) -> CosineScorer:
    """PickScore, exp(logit_scale) cos."""
    towers = load_towers("pickscore", source, "processor")
    scale = getattr(towers.model, "logit_scale", None)
    if scale is None:
        raise EvaluationError(f"pickscore: {source} has no logit_scale, so it is not a CLIPModel")
    return CosineScorer(towers, float(scale.exp()))
