"""A toy study for the training tests: winners are bright, losers dark, and the prompt says so."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import several

from training.building import build_pairs
from training.config import ObjectiveName


def png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


@dataclass(frozen=True)
class Toy:
    """Files of a toy study, and its pairs as a table."""

    folder: Path
    study: Path
    pairs: Path
    images: Path

    def write_study(self, path: Path, base: Path, **train: object) -> Path:
        """Write a study over this toy's data; `train` replaces keys of [train]."""
        keys = {
            "adaptation": "lora", "rank": 4, "steps": 4, "batch_size": 4, "learning_rate": 1e-3,
            "warmup_steps": 2, "beta_dpo": 200.0, "gamma": 0.5, "checkpoint_every": 2,
            "log_every": 2, **train,
        }  # fmt: skip
        lines = [f"{k} = {json.dumps(v)}" for k, v in keys.items()]
        names = get_args(ObjectiveName)
        policies = [f'[[policy]]\nname = "{name}"\nobjective = "{name}"' for name in names]
        path.write_text(
            f"""
            [study]
            name = "toy"
            seed = 0
            [lake]
            root = "lake"
            [votes]
            sources = ["votes.parquet"]
            images = "{self.images}"
            [training_set]
            pairs = "{self.pairs}"
            held_out = 0.25
            [cache]
            root = "{self.folder / "cache"}"
            [model]
            base = "{base}"
            resolution = 32
            [train]
            """
            + "\n".join([*lines, "[[policy]]", 'name = "base"', *policies])
            + "\n[generation]\nsteps = 2\n"
        )
        return path


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> Toy:
    """48 votes over 12 prompts; image w* of a pair is bright and image l* dark."""
    folder = tmp_path_factory.mktemp("toy")
    random = np.random.default_rng(0)
    n = 48
    noise = random.integers(0, 40, (2 * n, 32, 32, 3))
    images = {f"w{i}": png((noise[i] + 200).astype(np.uint8)) for i in range(n)}
    images |= {f"l{i}": png(noise[n + i].astype(np.uint8)) for i in range(n)}
    pq.write_table(
        pa.table({"image": list(images), "bytes": pa.array(list(images.values()), pa.binary())}),
        folder / "images.parquet",
    )
    a_wins = random.random(n) < 0.5
    votes = pa.table(
        {
            "vote_id": [f"v{i}" for i in range(n)],
            "prompt": [f"a bright square {i % 12}" for i in range(n)],
            "image_a": [f"w{i}" if a else f"l{i}" for i, a in enumerate(a_wins)],
            "image_b": [f"l{i}" if a else f"w{i}" for i, a in enumerate(a_wins)],
            "model_a": ["good" if a else "bad" for a in a_wins],
            "model_b": ["bad" if a else "good" for a in a_wins],
            "outcome": ["a" if a else "b" for a in a_wins],
        }
    )
    gaps = pa.table(
        {
            "vote_id": votes["vote_id"],
            "gap": random.uniform(1.0, 5.0, n),
            "gap_sd": np.ones(n),
            "probability": random.uniform(0.3, 0.95, n),
        }
    )
    pq.write_table(build_pairs(votes, gaps, held_out=0.25, seed=0), folder / "pairs.parquet")
    made = Toy(folder, folder / "toy.toml", folder / "pairs.parquet", folder / "images.parquet")
    made.write_study(made.study, tiny_pipeline)
    return made


@pytest.fixture
def train_in_two(warm_python: list[str]) -> Callable[..., str]:
    """Return `several.train_in_two`, in processes that have loaded torch already."""
    return partial(several.train_in_two, warm_python)
