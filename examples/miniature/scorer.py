"""The scorer `miniature`: how well an image fits a prompt of this world, between 0 and 1.

It knows real digits that neither the generators nor the raters' judge ever saw, and never sees a
vote. Runs with torch, numpy and Pillow alone; training it is `train_scorer`, at build time.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from examples.miniature.captions import read_caption
from examples.miniature.classifier import DigitClassifier, train_classifier
from examples.miniature.measures import Thirds, grey, ink, slant


class MiniatureScorer:
    """The geometric mean of P(digit named), agreement of the weight and agreement of the slant.

    All must be right for a high score, as in their product; the root only spreads the values. An
    attribute that the prompt leaves open is left out. `source` is a folder that holds
    `scorer.safetensors` and `config.json`.
    """

    def __init__(self, source: str, device: str = "cpu"):
        config = json.loads((Path(source) / "config.json").read_text())
        self.device = device
        self.weight_thirds = Thirds.from_lists(config["weight_thirds"])
        self.slant_thirds = Thirds.from_lists(config["slant_thirds"])
        self.classifier = DigitClassifier(config["width"], config["features"])
        self.classifier.load_state_dict(load_file(Path(source) / "scorer.safetensors"))
        self.classifier.to(device).eval()

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> np.ndarray:
        """Return the score of each image for its prompt, float64 (n,).

        Raises ValueError where a prompt names no digit, or the two lists differ in length.
        """
        if len(prompts) != len(images):
            raise ValueError(f"{len(prompts)} prompts but {len(images)} images")
        if not prompts:
            return np.zeros(0)
        pixels = np.stack([grey(image) for image in images])
        with torch.inference_mode():
            batch = torch.from_numpy(pixels).float().unsqueeze(1).to(self.device)
            probabilities = self.classifier(batch)[1].softmax(dim=1).double().cpu().numpy()
        inks, slants = ink(pixels), slant(pixels)
        scores = np.empty(len(prompts))
        for i, prompt in enumerate(prompts):
            asked = read_caption(prompt)
            terms = [probabilities[i, asked.digit]]
            if asked.weight is not None:
                terms.append(self.weight_thirds.agreement(inks[i], asked.digit, asked.weight))
            if asked.slant is not None:
                terms.append(self.slant_thirds.agreement(slants[i], asked.digit, asked.slant))
            scores[i] = np.prod(terms) ** (1 / len(terms))
        return scores


def train_scorer(
    images: np.ndarray, labels: np.ndarray, folder: Path, steps: int, seed: int
) -> None:
    """Train on the scorer's own real digits, (n, 32, 32) and (n,), and write the folder."""
    torch.manual_seed(seed)
    width, features = 12, 48
    config = {
        "width": width,
        "features": features,
        "weight_thirds": Thirds.of(ink(images), labels).as_lists(),
        "slant_thirds": Thirds.of(slant(images), labels).as_lists(),
    }
    classifier = DigitClassifier(width, features)
    batch = torch.from_numpy(images).float().unsqueeze(1)
    train_classifier(classifier, batch, torch.from_numpy(labels), steps, seed)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(classifier.state_dict(), folder / "scorer.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
