"""One run: a policy trained on one drawing of a world, and what its images are worth.

`training.loop.train` trains it and `evaluation.generate` draws its images, from the same noise for
every policy; the judge of the arena's images scores them. So the reward is what the votes were
about, which no scorer of real images could promise.
"""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from PIL.Image import Image

from examples.miniature.judge import Judge
from replication.base import MINIATURE, base_model, judge
from replication.gaps import pairs_of
from replication.world import WORLDS
from training.config import DataConfig, ObjectiveName, PolicyConfig
from training.loop import train
from training.pairs import TrainingSet, open_pairs

Gap = Literal[
    "none", "one", "shuffled", "pairwise", "predictive", "capability", "clipped", "joint", "signed",
    "models", "oracle", "estimate-25", "estimate-50", "estimate-75",
    "truth-25", "truth-50", "truth-75", "dealt", "weights", "favourites",
]  # fmt: skip

FIRST_SEED = {"run": 0, "tune": 1000}  # by command
# Of everything that is compared; costs are measured over fewer steps.
STEPS = 80
LEARNING_RATE = 1e-4
WARMUP_STEPS = 8
REFERENCE_DRAWS = 8  # the policies of one world and seed share the reference's errors
HELD_OUT = tuple(pl.read_parquet(MINIATURE / "evaluation_prompts.parquet")["prompt"])


@dataclass(frozen=True)
class Scale:
    """How large every run is; the toy of the tests is smaller.

    pretraining_steps: of the small base model, or 0: the miniature's own, trained by LoRA.
    """

    batch_size: int = 16
    images_per_prompt: int = 1
    sampling_steps: int = 8
    pretraining_steps: int = 700
    judge_steps: int = 500


# The world `miniature`: trained and drawn as its own study does (experiments/miniature.toml), but
# for more steps.
WHOLE = Scale(batch_size=32, images_per_prompt=2, sampling_steps=20, pretraining_steps=0)
WHOLE_STEPS, WHOLE_LEARNING_RATE, WHOLE_WARMUP_STEPS, WHOLE_RANK = 300, 1e-3, 20, 16


def scale_of(world: str) -> Scale:
    """Return how large the runs of a world are."""
    return WHOLE if world == "miniature" else Scale()


def length_of(world: str) -> tuple[int, float]:
    """Return steps and learning rate of a world's runs."""
    whole = world == "miniature"
    return (WHOLE_STEPS, WHOLE_LEARNING_RATE) if whole else (STEPS, LEARNING_RATE)


