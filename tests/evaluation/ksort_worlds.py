"""Random K-Sort Eval data sets, on disk in the published layout or in memory, and judges."""

import io
import json
import math
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from evaluation.ksort.dataset import Dataset, Instance
from evaluation.ksort.judges import Question

BETA = 25 / 6  # spread of one image about its model's ability, TrueSkill's default
MARGIN = 0.7404  # differences below this are ties: TrueSkill's default for 10% draws


@cache
def encoded(colour: tuple[int, int, int], suffix: str) -> bytes:
    """A small image of one colour."""
    sink = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(sink, {"jpg": "JPEG", "png": "PNG"}[suffix])
    return sink.getvalue()


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
            (folder / f"{k}.{suffix}").write_bytes(encoded((i % 256, 40 * k, 0), suffix))
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
        (root / f"{folder.name}.png").write_bytes(encoded((0, 0, 200), "png"))
    return root


@dataclass(frozen=True)
class World(Dataset):
    """A data set in memory in which TrueSkill's assumptions hold.

    A leaderboard that knows each model's ability up to its own sigma, one performance an image,
    people who rank by performance and tie what is closer than the margin.
    """

    instances: tuple[Instance, ...]
    performance: np.ndarray  # (n, 4), of the instances' images

    def instance(self, index: int) -> Instance:
        return self.instances[index]


def ranks_of(performance: np.ndarray) -> list[float]:
    """Ranks from 0, best first; neighbours closer than the margin tie."""
    order = np.argsort(-performance)
    ranks = [0.0] * len(order)
    for place in range(1, len(order)):
        near = performance[order[place - 1]] - performance[order[place]] < MARGIN
        ranks[order[place]] = ranks[order[place - 1]] if near else float(place)
    return ranks


def make_world(rng: np.random.Generator, image: Path, instances: int, models: int = 14) -> World:
    """Draw a world; every instance shows the same image file, as its judges do not look."""
    names = [f"Model-{i}" for i in range(models)]
    mu, sigma = rng.normal(25, 4, models), rng.uniform(0.6, 1.2, models)
    ability = rng.normal(mu, sigma)
    fours = [rng.choice(models, 4, replace=False) for _ in range(instances)]
    performance = np.array([ability[four] + rng.normal(0, BETA, 4) for four in fours])
    return World(
        root=image.parent,
        names=tuple(str(i) for i in range(instances)),
        capacity=np.array([mu[four].mean() for four in fours]),
        overlap=np.array(
            [sum(overlap(mu, sigma, a, b) for a, b in combinations(four, 2)) for four in fours]
        ),
        leaderboard={name: (mu[i], sigma[i]) for i, name in enumerate(names)},
        instances=tuple(
            Instance(str(i), "", (image,) * 4, tuple(ranks), tuple(names[j] for j in four))
            for i, (four, ranks) in enumerate(zip(fours, map(ranks_of, performance), strict=True))
        ),
        performance=performance,
    )


def overlap(mu: np.ndarray, sigma: np.ndarray, a: int, b: int) -> float:
    total = sigma[a] ** 2 + sigma[b] ** 2
    return math.sqrt(2 * sigma[a] * sigma[b] / total) * math.exp(
        -((mu[a] - mu[b]) ** 2) / 4 / total
    )


class PerfectJudge:
    """Sees the performance of all five images; the new model's has mean `ability`."""

    def __init__(self, world: World, ability: float, rng: np.random.Generator):
        self.world, self.ability, self.rng = world, ability, rng

    def rank(self, question: Question) -> list[float]:
        known = self.world.performance[int(question.instance)]
        return ranks_of(np.append(known, self.rng.normal(self.ability, BETA)))

    def summary(self):
        return {"name": "perfect"}


class RandomJudge:
    """Ranks without looking."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng

    def rank(self, question: Question) -> list[float]:
        return [float(rank) for rank in self.rng.permutation(5)]

    def summary(self):
        return {"name": "random"}
