"""How an image becomes a vision tower's input: to the pixel as each scorer's authors do it.

    clip       OpenAI's CLIP, ImageReward, LAION: shorter side to size, bicubic in Pillow, centre
               crop whose corner is rounded                     (torchvision's CenterCrop)
    processor  PickScore: the same, the corner rounded down     (transformers' image processor)
    hps        HPS v2 and v2.1: a float tensor, longer side to size, bicubic, antialiased, not
               clamped, then padded with zeros to a square

HPS was trained when torchvision did not antialias tensors by default (before 0.17), and its code
does so today: `hps` is what its code gives today, `hps_aliased` what it was trained with. The two
are up to 95 grey levels apart.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image

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
