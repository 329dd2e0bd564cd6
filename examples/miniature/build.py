"""The whole world, one step after the other: the story that `python -m examples.miniature` tells.

Each step is another module's work; here is only their order, and what is written where.
"""

import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path

import numpy as np
import polars as pl
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image

from examples.miniature.captions import evaluation_prompts, voted_prompts
from examples.miniature.digits import Digits, load_splits
from examples.miniature.generators import BASE, GENERATORS, NETWORKS, Generator, png, sample
from examples.miniature.judge import Judge
from examples.miniature.ksort import Instance, leaderboard, write_ksort
from examples.miniature.model import (
    assemble,
    make_scheduler,
    make_text_encoder,
    make_tokenizer,
    make_unet,
    make_vae,
)
from examples.miniature.page import write_page
from examples.miniature.pretraining import (
    Latents,
    encode_digits,
    train_text_encoder,
    train_unet,
    train_vae,
)
from examples.miniature.raters import Entrant, vote
from examples.miniature.scorer import train_scorer


@dataclass(frozen=True)
class Plan:
    """How much of everything: the full world by default."""

    classifier_steps: int = 500
    text_steps: int = 400
    vae_steps: int = 900
    unet_share: float = 1.0  # of the steps in `generators`
    prompts: int = 360
    votes: int = 32_000
    instances: int = 90
    kwise_votes: int = 2_000


QUICK = Plan(
    classifier_steps=100,
    text_steps=100,
    vae_steps=80,
    unet_share=0.03,
    prompts=24,
    votes=1_500,
    instances=6,
    kwise_votes=60,
)


def say(text: str) -> None:
    """Tell progress on stderr; the worker processes speak too."""
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def build(out: Path, plan: Plan, seed: int) -> None:
    """Build the world into the folder `out`, the same for the same plan, seed and machine.

    Two worker processes of one thread each do the heavy work: with networks this small, two
    threads in one process mostly wait for each other.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context, torch.set_num_threads, (1,)) as workers:
        _build(out, plan, seed, workers)


def _build(out: Path, plan: Plan, seed: int, workers: ProcessPoolExecutor) -> None:
    splits = load_splits(seed)
    say("real digits: " + ", ".join(f"{len(d.labels)} {name}" for name, d in splits.items()))
    other = splits["scorer"]
    learning_to_judge = workers.submit(Judge, splits["held_out"], plan.classifier_steps, seed + 2)
    learning_to_score = workers.submit(
        train_scorer, other.images, other.labels, out / "scorer", plan.classifier_steps, seed + 1
    )

    pipelines = _pretrain(plan, seed, splits["training"], workers)
    judge = learning_to_judge.result()
    learning_to_score.result()
    pipelines[BASE].save_pretrained(out / "base")

    voted, evaluation = voted_prompts(), evaluation_prompts()
    if plan.prompts < voted.height:
        voted = voted.sample(plan.prompts, seed=seed).sort("prompt_id")
    evaluation.write_parquet(out / "evaluation_prompts.parquet")

    rows: list[dict] = []
    ordered = [pipelines[g.name] for g in GENERATORS]
    for drawn in workers.map(_images, ordered, GENERATORS, repeat(voted), repeat(judge)):
        rows += drawn
        quality = np.mean([row["quality"] for row in drawn])
        say(f"{drawn[0]['model']}: {len(drawn)} images, mean quality {quality:.2f}")
    images = pl.DataFrame(rows)
    images.select("image", "bytes", "prompt_id", "model").write_parquet(
        out / "images.parquet", compression="zstd"
    )
    images.drop("bytes").write_parquet(out / "latent_quality.parquet", compression="zstd")

    entrants = {g.name: Entrant(g.day, g.popularity) for g in GENERATORS}
    votes = vote(images, entrants, plan.votes, seed)
    votes.write_parquet(out / "votes.parquet", compression="zstd", compression_level=12)
    say(f"{votes.height} votes by simulated raters")

    ratings = leaderboard(images, plan.kwise_votes, seed + 3)
    instances = _instances(pipelines, evaluation, plan.instances, judge, seed)
    write_ksort(
        out / "ksort", instances, ratings, float(images["quality"].to_numpy().std()), seed + 4
    )
    write_page(out, {name: len(d.labels) for name, d in splits.items()}, images, votes, ratings)
    say(f"{len(instances)} K-Sort instances; the world is in {out}")


def _pretrain(
    plan: Plan, seed: int, real: Digits, workers: ProcessPoolExecutor
) -> dict[str, StableDiffusionPipeline]:
    """Train what the generators are made of, and return each one's pipeline."""
    tokenizer = make_tokenizer()
    text_encoder = make_text_encoder(tokenizer)
    train_text_encoder(tokenizer, text_encoder, plan.text_steps, seed)
    vae = make_vae()
    pixels = torch.from_numpy(real.images).float().unsqueeze(1)
    train_vae(vae, pixels, plan.vae_steps, seed, say)
    say("autoencoder: scaling factor {scaling_factor}".format(**vae.config))
    data = encode_digits(real, tokenizer, text_encoder, vae)

    unets: dict[tuple[str, int], UNet2DConditionModel] = {}
    names = list(NETWORKS)
    for kept in workers.map(_train_network, names, repeat(data), repeat(plan), repeat(seed)):
        unets |= kept
    return {
        g.name: assemble(tokenizer, text_encoder, vae, unets[g.network, g.step]) for g in GENERATORS
    }


