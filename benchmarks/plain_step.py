"""The training step of the public Diffusion-DPO scripts, for training.py to stand beside ours."""

import copy
import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel, CLIPTokenizer

from training.order import step_generator

Phases = Callable[[str], AbstractContextManager[None]]
"""What counts the time of the part of a step that it is given the name of."""


def plain_step(
    folder: Path,
    config: Any,
    device: torch.device,
    phases: Callable[[str], AbstractContextManager[None]],
    *,
    copy_unet: bool,
) -> Callable[..., None]:
    """The step of the public scripts: everything encoded again; a second UNet, or adapters off."""
    base = folder / "base"
    vae = AutoencoderKL.from_pretrained(base / "vae").to(device).requires_grad_(False)
    text_encoder = CLIPTextModel.from_pretrained(base / "text_encoder").to(device)
    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
    schedule = DDPMScheduler.from_pretrained(base / "scheduler")
    unet = UNet2DConditionModel.from_pretrained(base / "unet").to(device)
    reference = copy.deepcopy(unet).requires_grad_(False) if copy_unet else unet
    if config.adaptation == "lora":
        from peft import LoraConfig

        unet.requires_grad_(False)
        unet.add_adapter(
            LoraConfig(
                r=config.rank,
                lora_alpha=config.rank,
                target_modules=["to_q", "to_k", "to_v", "to_out.0"],
            )
        )
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate)
    pairs = pq.read_table(folder / "pairs.parquet").to_pylist()
    contents = dict(
        zip(*(c.to_pylist() for c in pq.read_table(folder / "images.parquet").columns), strict=True)
    )

    def pixels(image: str) -> torch.Tensor:
        picture = Image.open(io.BytesIO(contents[image])).convert("RGB")
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1

    def step(i: int, rows: np.ndarray) -> None:
        generator = step_generator(0, i, device)
        batch = [pairs[row] for row in rows]
        images = [p["image_winner"] for p in batch] + [p["image_loser"] for p in batch]
        with torch.no_grad():
            stack = torch.stack([pixels(image) for image in images]).to(device)
            with phases("vae"):
                latents = vae.encode(stack).latent_dist.sample() * vae.config.scaling_factor
            tokens = tokenizer(
                [p["prompt"] for p in batch], padding="max_length", return_tensors="pt"
            )
            with phases("text"):
                texts = text_encoder(tokens.input_ids.to(device))[0].repeat(2, 1, 1)
        noise = torch.randn(latents[: len(rows)].shape, generator=generator, device=device).repeat(
            2, 1, 1, 1
        )
        t = torch.randint(0, 1000, (len(rows),), generator=generator, device=device).repeat(2)
        noisy = schedule.add_noise(latents, noise, t)
        with phases("policy"):
            errors = (unet(noisy, t, texts).sample - noise).square().mean(dim=(1, 2, 3))
        if not copy_unet:
            unet.disable_adapters()
        with torch.no_grad(), phases("reference"):
            output = reference(noisy, t, texts).sample
            reference_errors = (output - noise).square().mean(dim=(1, 2, 3))
        if not copy_unet:
            unet.enable_adapters()
        winner, loser = (errors - reference_errors).chunk(2)
        gap = torch.tensor([p["gap"] for p in batch], device=device)
        inside = -0.5 * config.beta_dpo * (winner - loser)
        loss = -F.logsigmoid(inside - config.gamma * gap).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, config.max_grad_norm)
        with phases("optimiser"):
            optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step
