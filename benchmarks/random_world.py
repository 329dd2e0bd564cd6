"""A random model of Stable Diffusion 1.5's shape, random images and pairs, for training.py."""

import argparse
import io
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

PROMPTS = 16


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
            norm_num_groups=math.gcd(32, *narrow(128)),
            sample_size=options.resolution,
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokens), hidden_size=text_width, intermediate_size=4 * text_width,
                num_hidden_layers=12, num_attention_heads=12, eos_token_id=1, bos_token_id=0,
            )
        ),
        tokenizer=CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77),
        unet=UNet2DConditionModel(
            sample_size=options.resolution // 8,
            block_out_channels=narrow(320, 640, 1280, 1280),
            cross_attention_dim=text_width,
            norm_num_groups=math.gcd(32, *narrow(320)),
        ),
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder / "base")  # fmt: skip

    side, n = options.resolution, options.pairs
    random = np.random.default_rng(0)
    contents = []
    for _ in range(2 * n):
        buffer = io.BytesIO()
        pixels = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(buffer, "png")
        contents.append(buffer.getvalue())
    names = [str(i) for i in range(2 * n)]
    pq.write_table(pa.table({"image": names, "bytes": contents}), folder / "images.parquet")
    pairs = {
        "vote_id": names[:n],
        "prompt": ["an image " * 8 + letters[i % PROMPTS] for i in range(n)],
        "image_winner": names[:n], "image_loser": names[n:],
        "model_winner": ["a"] * n, "model_loser": ["b"] * n,
        "gap": np.linspace(0.5, 1.5, n), "gap_sd": np.ones(n),
        "probability": np.full(n, 0.5), "split": ["train"] * n,
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
        resolution = {options.resolution}
        [train]
        adaptation = "{options.adaptation}"
        batch_size = {options.batch_size}
        [[policy]]
        name = "arenapo"
        objective = "arenapo"
    """)
