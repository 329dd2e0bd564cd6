"""LAION's aesthetic predictors: a small head on CLIP L/14's unit image embedding; no prompt.

The default head is the MLP `sac+logos+ava1-l14-linearMSE` (layers without activations between
them, dropout at training only); the linear heads `sa_0_4_vit_*_linear` of LAION v1 serve as well.
Scores are on the raters' scale, about 1 to 10.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from evaluation.errors import EvaluationError, MissingWeights
from evaluation.scorers.clip_towers import STANDARD_TOKENIZER as CLIP_L14
from evaluation.scorers.clip_towers import ClipTowers, load_towers
from evaluation.scorers.weights import read_state

HEAD = "sac+logos+ava1-l14-linearMSE"


def apply_head(state: Mapping[str, torch.Tensor], features: torch.Tensor) -> torch.Tensor:
    """Scores (n,) of unit embeddings (n, d): the linear layers of the head one after another.

    Raises EvaluationError when the head was made for embeddings of another width.
    """
    layers = sorted({key.rpartition(".")[0] for key in state}, key=layer_number)
    for layer in layers:
        prefix = f"{layer}." if layer else ""
        weight, bias = state[f"{prefix}weight"], state[f"{prefix}bias"]
        if weight.shape[1] != features.shape[1]:
            raise EvaluationError(
                f"aesthetic: the head expects embeddings of {weight.shape[1]} numbers, the CLIP "
                f"beside it gives {features.shape[1]}"
            )
        features = features @ weight.T + bias
    return features[:, 0]


def layer_number(name: str) -> int:
    """Position of "layers.4" in its sequence; 0 for a head that is one layer without a name."""
    return int(name.rpartition(".")[2] or 0)


class AestheticScorer:
    """A head on the image tower of CLIP."""

    def __init__(self, towers: ClipTowers, head: Mapping[str, torch.Tensor]):
        self.towers = towers
        self.head = {key: value.float().to(towers.device) for key, value in head.items()}

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:
        """Scores, float64 (n,); the prompts do not matter."""
        features = self.towers.image_features(images)
        return apply_head(self.head, features).double().cpu().numpy()


def find_head(source: Path) -> Path:
    """The head that a source names: a file, or the MLP in a folder."""
    if source.is_file():
        return source
    for suffix in (".safetensors", ".pth"):
        if (path := source / f"{HEAD}{suffix}").is_file():
            return path
    raise MissingWeights(
        f"aesthetic: no head: put {HEAD}.pth (LAION's improved-aesthetic-predictor) into a folder "
        "and give aesthetic=FOLDER, or give the file of another head"
    )


def aesthetic(source: str) -> AestheticScorer:
    """Load a head from SOURCE (folder or file); CLIP L/14 from the folder's clip/, else the hub."""
    path = find_head(Path(source))
    head = read_state(path)
    beside = path.parent / "clip"
    try:
        towers = load_towers("aesthetic", str(beside) if beside.is_dir() else CLIP_L14)
    except MissingWeights as error:
        raise MissingWeights(
            f"aesthetic: the head {path.name} is there but not the CLIP that it reads: put "
            f"{CLIP_L14} in transformers' layout into {beside}"
        ) from error
    return AestheticScorer(towers, head)
