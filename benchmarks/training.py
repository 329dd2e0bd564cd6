"""Our training step beside the plain one of the public Diffusion-DPO scripts.

    python benchmarks/training.py [--steps 5] [--batch-size 4] [--adaptation lora|full] [--width 4]

The plain step encodes both images and the caption at every step and holds a second UNet; ours
reads cached latents and embeddings and, for LoRA, switches the adapter off. Both get one model of
Stable Diffusion 1.5's shape with its widths divided by `--width` (random weights serve), the same
pairs, batch, precision (fp32), optimiser and device, each in a process of its own. Printed: pairs a
second (from the median step after one that warms up), peak memory beyond the libraries' own, and
the ratios. How good the policy becomes is not measured here: tests/training shows that our step
equals a plain one.
"""

import argparse
import copy
import io
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

RESOLUTION = 128
PROMPTS = 16
PAIRS = 64


def main() -> None:
    """Build the model and the pairs, time each step in its own process, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=4, help="pairs")
    parser.add_argument("--adaptation", choices=("lora", "full"), default="lora")
    parser.add_argument("--width", type=int, default=4, help="SD 1.5's widths are divided by it")
    parser.add_argument("--only", choices=("encode", "plain", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder), options)
        found = {}
        for which in ("encode", "plain", "ours"):
            command = [sys.executable, *sys.argv, "--only", which, "--folder", folder]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[which] = json.loads(done.stdout.splitlines()[-1])
    found.pop("encode")  # what ours has done once, before the first of its runs
    print(f"{'':8}{'pairs/s':>10}{'ms a step':>12}{'peak MiB':>10}")
    for which, row in found.items():
        rate, ms, mib = row["rate"], 1000 * row["seconds"], row["memory"]
        print(f"{which:8}{rate:10.2f}{ms:12.0f}{mib:10.0f}")
    speed = found["ours"]["rate"] / found["plain"]["rate"]
    memory = found["ours"]["memory"] / found["plain"]["memory"]
    print(f"{'ratio':8}{speed:9.2f}x{'':12}{memory:9.2f}x")


def build(folder: Path, options: argparse.Namespace) -> None:
    """Write a random pipeline of SD 1.5's shape, random images and pairs, and a study over them."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from PIL import Image
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    def narrow(*widths: int) -> list[int]:
        return [width // options.width for width in widths]

    (text_width,) = narrow(768)
    letters = [chr(i) for i in range(97, 123)]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{x}</w>" for x in letters)]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=narrow(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            sample_size=RESOLUTION,
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokens), hidden_size=text_width, intermediate_size=4 * text_width,
                num_hidden_layers=12, num_attention_heads=12, eos_token_id=1, bos_token_id=0,
            )
        ),
        tokenizer=CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77),
        unet=UNet2DConditionModel(
            sample_size=RESOLUTION // 8,
            block_out_channels=narrow(320, 640, 1280, 1280),
            cross_attention_dim=text_width,
            norm_num_groups=16,
        ),
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder / "base")  # fmt: skip

    random = np.random.default_rng(0)
    contents = []
    for _ in range(2 * PAIRS):
        buffer = io.BytesIO()
        pixels = random.integers(0, 256, (RESOLUTION, RESOLUTION, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(buffer, "png")
        contents.append(buffer.getvalue())
    names = [str(i) for i in range(2 * PAIRS)]
    pq.write_table(pa.table({"image": names, "bytes": contents}), folder / "images.parquet")
    pairs = {
        "vote_id": names[:PAIRS],
        "prompt": ["an image " * 8 + letters[i % PROMPTS] for i in range(PAIRS)],
        "image_winner": names[:PAIRS], "image_loser": names[PAIRS:],
        "model_winner": ["a"] * PAIRS, "model_loser": ["b"] * PAIRS,
        "gap": np.linspace(0.5, 1.5, PAIRS), "gap_sd": np.ones(PAIRS),
        "probability": np.full(PAIRS, 0.5), "split": ["train"] * PAIRS,
    }  # fmt: skip
    pq.write_table(pa.table(pairs), folder / "pairs.parquet")
    (folder / "study.toml").write_text(f"""
        [lake]
        root = "lake"
        [votes]
        images = "images.parquet"
        [training_set]
        pairs = "pairs.parquet"
        [model]
        base = "base"
        resolution = {RESOLUTION}
        [train]
        adaptation = "{options.adaptation}"
        batch_size = {options.batch_size}
        [[policy]]
        name = "arenapo"
        objective = "arenapo"
    """)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Time one kind of step in this process; what is computed once is not in the time."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel  # noqa: F401
    from peft import LoraConfig  # noqa: F401
    from transformers import CLIPTextModel  # noqa: F401

    from training.config import policy_config
    from training.loop import rows_of_step, step_generator

    libraries = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    config = policy_config(options.folder / "study.toml", "arenapo")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    make = plain_step if options.only == "plain" else our_step
    step = make(options.folder, config, device)
    if options.only == "encode":
        return {}
    seconds = []
    for i in range(options.steps + 1):
        rows = rows_of_step(0, i, config.batch_size, PAIRS)
        begun = time.perf_counter()
        step(i, rows, step_generator(0, i, device))
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    median = statistics.median(seconds[1:])
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - libraries) / 1024
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated() / 2**20
    return {"seconds": median, "rate": config.batch_size / median, "memory": memory}


def our_step(folder: Path, config: Any, device: Any) -> Callable[..., None]:
    """The step of training/loop.py, over inputs that an earlier process has cached."""
    import torch

    from training import cache
    from training.families import open_family
    from training.learner import Batch, Learner
    from training.pairs import open_pairs

    family = open_family(config.base)
    pairs = open_pairs(folder / "pairs.parquet")
    kept = (folder / "cache", config.resolution, torch.float32, device, print)
    latents, _ = cache.latents(family, pairs.images, folder / "images.parquet", *kept)
    prompts = cache.prompt_embeddings(
        family, pairs.prompts, folder / "cache", torch.float32, device, print
    )
    learner = Learner(config, family, device)

    def step(i: int, rows: np.ndarray, generator: Any) -> None:
        taken = pairs.train.rows(rows)
        winner, loser = latents.take(taken.winner), latents.take(taken.loser)
        tensors = (winner, loser, prompts.take(taken.prompt), torch.from_numpy(taken.gap))
        learner.step(i, Batch(*(tensor.to(device) for tensor in tensors)), generator)

    return step


def plain_step(folder: Path, config: Any, device: Any) -> Callable[..., None]:
    """The step of the public scripts: everything encoded again, a second UNet resident."""
    import torch
    import torch.nn.functional as F
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from PIL import Image
    from transformers import CLIPTextModel, CLIPTokenizer

    base = folder / "base"
    vae = AutoencoderKL.from_pretrained(base / "vae").to(device).requires_grad_(False)
    text_encoder = CLIPTextModel.from_pretrained(base / "text_encoder").to(device)
    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
    schedule = DDPMScheduler.from_pretrained(base / "scheduler")
    unet = UNet2DConditionModel.from_pretrained(base / "unet").to(device)
    reference = copy.deepcopy(unet).requires_grad_(False)
    if config.adaptation == "lora":
        from peft import LoraConfig

        unet.requires_grad_(False)
        unet.add_adapter(
            LoraConfig(r=config.rank, lora_alpha=config.rank, target_modules=list(config.targets))
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

    def step(i: int, rows: np.ndarray, generator: Any) -> None:
        batch = [pairs[row] for row in rows]
        images = [p["image_winner"] for p in batch] + [p["image_loser"] for p in batch]
        with torch.no_grad():
            stack = torch.stack([pixels(image) for image in images]).to(device)
            latents = vae.encode(stack).latent_dist.sample() * vae.config.scaling_factor
            tokens = tokenizer(
                [p["prompt"] for p in batch], padding="max_length", return_tensors="pt"
            )
            texts = text_encoder(tokens.input_ids.to(device))[0].repeat(2, 1, 1)
        noise = torch.randn(latents[: len(rows)].shape, generator=generator, device=device).repeat(
            2, 1, 1, 1
        )
        t = torch.randint(0, 1000, (len(rows),), generator=generator, device=device).repeat(2)
        noisy = schedule.add_noise(latents, noise, t)
        errors = (unet(noisy, t, texts).sample - noise).square().mean(dim=(1, 2, 3))
        with torch.no_grad():
            output = reference(noisy, t, texts).sample
            reference_errors = (output - noise).square().mean(dim=(1, 2, 3))
        winner, loser = (errors - reference_errors).chunk(2)
        gap = torch.tensor([p["gap"] for p in batch], device=device)
        inside = -0.5 * config.beta_dpo * (winner - loser)
        loss = -F.logsigmoid(inside - config.gamma * gap).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step


if __name__ == "__main__":
    main()