def _train_network(
    name: str, data: Latents, plan: Plan, seed: int
) -> dict[tuple[str, int], UNet2DConditionModel]:
    """Train one UNet and return its released checkpoints by (network, step)."""

    def share(steps: int) -> int:
        return max(1, round(steps * plan.unet_share))

    torch.manual_seed(seed)
    network = NETWORKS[name]
    keep = {g.step: share(g.step) for g in GENERATORS if g.network == name}
    kept = train_unet(
        make_unet(network.channels),
        make_scheduler(),
        data,
        [replace(phase, steps=share(phase.steps)) for phase in network.phases],
        list(keep.values()),
        seed,
        lambda text: say(f"{name}: {text}"),
    )
    return {(name, step): kept[short] for step, short in keep.items()}


def _images(
    pipeline: StableDiffusionPipeline, generator: Generator, prompts: pl.DataFrame, judge: Judge
) -> list[dict]:
    """Draw a generator's images of every prompt: a row each, with bytes and latent quality."""
    rows = [
        {"image": f"{prompt_id}-{generator.name}-{k}", "prompt_id": prompt_id, "prompt": prompt}
        for prompt_id, prompt in prompts.iter_rows()
        for k in range(generator.seeds)
    ]
    texts = [row["prompt"] for row in rows]
    drawn = sample(pipeline, generator, texts, [row["image"] for row in rows])
    qualities = judge.quality(texts, drawn)
    return [
        {
            **row,
            "model": generator.name,
            "bytes": png(image),
            **{name: values[i] for name, values in qualities.items()},
        }
        for i, (row, image) in enumerate(zip(rows, drawn, strict=True))
    ]


def _instances(
    pipelines: dict[str, StableDiffusionPipeline],
    prompts: pl.DataFrame,
    count: int,
    judge: Judge,
    seed: int,
) -> list[Instance]:
    """Draw four models for each of `count` held-out prompts, and their images."""
    rng = np.random.default_rng(seed)
    chosen = prompts.sample(count, seed=seed).sort("prompt_id")
    names = [g.name for g in GENERATORS]
    fours = [[names[i] for i in rng.choice(len(names), 4, replace=False)] for _ in range(count)]
    drawn: dict[tuple[str, str], Image.Image] = {}
    for generator in GENERATORS:
        mine = [
            row
            for row, four in zip(chosen.iter_rows(), fours, strict=True)
            if generator.name in four
        ]
        if not mine:
            continue
        keys = [f"{prompt_id}-{generator.name}-0" for prompt_id, _ in mine]
        images = sample(pipelines[generator.name], generator, [p for _, p in mine], keys)
        drawn |= {
            (prompt_id, generator.name): image
            for (prompt_id, _), image in zip(mine, images, strict=True)
        }
    instances = []
    for (prompt_id, prompt), four in zip(chosen.iter_rows(), fours, strict=True):
        images = [drawn[prompt_id, model] for model in four]
        qualities = judge.quality([prompt] * 4, images)["quality"]
        instances.append(Instance(prompt, four, images, qualities))
    return instances
