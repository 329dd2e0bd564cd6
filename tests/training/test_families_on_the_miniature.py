"""Every family learns from the miniature's own votes: `pytest --long`, some minutes each.

Each starts from a base that knows the images: the miniature's own for Stable Diffusion, and for the
others a tiny pipeline around the miniature's VAE that first learns to draw what won (`sft`).
"""

from pathlib import Path

import diffusers
import numpy as np
import polars as pl
import pytest
import tiny_pipelines
import torch

from arena.gaps.pairwise import pairwise_gaps
from arena.ratings.table import estimator
from replication.base import MINIATURE as WORLD
from training.building import build_pairs
from training.config import DataConfig, PolicyConfig
from training.families import open_family
from training.loop import train
from training.pairs import TrainingSet, open_pairs, write_pairs

SAVE = {
    "xl": tiny_pipelines.save_xl,
    "sd3": tiny_pipelines.save_sd3,
    "flux": tiny_pipelines.save_flux,
}
PROMPTS = 100
# Attention and what follows it; names that a family has not are not among its own.
LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2", "proj_out")
# Learning rates; at the general one these two agreed with no more than 60% of held-out votes.
HOW = {"full": 5e-4, "lora": 2e-3}
GENTLE = {("sd", "full"): 1e-4, ("sd3", "lora"): 1e-3}


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    """Votes on a hundred prompts, a fifth of these held out."""
    votes = pl.read_parquet(WORLD / "votes.parquet").filter(pl.col("outcome") != "tie")
    chosen = votes["prompt_id"].unique().sort().head(PROMPTS)
    votes = votes.filter(pl.col("prompt_id").is_in(chosen.implode()))
    gaps = pairwise_gaps(votes, estimator("trueskill").fit(votes))
    path = tmp_path_factory.mktemp("pairs") / "pairs.parquet"
    write_pairs(build_pairs(votes.to_arrow(), gaps.to_arrow(), held_out=0.2, seed=0), path)
    return open_pairs(path)


def run(base: Path, objective: str, out: Path, pairs: TrainingSet, **keys: object) -> dict:
    """Train a policy on the miniature's images."""
    config = PolicyConfig(
        name=objective, objective=objective, base=str(base), resolution=32, batch_size=32,
        warmup_steps=5, log_every=20, checkpoint_every=1000, **keys,
    )  # fmt: skip
    images, encoded = WORLD / "images.parquet", out.parent / "encoded"
    data = DataConfig(pairs=Path(), images=images, cache=encoded, held_out=0.2, split_seed=0)
    return train(config, data, pairs, out)


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory, pairs: TrainingSet) -> dict[str, Path]:
    """Return folders of pipelines that know the images, made when first asked for."""
    folder = tmp_path_factory.mktemp("bases")

    class Made(dict):
        def __missing__(self, name: str) -> Path:
            vae = diffusers.AutoencoderKL.from_pretrained(WORLD / "base" / "vae")
            vae.register_to_config(shift_factor=0.0)  # which the flow pipelines ask for
            base = SAVE[name](folder / name, vae)
            how = {"adaptation": "full", "steps": 300, "learning_rate": 2e-3}
            run(base, "sft", folder / f"{name}-drawn", pairs, **how)
            self[name] = folder / f"{name}-drawn" / "policy"
            return self[name]

    return Made(sd=WORLD / "base")


def image(pipeline: diffusers.DiffusionPipeline) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        "a neat seven", num_inference_steps=3, height=32, width=32, output_type="np",
        generator=torch.Generator().manual_seed(0),
    ).images[0]  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("adaptation", HOW)
@pytest.mark.parametrize("name", ["sd", *SAVE])
def test_held_out_votes_are_agreed_with(name, adaptation, bases, pairs, tmp_path) -> None:
    base = bases[name]
    family = open_family(str(base))
    layers = [n for n, _ in family.denoiser(torch.device("cpu")).named_modules()]
    rate = GENTLE.get((name, adaptation), HOW[adaptation])
    keys = {"adaptation": adaptation, "steps": 120, "learning_rate": rate}
    keys["targets"] = tuple(name for name in LAYERS if any(n.endswith(name) for n in layers))
    result = run(base, "arenapo", tmp_path / "out", pairs, beta_dpo=500.0, **keys)
    print(f"{name} {adaptation}: {result['held_out_accuracy']:.1%} of held-out votes")
    assert result["held_out_accuracy"] > 0.6
    kind, policy = getattr(diffusers, family.pipeline), tmp_path / "out" / "policy"
    before = image(kind.from_pretrained(base))
    if adaptation == "full":
        after = image(kind.from_pretrained(policy))
    else:
        pipeline = kind.from_pretrained(base)
        pipeline.load_lora_weights(policy)
        after = image(pipeline)
    assert np.abs(after - before).max() > 1e-3
