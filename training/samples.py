"""A few images each so often, so that a person sees what the numbers do not say."""

from pathlib import Path
from typing import Any

import torch

from training.config import Generation
from training.families import Family, Texts
from training.families.folder import quiet

IMAGES = 4


class Sampler:
    """Draws images of some prompts with the policy, as the study's [generation] draws."""

    def __init__(
        self,
        family: Family,
        texts: Texts,
        unprompted: Texts,
        generation: Generation,
        shape: tuple[int, int],
    ) -> None:
        """`texts` are the prompts', `unprompted` what the pipeline guides against."""
        self._family, self._generation, self._shape = family, generation, shape
        self._texts, self._unprompted = texts, unprompted

    @torch.no_grad()
    def draw(self, policy: Any) -> list[Any]:
        """Return an image of each prompt, from one seed, so that steps compare."""
        family, given, device = self._family, self._generation, next(policy.parameters()).device
        # Neither a safety checker nor another encoder: each would have to be moved to the device.
        pipeline = family.assembled(("vae", "scheduler"), **{family.trained: policy})
        pipeline.vae.to(device)
        if hasattr(pipeline.vae, "enable_slicing"):
            pipeline.vae.enable_slicing()
        arguments = family.as_arguments(self._on(device, self._texts, policy.dtype))
        if family.guided:
            nothing = self._unprompted.repeated(len(self._texts.embeds[0]))
            against = family.as_arguments(self._on(device, nothing, policy.dtype))
            arguments |= {f"negative_{name}": value for name, value in against.items()}
        height, width = self._shape
        half = policy.dtype != torch.float32
        with torch.autocast(device.type, policy.dtype, half), quiet():
            return pipeline(
                **arguments,
                **{family.guidance_argument: given.guidance},
                num_inference_steps=given.steps,
                height=height,
                width=width,
                generator=torch.Generator("cpu").manual_seed(given.seed),
            ).images

    @staticmethod
    def _on(device: torch.device, texts: Texts, dtype: torch.dtype) -> Texts:
        mask = None if texts.mask is None else texts.mask.to(device)
        return Texts(tuple(e.to(device, dtype) for e in texts.embeds), mask, texts.lengths)


def write_images(images: list[Any], folder: Path, step: int) -> None:
    """Write folder/STEP-I.png."""
    folder.mkdir(exist_ok=True)
    for i, image in enumerate(images):
        image.save(folder / f"{step:08d}-{i}.png")
