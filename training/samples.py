"""A few images each so often, so that a person sees what the numbers do not say."""

from pathlib import Path
from typing import Any

import torch

from training.cache import Rows
from training.families import Family

IMAGES, STEPS, SEED = 4, 20, 0


class Sampler:
    """Draws images of some cached prompts with the policy; `empty` is the text of no prompt."""

    def __init__(
        self,
        family: Family,
        texts: tuple[Rows, ...],
        prompts: list[int],
        empty: tuple[Rows, ...],
        resolution: int,
        *,
        writes: bool = True,
    ) -> None:
        """Where weights are shared out, every process must draw, and only one `writes`."""
        self._writes = writes
        self._family, self._resolution = family, resolution
        names = ("prompt_embeds", "pooled_prompt_embeds")[: len(texts)]
        self._given = {}
        for name, rows, nothing in zip(names, texts, empty, strict=True):
            some = torch.stack([rows.take(torch.tensor([p]).numpy())[0] for p in prompts])
            self._given[name] = some
            if family.guided:
                without = nothing.take(torch.tensor([0]).numpy())
                self._given[f"negative_{name}"] = without.expand_as(some)

    @torch.no_grad()
    def __call__(self, policy: Any, folder: Path, step: int) -> None:
        """Write folder/STEP-I.png for each prompt, from one seed, so that steps compare."""
        import diffusers

        none = dict.fromkeys(self._family.texts)
        pipeline = getattr(diffusers, self._family.pipeline).from_pretrained(
            self._family.folder, **none, **{self._family.trained: policy}
        )
        pipeline.vae.to(policy.device)
        pipeline.set_progress_bar_config(disable=True)
        given = {k: v.to(policy.device, policy.dtype) for k, v in self._given.items()}
        with torch.autocast(policy.device.type, policy.dtype, policy.dtype != torch.float32):
            images = pipeline(
                **given,
                num_inference_steps=STEPS,
                guidance_scale=self._family.guidance,
                height=self._resolution,
                width=self._resolution,
                generator=torch.Generator("cpu").manual_seed(SEED),
            ).images
        if not self._writes:
            return
        folder.mkdir(exist_ok=True)
        for i, image in enumerate(images):
            image.save(folder / f"{step:08d}-{i}.png")
