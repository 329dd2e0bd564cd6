"""How the generators learned, before any vote: text encoder, autoencoder, then the UNets.

Ordinary diffusion pretraining on the real training digits and their captions. Learning from
preferences is not done here.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from examples.miniature.captions import (
    PHRASINGS,
    Attributes,
    caption,
    every_caption,
    read_caption,
)
from examples.miniature.digits import Digits

BATCH = 64
Report = Callable[[str], None]


def train_text_encoder(
    tokenizer: CLIPTokenizer, encoder: CLIPTextModel, steps: int, seed: int
) -> None:
    """Teach the encoder to tell captions apart: digit, weight and slant from its pooled output.

    Sharing one frozen encoder lets every generator use the same prompt embeddings, as the versions
    of Stable Diffusion share CLIP.
    """
    torch.manual_seed(seed)
    texts = every_caption()
    asked = [read_caption(text) for text in texts]
    # "not said" is a class of its own, 3.
    targets = torch.tensor(
        [
            (a.digit, 3 if a.weight is None else a.weight, 3 if a.slant is None else a.slant)
            for a in asked
        ]
    )
    ids = _token_ids(tokenizer, texts)
    heads = nn.ModuleList(nn.Linear(encoder.config.hidden_size, n) for n in (10, 4, 4))
    optimizer = torch.optim.AdamW([*encoder.parameters(), *heads.parameters()], lr=1e-3)
    encoder.train()
    for _ in range(steps):
        chosen = torch.randint(len(texts), (BATCH,))
        pooled = encoder(input_ids=ids[chosen]).pooler_output
        losses = [
            nn.functional.cross_entropy(head(pooled), targets[chosen, i])
            for i, head in enumerate(heads)
        ]
        loss = torch.stack(losses).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    encoder.eval().requires_grad_(False)


def train_vae(vae: AutoencoderKL, images: Tensor, steps: int, seed: int, report: Report) -> None:
    """Train the autoencoder on images (n, 1, 32, 32) in 0..1, and set its scaling factor."""
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    vae.train()
    for step in range(1, steps + 1):
        chosen = torch.randint(len(images), (32,))
        pixels = as_pixels(_shifted(images[chosen]))
        posterior = vae.encode(pixels).latent_dist
        decoded = vae.decode(posterior.sample()).sample
        loss = nn.functional.mse_loss(decoded, pixels) + 1e-4 * posterior.kl().mean() / 256
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps:
            report(f"autoencoder: step {step}/{steps}, loss {loss.item():.4f}")
    vae.eval().requires_grad_(False)
    with torch.inference_mode():
        latents = vae.encode(as_pixels(images)).latent_dist.mean
    vae.register_to_config(scaling_factor=round(1 / float(latents.std()), 4))


@dataclass(frozen=True)
class Latents:
    """The training digits as the UNets see them, and every caption's embedding."""

    latents: Tensor  # (shifts, n, 4, 8, 8), scaled to unit variance
    attributes: list[Attributes]  # n
    embeddings: dict[str, Tensor]  # caption -> (16, width); "" is the unconditional one


def encode_digits(
    real: Digits, tokenizer: CLIPTokenizer, encoder: CLIPTextModel, vae: AutoencoderKL
) -> Latents:
    """Encode the real digits, each also shifted by one pixel in eight directions, and captions."""
    images = torch.from_numpy(real.images).float().unsqueeze(1)
    shifts = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    texts = ["", *every_caption()]
    with torch.inference_mode():
        latents = torch.stack(
            [vae.encode(as_pixels(images.roll(s, dims=(2, 3)))).latent_dist.mean for s in shifts]
        )
        embeddings = encoder(input_ids=_token_ids(tokenizer, texts)).last_hidden_state
    attributes = [
        Attributes(int(d), int(w), int(s))
        for d, w, s in zip(real.labels, real.weight, real.slant, strict=True)
    ]
    return Latents(
        (latents * vae.config.scaling_factor).clone(),
        attributes,
        dict(zip(texts, embeddings.clone(), strict=True)),
    )


@dataclass(frozen=True)
class Phase:
    """One stretch of pretraining: how long, and the share of words drawn at random.

    Those are the words for weight and slant; the numeral is always right.
    """

    steps: int
    random_words: float


def train_unet(
    unet: UNet2DConditionModel,
    scheduler: DDIMScheduler,
    data: Latents,
    phases: Sequence[Phase],
    keep: Sequence[int],
    seed: int,
    report: Report,
) -> dict[int, UNet2DConditionModel]:
    """Train by noise prediction and return the averaged weights at the steps in `keep`.

    A tenth of the captions is left empty, for classifier-free guidance. The average is exponential
    over about the last tenth of the steps so far.
    """
    torch.manual_seed(seed)
    average = copy.deepcopy(unet).requires_grad_(False)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=2e-3, weight_decay=1e-2)
    kept: dict[int, UNet2DConditionModel] = {}
    # Each phase starts with a high learning rate and lets it fall to nothing.
    course = [(phase, done / phase.steps) for phase in phases for done in range(phase.steps)]
    unet.train()
    for step, (phase, done) in enumerate(course, start=1):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, step / 50) * (1 - done)
        rows = torch.randint(data.latents.shape[1], (BATCH,))
        x0 = data.latents[torch.randint(data.latents.shape[0], (BATCH,)), rows]
        text = torch.stack(
            [
                data.embeddings[_said(data.attributes[row], phase.random_words)]
                for row in rows.tolist()
            ]
        )
        noise = torch.randn_like(x0)
        t = torch.randint(scheduler.config.num_train_timesteps, (BATCH,))
        predicted = unet(scheduler.add_noise(x0, noise, t), t, text).sample
        loss = nn.functional.mse_loss(predicted, noise)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        decay = 1 - 10 / (step + 10)
        with torch.no_grad():
            for mean, weight in zip(average.parameters(), unet.parameters(), strict=True):
                mean.lerp_(weight, 1 - decay)
        if step in keep:
            kept[step] = copy.deepcopy(average).eval()
        if step % 100 == 0:
            report(f"step {step}/{len(course)}, loss {loss.item():.3f}")
    return kept


def _said(truth: Attributes, random_words: float) -> str:
    """Caption a digit: sometimes empty, often partial, and with some words drawn at random."""
    draw = torch.rand(6).tolist()
    if draw[0] < 0.1:
        return ""
    other = torch.randint(3, (2,)).tolist()
    weight = other[0] if draw[1] < random_words else truth.weight
    slant = other[1] if draw[2] < random_words else truth.slant
    asked = Attributes(
        truth.digit, None if draw[3] < 0.2 else weight, None if draw[4] < 0.2 else slant
    )
    return caption(asked, int(draw[5] * len(PHRASINGS)))


def as_pixels(images: Tensor) -> Tensor:
    """Turn grey images (n, 1, 32, 32) in 0..1 into the autoencoder's (n, 3, 32, 32) in -1..1."""
    return (images * 2 - 1).expand(-1, 3, -1, -1)


def _shifted(images: Tensor) -> Tensor:
    dy, dx = torch.randint(-2, 3, (2,)).tolist()
    return images.roll((dy, dx), dims=(2, 3))


def _token_ids(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    return tokenizer(
        list(texts), padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
