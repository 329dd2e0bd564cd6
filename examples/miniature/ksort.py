"""The world's own K-Sort Eval data set, in the published layout (arXiv 2602.09411).

`Image/<instance>/{0..3}.jpg` and `result.json`, and the leaderboard and matching tables under
`Image_meta/`. The ranks are the simulated raters'. Running K-Sort Eval is `evaluation.ksort`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image
from trueskill import Rating, TrueSkill

from examples.miniature.raters import make_raters, rank


@dataclass(frozen=True)
class Instance:
    """One prompt, four models' images of it, and their latent quality."""

    prompt: str
    models: Sequence[str]
    images: Sequence[Image.Image]
    qualities: Sequence[float]


def leaderboard(images: pl.DataFrame, rounds: int, seed: int) -> dict[str, Rating]:
    """Rate the models by K-wise votes: each ranks four models' images of one prompt, at once.

    `images` has prompt_id, model and quality. Ratings are on TrueSkill's own scale, and one
    free-for-all update is made for each vote.
    """
    rng = np.random.default_rng(seed)
    raters = make_raters(rng, float(images["quality"].to_numpy().std()))
    arena = TrueSkill()
    ratings = {model: arena.create_rating() for model in sorted(images["model"].unique())}
    pools = [
        pool.unique("model", keep="first", maintain_order=True)
        for pool in images.partition_by("prompt_id", maintain_order=True)
    ]
    for _ in range(rounds):
        pool = pools[rng.integers(len(pools))]
        four = pool[rng.choice(pool.height, 4, replace=False).tolist()]
        ranks = rank(rng, raters[rng.integers(len(raters))], four["quality"].to_list())
        groups = [(ratings[model],) for model in four["model"]]
        for model, (new,) in zip(four["model"], arena.rate(groups, ranks), strict=True):
            ratings[model] = new
    return ratings


def write_ksort(
    folder: Path,
    instances: Sequence[Instance],
    ratings: Mapping[str, Rating],
    spread: float,
    seed: int,
) -> None:
    """Write the data set; `spread` is the standard deviation of quality, which scales the noise."""
    rng = np.random.default_rng(seed)
    raters = make_raters(rng, spread)
    names = [f"{i:03d}" for i in range(len(instances))]
    for name, instance in zip(names, instances, strict=True):
        place = folder / "Image" / name
        place.mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(instance.images):
            image.convert("RGB").save(place / f"{i}.jpg", quality=95, subsampling=0)
        result = {
            "prompt": [instance.prompt],
            "img_rank": rank(rng, raters[rng.integers(len(raters))], instance.qualities),
            "models_name": [f"miniature_{model}" for model in instance.models],
        }
        (place / "result.json").write_text(json.dumps(result, indent=1) + "\n")

    meta = folder / "Image_meta"
    meta.mkdir(parents=True, exist_ok=True)
    (meta / "Arena-Leaderboard-Image.json").write_text(_leaderboard_json(ratings))
    four = [[ratings[model] for model in instance.models] for instance in instances]
    np.save(meta / "avg_capacitys.npy", np.array([[r.mu for r in group] for group in four]))
    overlaps = [sum(overlap(a, b) for a, b in combinations(group, 2)) for group in four]
    np.save(meta / "total_overlaps.npy", np.array(overlaps))
    np.save(meta / "subfolders.npy", np.array(names))


def overlap(a: Rating, b: Rating) -> float:
    """Return the Bhattacharyya coefficient of two ratings: 1 for equal ones, 0 for apart."""
    total = a.sigma**2 + b.sigma**2
    height = np.sqrt(2 * a.sigma * b.sigma / total)
    return float(height * np.exp(-((a.mu - b.mu) ** 2) / (4 * total)))


def _leaderboard_json(ratings: Mapping[str, Rating]) -> str:
    ordered = sorted(ratings.items(), key=lambda item: 3 * item[1].sigma - item[1].mu)
    rows = [
        {
            "🤖 Model": model,
            "⭐ Score (μ/σ)": f"{r.mu - 3 * r.sigma:.2f} ({r.mu:.2f}/{r.sigma:.2f})",
        }
        for model, r in ordered
    ]
    return json.dumps({"sorted_score_list": rows}, indent=1, ensure_ascii=False) + "\n"
