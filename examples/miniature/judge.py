"""The latent quality of an image: what a simulated rater perceives before the noise.

Truth of the prompt, and closeness to held-out real digits. Only the raters use it; it is written
to a file apart, for studies, and no stage of the pipeline reads it.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from examples.miniature.captions import read_caption
from examples.miniature.classifier import DigitClassifier, train_classifier
from examples.miniature.digits import Digits
from examples.miniature.measures import grey, ink, slant


class Judge:
    """Knows the held-out real digits, and judges images by them.

    quality = 2 P(digit) + agreement of weight + agreement of slant + closeness, from 0 to 5. An
    attribute that the prompt leaves open counts 0.5, whatever the image.
    """

    def __init__(self, real: Digits, steps: int, seed: int):
        torch.manual_seed(seed)
        self.real = real
        self.classifier = DigitClassifier(width=16, features=32)
        images = torch.from_numpy(real.images).float().unsqueeze(1)
        train_classifier(self.classifier, images, torch.from_numpy(real.labels), steps, seed)
        with torch.inference_mode():
            self.features = self.classifier(images)[0]
        distances = torch.cdist(self.features, self.features)
        distances.fill_diagonal_(torch.inf)
        # How far apart two real digits of a kind lie: the unit of closeness.
        self.spacing = torch.stack(
            [
                distances[mask][:, mask].min(dim=1).values.median()
                for digit in range(10)
                if (mask := torch.from_numpy(real.labels == digit)) is not None
            ]
        )

    def quality(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> dict[str, list]:
        """Return the columns quality, digit, weight, slant and closeness, a value an image."""
        pixels = np.stack([grey(image) for image in images])
        with torch.inference_mode():
            features, logits = self.classifier(torch.from_numpy(pixels).float().unsqueeze(1))
            probabilities = logits.softmax(dim=1)
            distances = torch.cdist(features, self.features).numpy()
        inks, slants = ink(pixels), slant(pixels)
        columns: dict[str, list] = {
            name: [] for name in ("quality", "digit", "weight", "slant", "closeness")
        }
        for i, prompt in enumerate(prompts):
            asked = read_caption(prompt)
            digit = float(probabilities[i, asked.digit])
            weight = lean = 0.5
            if asked.weight is not None:
                weight = self.real.weight_thirds.agreement(inks[i], asked.digit, asked.weight)
            if asked.slant is not None:
                lean = self.real.slant_thirds.agreement(slants[i], asked.digit, asked.slant)
            nearest = float(distances[i, self.real.labels == asked.digit].min())
            closeness = math.exp(-0.5 * nearest / float(self.spacing[asked.digit]))
            values = (2 * digit + weight + lean + closeness, digit, weight, lean, closeness)
            for name, value in zip(columns, values, strict=True):
                columns[name].append(value)
        return columns
