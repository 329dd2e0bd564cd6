"""LAION's aesthetic predictors: a small head on CLIP L/14's unit image embedding; no prompt.

The default head is the MLP `sac+logos+ava1-l14-linearMSE` (layers without activations between
them, dropout at training only), which the hub has a copy of. `ava+logos-l14-reluMSE` has a
ReLU after every layer but the last; the linear heads `sa_0_4_vit_*_linear` of LAION v1 serve as
well. Scores are on the raters' scale, about 1 to 10.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from evaluation.errors import EvaluationError, MissingWeights
from evaluation.hub import find_file, read_state
from evaluation.scorers.clip_towers import ClipTowers, load_towers

FILES = (
    "sac+logos+ava1-l14-linearMSE.safetensors",
    "sac+logos+ava1-l14-linearMSE.pth",
    "aesthetic-model.pth",  # the same head, as it is called on the hub
    "ava+logos-l14-linearMSE.pth",
    "ava+logos-l14-reluMSE.pth",
)


def apply_head(state: Mapping[str, torch.Tensor], features: torch.Tensor) -> torch.Tensor:
    """Outputs (n, k) of a head of linear layers for features (n, d).

    Layers are numbered by their places in the head's torch.nn.Sequential. Between two linear
    layers there is a ReLU where there is room for one beside the dropout, so that the second
    number is 3 (linear, ReLU, dropout, linear) and not 2 (linear, dropout, linear). Raises
    EvaluationError when the head was made for features of another width.
    """
    numbers = {key.rpartition(".")[0]: 0 for key in state}
    for layer in numbers:
        numbers[layer] = int(layer.rpartition(".")[2] or 0)
    relu = 3 in numbers.values()
    ordered = sorted(numbers, key=lambda layer: numbers[layer])
    for layer in ordered:
        prefix = f"{layer}." if layer else ""
        weight, bias = state[f"{prefix}weight"], state[f"{prefix}bias"]
        if weight.shape[1] != features.shape[1]:
            raise EvaluationError(
                f"the head expects embeddings of {weight.shape[1]} numbers, the model beside it "
                f"gives {features.shape[1]}"
            )
        features = features @ weight.T + bias
        if relu and layer != ordered[-1]:
            features = features.relu()
    return features


class AestheticScorer:
    """A head on the image tower of CLIP."""

    def __init__(self, towers: ClipTowers, head: Mapping[str, torch.Tensor]):
        self.towers = towers
        self.head = {key: value.float().to(towers.device) for key, value in head.items()}

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:
        """Scores, float64 (n,); the prompts do not matter."""
        features = self.towers.image_features(images)
        return apply_head(self.head, features)[:, 0].double().cpu().numpy()


def aesthetic(source: str, clip: str) -> AestheticScorer:
    """Load a head (a file, the first of FILES in a folder, or the hub's) and the CLIP it reads.

    That is in clip/ beside the head, else `clip`, CLIP L/14 on the hub.
    """
    folder = Path(source)
    if folder.is_dir():
        heads = [folder / name for name in FILES if (folder / name).is_file()]
        if not heads:
            raise MissingWeights(
                f"aesthetic: no head in {source}: put {FILES[1]} (LAION's improved-aesthetic-"
                "predictor) there, or give aesthetic=FILE"
            )
        path = heads[0]
    else:
        path = find_file("aesthetic", source, "aesthetic-model.pth")
    head = read_state(path)
    beside = path.parent / "clip"
    try:
        towers = load_towers("aesthetic", str(beside) if beside.is_dir() else clip)
    except MissingWeights as error:
        raise MissingWeights(
            f"aesthetic: the head {path.name} is there but not the CLIP that it reads: put "
            f"{clip} in transformers' layout into {beside}"
        ) from error
    return AestheticScorer(towers, head)
