"""How an image is shown: which shape, which crop, mirrored or not; from its bytes to its pixels."""

import hashlib
import io
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training import TrainingError
from training.config import PolicyConfig

Shape = tuple[int, int]  # height and width in pixels


class ImageError(TrainingError):
    """An image is missing or cannot be decoded; the message names it."""


@dataclass(frozen=True)
class Picture:
    """What is known of an image without its pixels."""

    digest: str  # SHA-256 of its bytes
    width: int
    height: int


@dataclass(frozen=True)
class View:
    """One way to show an image: which of its crops, 0 the middle one, and whether mirrored."""

    crop: int = 0
    mirrored: bool = False

    def __str__(self) -> str:
        return f"-crop{self.crop}" * bool(self.crop) + "-mirrored" * self.mirrored

    def place(self, digest: str) -> float:
        """Where along its longer side the image is cropped, 0 to 1: by its content and the crop."""
        if not self.crop:
            return 0.5
        hashed = hashlib.sha256(f"{digest}/{self.crop}".encode()).digest()
        return int.from_bytes(hashed[:7], "big") / 2**56

    def corner(self, picture: Picture, shape: Shape) -> tuple[int, int]:
        """Top and left of the crop, in pixels of the image scaled until it covers `shape`."""
        scale = max(shape[0] / picture.height, shape[1] / picture.width)
        sides = (picture.height, picture.width)
        spare = [round(side * scale) - least for side, least in zip(sides, shape, strict=True)]
        top, left = (round(self.place(picture.digest) * each) for each in spare)
        return top, spare[1] - left if self.mirrored else left


def views_of(config: PolicyConfig) -> list[View]:
    """Return the views through which a pair's turns go."""
    turned = (False, True)[: 1 + config.mirror]
    return [View(crop, mirrored) for crop in range(config.crops) for mirrored in turned]


def size_of(image: str, content: bytes) -> tuple[int, int]:
    """Width and height, turned upright as the pixels will be, without reading the pixels."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as picture:
            turned = picture.getexif().get(0x0112, 1) >= 5
            width, height = picture.size
    except Exception as error:
        raise ImageError(f"image {image!r} cannot be decoded: {error}") from error
    return (height, width) if turned else (width, height)


def pixels_of(image: str, content: bytes, shape: Shape, view: View, digest: str) -> Tensor:
    """Decode, scale until it covers `shape` and crop: (3, height, width), in [-1, 1]."""
    from PIL import Image, ImageOps

    from arena.votes.images import ImageFault, decoded

    try:
        picture = decoded(content)
    except ImageFault as error:
        raise ImageError(f"image {image!r} cannot be decoded: {error}") from error
    at = (view.place(digest),) * 2
    picture = ImageOps.fit(picture, shape[::-1], Image.Resampling.LANCZOS, centering=at)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1
    return pixels.flip(2) if view.mirrored else pixels
