"""A small study with real images to vote about, and the page over it."""

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import small_study
from fastapi.testclient import TestClient
from PIL import Image, PngImagePlugin

from voting.asking import Asking
from voting.ballots import Ballots
from voting.gate import LOOPBACK_NAMES
from voting.guard import secret_of
from voting.server import build_app
from voting.study import open_study

HERE = "http://127.0.0.1:8000"
MODELS = ["flux", "sdxl", "sd3", "kolors", "pixart"]  # best first
STUDY = small_study.STUDY.replace('["votes.parquet"]', '["landing"]')


def picture(path: Path, seed: int, size: tuple[int, int] = (64, 48)) -> None:
    """Write a PNG of one colour with a stripe, whose metadata tells its model."""
    random = np.random.default_rng(seed)
    pixels = np.zeros((size[1], size[0], 3), np.uint8) + random.integers(0, 255, 3, dtype=np.uint8)
    pixels[:: 2 + seed % 5] = 255
    note = PngImagePlugin.PngInfo()
    note.add_text("parameters", f"secret {path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, pnginfo=note)


def make_study(folder: Path, prompts: int = 8, change: Callable[[str], str] = str) -> Path:
    """Write a study whose arena has `prompts` prompts with images of five models."""
    rows = []
    for p in range(prompts):
        for m, model in enumerate(MODELS):
            shape = ((64, 48), (48, 64), (64, 64))[p % 3]
            picture(folder / "images" / f"{model}-{p}.png", 10 * p + m, shape)
        for a, b in combinations(range(5), 2):
            rows.append(
                {
                    "vote_id": f"old-{p}-{a}-{b}",
                    "model_a": MODELS[a],
                    "model_b": MODELS[b],
                    "outcome": ("a", "a", "tie", "b")[(p + a + b) % 4],
                    "prompt": f"<b>drawing</b> {p}",
                    "image_a": f"../images/{MODELS[a]}-{p}.png",
                    "image_b": f"../images/{MODELS[b]}-{p}.png",
                }
            )
    landing = folder / "landing"
    landing.mkdir()
    (landing / "old.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "small.toml").write_text(change(STUDY))
    return folder / "small.toml"


def draw(folder: Path, model: str, seed: int, prompts: int = 4) -> Path:
    """Write the generations of a version, such as arenapo@3, as the pipeline leaves them."""
    policy = model.partition("@")[0]
    made = folder / "lake" / "generations" / policy / model
    for p in range(prompts):
        picture(made / "images" / f"{p}.png", seed + p)
    pl.DataFrame(
        {
            "policy": [policy] * prompts,
            "prompt_id": [str(p) for p in range(prompts)],
            "prompt": [f"evaluation {p}" for p in range(prompts)],
            "image": [f"images/{p}.png" for p in range(prompts)],
        }
    ).write_parquet(made / "images.parquet")
    (made / "model.txt").write_text(model)
    (made.parent / "current").write_text(model)
    return made


def page(study: Path, invited: bool = False) -> tuple[Asking, Any]:
    """Return the questions of a study and the application over them."""
    opened = open_study(study)
    asking = Asking(opened, secret_of(opened.state), Ballots(opened.landing))
    return asking, build_app(asking, LOOPBACK_NAMES, invited)


def client(app: Any) -> TestClient:
    """Return a browser of its own, on loopback."""
    return TestClient(app, base_url=HERE, client=("127.0.0.1", 50000))


def written(folder: Path, kind: str = "votes") -> list[dict[str, Any]]:
    """Return the page's votes that lie in the landing folder."""
    files = sorted((folder / "landing").glob(f"{kind}-*.jsonl"))
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]
