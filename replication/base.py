"""What every run of the study shares, made once and kept: the base model and the judge.

The base is the miniature's pipeline with a smaller UNet, pretrained on the same real digits, so
that a run takes seconds. The judge gives an image the same latent quality that the arena's images
have (examples/miniature/world/latent_quality.parquet).
"""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from examples.miniature.judge import Judge

MINIATURE = Path(__file__).parents[1] / "examples" / "miniature" / "world"
CHANNELS = (16, 32)
PRETRAINING_STEPS = 700
JUDGE_STEPS = 500  # as the miniature's own judge, so that qualities are on one scale
SEED = 0
Say = Callable[[str], None]


def base_model(cache: Path, say: Say, steps: int = PRETRAINING_STEPS) -> Path:
    """Return the folder of the base pipeline, pretrained now where it is not there yet.

    Of no steps it is the miniature's own base model.
    """
    if not steps:
        return MINIATURE / "base"
    folder = cache / f"base-{steps}"
    if not folder.exists():
        aside = folder.with_name(f".{folder.name}.{os.getpid()}")
        _pretrain(aside, steps, say)
        aside.replace(folder)
    return folder


def judge(cache: Path, say: Say, steps: int = JUDGE_STEPS) -> Judge:
    """Return the judge of latent quality, who learns now where the cache has none."""
    from examples.miniature.digits import load_splits

    path = cache / f"judge-{steps}.pickle"
    if not path.exists():
        say("the judge looks at real digits")
        path.parent.mkdir(parents=True, exist_ok=True)
        made = Judge(load_splits(SEED)["held_out"], steps, SEED + 2)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        aside.write_bytes(pickle.dumps(made))
        aside.replace(path)
    return pickle.loads(path.read_bytes())


def _pretrain(folder: Path, steps: int, say: Say) -> None:
    """Train the small UNet by noise prediction beside the miniature's other parts."""
    from diffusers import StableDiffusionPipeline

    from examples.miniature.digits import load_splits
    from examples.miniature.model import make_scheduler, make_unet
    from examples.miniature.pretraining import Phase, encode_digits, train_unet

    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(MINIATURE / "base", folder)
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    digits = load_splits(SEED)["training"]
    data = encode_digits(digits, pipeline.tokenizer, pipeline.text_encoder, pipeline.vae)
    torch.manual_seed(SEED)
    unet = make_unet(CHANNELS)
    phases = [Phase(steps, random_words=0.3)]
    kept = train_unet(unet, make_scheduler(), data, phases, [steps], SEED, say)
    kept[steps].save_pretrained(folder / "unet")
