"""A few images each so often, so that a person sees what the numbers do not say."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from training.config import Generation
from training.families import Family, Texts
from training.families.folder import quiet

IMAGES = 4


@dataclass(frozen=True)
class Sampler:
    """Draws images of some prompts with the policy, as the study's [generation] draws."""

    family: Family
    texts: Texts  # of the prompts
    unprompted: Texts  # what the pipeline guides against
    generation: Generation
    shape: tuple[int, int]

    @torch.no_grad()
    def draw(self, policy: Any) -> list[Any]:
        """Return an image of each prompt, from one seed, so that steps compare."""
        family, given, device = self.family, self.generation, next(policy.parameters()).device
        # Neither a safety checker nor another encoder: each would have to be moved to the device.
        pipeline = family.assembled(("vae", "scheduler"), **{family.trained: policy})
        pipeline.vae.to(device)
        if hasattr(pipeline.vae, "enable_slicing"):
            pipeline.vae.enable_slicing()
        arguments = family.as_arguments(self.texts.to(policy.dtype, device))
        if family.guided:
            nothing = self.unprompted.repeated(len(self.texts.embeds[0]))
            against = family.as_arguments(nothing.to(policy.dtype, device))
            arguments |= {f"negative_{name}": value for name, value in against.items()}
        height, width = self.shape
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


def write_images(images: list[Any], folder: Path, step: int) -> None:
    """Write folder/STEP-I.png."""
    folder.mkdir(exist_ok=True)
    for i, image in enumerate(images):
        image.save(folder / f"{step:08d}-{i}.png")
