"""A K-Sort Eval data set from a study's own K-wise votes, in the published layout.

Each set of four images that people ranked becomes an instance; the ranks of several people are
averaged, and of a ranking of more than four images disjoint fours are taken. The leaderboard is
TrueSkill's free-for-all over every vote in its order, or the ratings that `arena fit` wrote.
Reading the layout is `evaluation.ksort.dataset`.
"""

import io
import json
import math
import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from arena.votes.images import ImageFault, Images
from evaluation.errors import EvaluationError
from evaluation.human_votes import Ranking
from evaluation.ksort.dataset import LEADERBOARD, MODEL_KEY, SCORE_KEY, model_name
from evaluation.ksort.rating import Environment
from evaluation.tables import read_table, write

MOST_INSTANCES = 500  # as many as the published data set keeps
Ratings = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Four:
    """Four images of a prompt by four models, with the mean of their ranks over `votes` people."""

    prompt: str
    images: tuple[str, ...]
    models: tuple[str, ...]
    ranks: tuple[float, ...]
    votes: int


def rate_models(rankings: Sequence[Ranking]) -> dict[str, tuple[float, float]]:
    """(mu, sigma) of each model: one free-for-all update a vote, in order."""
    environment = Environment()
    models = [model for one in rankings for model in one.models or ()]
    ratings = {model: environment.create_rating() for model in models}
    for one in rankings:
        if one.models is None or len(set(one.models)) < len(one.models):
            continue  # an unknown or doubled model cannot be rated by this vote
        groups = [(ratings[model],) for model in one.models]
        for model, (new,) in zip(one.models, environment.rate(groups, one.ranks), strict=True):
            ratings[model] = new
    return {model: (rating.mu, rating.sigma) for model, rating in ratings.items()}


def read_ratings(path: Path) -> dict[str, tuple[float, float]]:
    """(mu, sigma) of each model from ratings.parquet, as `python -m arena fit` writes it."""
    columns = read_table(path, ("model", "mu", "sigma")).to_pydict()
    rows = zip(columns["model"], columns["mu"], columns["sigma"], strict=True)
    return {str(model): (float(mu), float(sigma)) for model, mu, sigma in rows}


def fours_of(rankings: Sequence[Ranking], seed: int) -> list[Four]:
    """Every four of images that can be an instance, in order of first appearance.

    The images of a ranking are drawn into fours by its own prompt and images alone, so that
    everybody who ranked the same images is counted for the same instance.
    """
    found: dict[tuple[str, tuple[str, ...]], list[tuple[tuple[str, ...], np.ndarray]]] = {}
    for one in rankings:
        if one.models is None or len(one.images) < 4:
            continue
        model_of = dict(zip(one.images, one.models, strict=True))
        rank_of = dict(zip(one.images, one.ranks, strict=True))
        drawn = sorted(one.images)
        if len(drawn) > 4:
            random.Random(f"{seed}/{one.prompt}/{drawn}").shuffle(drawn)
        for start in range(0, len(drawn) - 3, 4):
            four = tuple(sorted(drawn[start : start + 4]))
            models = tuple(model_of[image] for image in four)
            if len(set(models)) == 4:
                ranks = np.array([rank_of[image] for image in four], dtype=float)
                order = (ranks[:, None] > ranks).sum(axis=1).astype(float)  # 0 to 3, ties share
                found.setdefault((one.prompt, four), []).append((models, order))
    return [
        Four(prompt, images, votes[0][0], tuple(np.mean([r for _, r in votes], axis=0)), len(votes))
        for (prompt, images), votes in found.items()
    ]