@dataclass(frozen=True)
class Run:
    """One cell of the matrix. gap: whose gap, or the control that stands in its place."""

    world: str
    objective: ObjectiveName
    gap: Gap
    gamma: float
    beta_dpo: float
    seed: int
    # "tuning" or "main": their seeds never meet (`FIRST_SEED`). Main seeds too: "equal", at one
    # setting that was given and not tuned, "spread", with `spread` as well; "curve", tuned, at
    # other numbers of steps; "trained", judged by the prompts that were voted about; "rate tuning",
    # and "rate" and "rate beta", judged by one and the other half of the held-out prompts
    # (`replication.rates`).
    split: str
    steps: int = STEPS
    learning_rate: float = LEARNING_RATE
    spread: float = 0.0  # of the gaps, in units of their mean (`PolicyConfig.margin_spread`)

    def key(self, scale: Scale) -> str:
        """Name the run by everything that its result depends on."""
        text = json.dumps([asdict(self), asdict(scale)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Result:
    """What is kept of a run: mean quality on the prompts asked, of the policy and of the base.

    They are held out, but for a run of the split `trained`: then those that were voted about.
    win_rate: the share of images better than the base's of the same prompt and
    noise, equal ones half. train_seconds: the training loop alone; seconds: the whole run.
    """

    reward: float
    base_reward: float
    win_rate: float
    train_seconds: float
    seconds: float


def execute(run: Run, scale: Scale, cache: Path) -> Result:
    """Train, draw and judge one policy."""
    begun = time.monotonic()
    base = base_model(cache, _silent, scale.pretraining_steps)
    images, train_seconds = trained_images(run, scale, cache)
    after = qualities(images, scale, cache)
    before = _base_qualities(base, prompts_of(run, cache), scale, cache)
    wins = (after > before) + 0.5 * (after == before)
    return Result(
        reward=float(after.mean()),
        base_reward=float(before.mean()),
        win_rate=float(wins.mean()),
        train_seconds=train_seconds,
        seconds=time.monotonic() - begun,
    )


def trained_images(run: Run, scale: Scale, cache: Path) -> tuple[list[tuple[str, Image]], float]:
    """Train a policy; return what it draws for the run's prompts, and the loop's seconds."""
    base = base_model(cache, _silent, scale.pretraining_steps)
    pairs, config, data = prepared(run, scale, cache, base)
    work = Path(tempfile.mkdtemp(dir=cache))
    try:
        trained = train(config, data, pairs, work / "run")
        return drawn(base, work / "run" / "policy", prompts_of(run, cache), scale), trained[
            "seconds"
        ]
    finally:
        shutil.rmtree(work)


def prepared(
    run: Run, scale: Scale, cache: Path, base: Path
) -> tuple[TrainingSet, PolicyConfig, DataConfig]:
    """Return what `training.loop.train` takes: the pairs with the run's gap, and the settings."""
    # The two controls keep a gap's distribution and take away what it says of its own pair.
    dealt = {"shuffled": "joint", "dealt": "pairwise"}
    column = ({"none": "pairwise", "one": "pairwise"} | dealt).get(run.gap, run.gap)
    pairs = open_pairs(pairs_of(WORLDS[run.world], run.seed, cache), f"{column}_gap")
    whole = not scale.pretraining_steps
    config = PolicyConfig(
        name=f"{run.objective}-{run.gap}",
        objective=run.objective,
        base=str(base),
        resolution=32,
        adaptation="lora" if whole else "full",
        rank=WHOLE_RANK,
        steps=run.steps,
        batch_size=scale.batch_size,
        learning_rate=run.learning_rate,
        warmup_steps=WHOLE_WARMUP_STEPS if whole else WARMUP_STEPS,
        beta_dpo=run.beta_dpo,
        gamma=run.gamma,
        reference_draws=REFERENCE_DRAWS,
        margin_spread=run.spread,
        shuffle_gaps=run.gap in dealt,
        seed=run.seed,
        checkpoint_every=run.steps,
        log_every=run.steps,
    )
    images = MINIATURE / "images.parquet"
    encoded = cache / "encoded"
    data = DataConfig(pairs=Path(), images=images, cache=encoded, held_out=0.0, split_seed=0)
    return pairs, config, data


def prompts_of(run: Run, cache: Path) -> tuple[str, ...]:
    """Return the prompts whose images make a run's reward."""
    if run.split != "trained":
        if run.split == "rate tuning":
            return HELD_OUT[::2]
        return HELD_OUT[1::2] if run.split in ("rate", "rate beta") else HELD_OUT
    voted = pl.read_parquet(pairs_of(WORLDS[run.world], run.seed, cache), columns=["prompt"])
    return tuple(voted["prompt"].unique().sort())


def drawn(
    base: Path, policy: Path | None, prompts: Sequence[str], scale: Scale
) -> list[tuple[str, Image]]:
    """Return prompt and image of a policy, or of the base itself, `images_per_prompt` of each."""
    from evaluation.generate import Settings, draw, prompt_targets
    from evaluation.policies import find_policy, load_pipeline

    targets = prompt_targets([(text, text) for text in prompts], scale.images_per_prompt, 0, Path())
    settings = Settings(scale.sampling_steps, guidance=2.0, seed=0, resolution=32)
    pipeline = load_pipeline(find_policy(str(base), str(policy) if policy else None), "cpu")
    images = [
        image
        for start in range(0, len(targets), 64)
        for image in draw(pipeline, targets[start : start + 64], settings, 32)
    ]
    return [(target.prompt, image) for target, image in zip(targets, images, strict=True)]


def qualities(images: Sequence[tuple[str, Image]], scale: Scale, cache: Path) -> np.ndarray:
    """Return the latent quality of what was `drawn`, (n,)."""
    judge = _judge(cache, scale.judge_steps)
    return np.array(judge.quality(*map(list, zip(*images, strict=True)))["quality"])


@lru_cache(1)
def _base_qualities(base: Path, prompts: tuple[str, ...], scale: Scale, cache: Path) -> np.ndarray:
    return qualities(drawn(base, None, prompts, scale), scale, cache)


@lru_cache(1)
def _judge(cache: Path, steps: int) -> Judge:
    return judge(cache, _silent, steps)


def _silent(_: str) -> None:
    """Say nothing: what is shared was made before."""
