"""Random K-Sort Eval data sets in the published layout, for the tests of the algorithm."""

import json
from pathlib import Path

import numpy as np
from PIL import Image


def write_dataset(
    root: Path, rng: np.random.Generator, instances: int, models: int = 12, suffix: str = "jpg"
) -> dict[str, float]:
    """Write a data set whose human ranks follow planted abilities; returns model -> ability."""
    names = [f"Model-{i}" for i in range(models)]
    ability = dict(zip(names, rng.normal(25, 4, models), strict=True))
    sigma = dict(zip(names, rng.uniform(0.6, 1.2, models), strict=True))
    meta = root / "Image_meta"
    meta.mkdir(parents=True)
    board = [
        {
            "🤖 Model": name,
            "⭐ Score (μ/σ)": f"{ability[name] - 3 * sigma[name]:.2f} "
            f"({ability[name]:.4f}/{sigma[name]:.4f})",
        }
        for name in sorted(names, key=lambda name: -ability[name])
    ]
    (meta / "Arena-Leaderboard-Image.json").write_text(json.dumps({"sorted_score_list": board}))
    folders, capacities = [], []
    for i in range(instances):
        four = [names[j] for j in rng.choice(models, 4, replace=False)]
        performance = np.array([ability[name] + rng.normal(0, 25 / 6) for name in four])
        folder = root / "Image" / f"sample_{i:04d}"
        folder.mkdir(parents=True)
        for k in range(4):
            Image.new("RGB", (8, 8), (i % 256, 40 * k, 0)).save(folder / f"{k}.{suffix}")
        content = {
            "prompt": [f"prompt number {i}"],
            "img_rank": [int(rank) for rank in (-performance).argsort().argsort()],
            "models_name": [f"{i}_{name}_x" for name in four],
        }
        (folder / "result.json").write_text(json.dumps(content))
        folders.append(folder.name)
        capacities.append([ability[name] for name in four])
    np.save(meta / "subfolders.npy", np.array(folders))
    np.save(meta / "avg_capacitys.npy", np.array(capacities))
    np.save(meta / "total_overlaps.npy", rng.uniform(0, 6, instances))
    return ability


def write_new_images(root: Path, dataset: Path) -> Path:
    """Write an image of the new model for every instance."""
    root.mkdir(parents=True)
    for folder in (dataset / "Image").iterdir():
        Image.new("RGB", (8, 8), (0, 0, 200)).save(root / f"{folder.name}.png")
    return root