def overlap(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Bhattacharyya coefficient of two Gaussians (mu, sigma): 1 where equal, 0 where apart."""
    total = a[1] ** 2 + b[1] ** 2
    return math.sqrt(2 * a[1] * b[1] / total) * math.exp(-((a[0] - b[0]) ** 2) / (4 * total))


def names_on_disk(models: Sequence[str]) -> dict[str, str]:
    """The names that the layout gives back: it cuts entries at "_", so that becomes "-"."""
    names = {model: model_name(f"0_{model.replace('_', '-')}") for model in models}
    if len(set(names.values())) < len(names):
        doubled = sorted(name for name in names.values() if list(names.values()).count(name) > 1)
        raise EvaluationError(
            f"two models are both called {doubled[0]!r} in the layout, which has no '_' in names; "
            "rename one of them in the votes"
        )
    return names


def write_dataset(
    folder: Path,
    rankings: Sequence[Ranking],
    ratings: Ratings,
    source: Images,
    *,
    seed: int = 0,
    most: int = MOST_INSTANCES,
) -> int:
    """Write the data set into a new or empty folder; returns the number of instances.

    Raises EvaluationError when no vote ranks four images of four rated models.
    """
    if folder.exists() and any(folder.iterdir()):
        raise EvaluationError(f"{folder}: is not empty; give a new folder for the data set")
    fours = [
        four for four in fours_of(rankings, seed) if all(model in ratings for model in four.models)
    ]
    if not fours:
        raise EvaluationError(
            "no vote ranks four images of four models that are rated, so there is no instance; "
            "K-Sort Eval needs K-wise votes (prompt, models, images, ranks) with K of 4 or more"
        )
    chosen = sorted(random.Random(seed).sample(range(len(fours)), min(most, len(fours))))
    names = names_on_disk(list(ratings))
    aside = folder.parent / f".{folder.name}.part"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        for number, index in enumerate(chosen):
            write_instance(aside / "Image" / f"{number:04d}", fours[index], names, source)
        write_meta(aside / "Image_meta", [fours[index] for index in chosen], ratings, names)
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return len(chosen)


def write_instance(folder: Path, four: Four, names: Mapping[str, str], source: Images) -> None:
    """Write result.json and the four images, as JPEG because the published reader asks for it."""
    for k, image in enumerate(four.images):
        sink = io.BytesIO()
        try:
            picture = source.read(image)
        except ImageFault as error:
            raise EvaluationError(
                f"image {image!r}: {error}; give --images where the votes hold ids"
            ) from error
        picture.save(sink, format="JPEG", quality=95, subsampling=0)
        write(folder / f"{k}.jpg", sink.getvalue())
    content = {
        "prompt": [four.prompt],
        "img_rank": [int(rank) if rank == int(rank) else rank for rank in four.ranks],
        "models_name": [f"{folder.name}_{names[model]}" for model in four.models],
        "votes": four.votes,
    }
    write(folder / "result.json", json.dumps(content, ensure_ascii=False).encode())


def write_meta(
    folder: Path, fours: Sequence[Four], ratings: Ratings, names: Mapping[str, str]
) -> None:
    """Write the leaderboard, best score first, and the three arrays that matching needs."""
    ordered = sorted(ratings.items(), key=lambda item: 3 * item[1][1] - item[1][0])
    board = [
        {MODEL_KEY: names[model], SCORE_KEY: f"{mu - 3 * sigma:.2f} ({mu:.6f}/{sigma:.6f})"}
        for model, (mu, sigma) in ordered
    ]
    text = json.dumps({"sorted_score_list": board}, ensure_ascii=False, indent=1)
    write(folder / LEADERBOARD, text.encode())
    rated = [[ratings[model] for model in four.models] for four in fours]
    arrays = {
        "avg_capacitys": np.array([[mu for mu, _ in four] for four in rated]),
        "total_overlaps": np.array(
            [sum(overlap(*two) for two in combinations(f, 2)) for f in rated]
        ),
        "subfolders": np.array([f"{number:04d}" for number in range(len(fours))]),
    }
    for name, array in arrays.items():
        sink = io.BytesIO()
        np.save(sink, array)
        write(folder / f"{name}.npy", sink.getvalue())
