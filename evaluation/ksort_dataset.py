"""The K-Sort Eval data set on disk: instances of a prompt, four ranked images, their models.

The published layout is read as it is (arXiv 2602.09411): Image/<instance>/{0,1,2,3}.jpg with
result.json, and Image_meta/ with the leaderboard and the three arrays that matching needs. The
algorithm is in `evaluation.ksort`.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.errors import EvaluationError
from evaluation.tables import read_text

LEADERBOARD = "Arena-Leaderboard-Image.json"
MODEL_KEY = "🤖 Model"
SCORE_KEY = "⭐ Score (μ/σ)"
# Names that the published instances and the published leaderboard spell differently; as in
# `arena.votes.formats.kwise`, which needs polars, and images are generated where there is none.
ALIASES = {"LCM": "LCM-v1.5", "Dreamshaper-xl-turbo": "Dreamshaper-xl"}
SCORE = re.compile(r"^\S+\s+\((-?[\d.]+(?:e-?\d+)?)/([\d.]+(?:e-?\d+)?)\)$")


@dataclass(frozen=True)
class Instance:
    """A prompt with four images of known models and the ranks people gave them (low is good)."""

    name: str
    prompt: str
    images: tuple[Path, ...]
    human_ranks: tuple[float, ...]
    models: tuple[str, ...]


@dataclass(frozen=True)
class Dataset:
    """A folder's instances, in the order of its arrays.

    capacity : (n,) mean capability of the instance's four models.
    overlap : (n,) how much the four models' ratings overlap; large means little is learned.
    leaderboard : model -> (mu, sigma).
    """

    root: Path
    names: tuple[str, ...]
    capacity: np.ndarray
    overlap: np.ndarray
    leaderboard: dict[str, tuple[float, float]]

    def instance(self, index: int) -> Instance:
        """Read one instance; raises EvaluationError naming its file when something is amiss."""
        return read_instance(self.root / "Image" / self.names[index], self.leaderboard)

    def prompts(self) -> list[tuple[str, str]]:
        """(instance, prompt) of every instance, in the order of the arrays."""
        return [(name, self.instance(i).prompt) for i, name in enumerate(self.names)]


def read_json(path: Path) -> Any:
    """Read a JSON file; raises EvaluationError naming it when absent or malformed."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{path}: cannot be read: {error}") from error


def read_leaderboard(path: Path) -> dict[str, tuple[float, float]]:
    """Model -> (mu, sigma) from "score (mu/sigma)" entries."""
    ratings: dict[str, tuple[float, float]] = {}
    try:
        for row in read_json(path)["sorted_score_list"]:
            match = SCORE.match(row[SCORE_KEY].strip())
            if match is None:
                raise EvaluationError(
                    f'{path}: {row[MODEL_KEY]}: expected "score (mu/sigma)", got {row[SCORE_KEY]!r}'
                )
            ratings[row[MODEL_KEY]] = (float(match[1]), float(match[2]))
    except (KeyError, TypeError, AttributeError) as error:
        raise EvaluationError(
            f'{path}: expected {{"sorted_score_list": [{{"{MODEL_KEY}": name, '
            f'"{SCORE_KEY}": "score (mu/sigma)"}}]}}'
        ) from error
    if not ratings:
        raise EvaluationError(f"{path}: holds no model")
    return ratings


def model_name(entry: str) -> str:
    """Name on the leaderboard of an instance's entry "<prefix>_<model>[_...]"."""
    name = entry.split("_")[1]
    return ALIASES.get(name, name)


def read_instance(folder: Path, leaderboard: dict[str, tuple[float, float]]) -> Instance:
    """Read Image/<instance>/: result.json and the four images."""
    path = folder / "result.json"
    content = read_json(path)
    try:
        prompt = content["prompt"][0]
        ranks = tuple(float(rank) for rank in content["img_rank"])
        models = tuple(model_name(entry) for entry in content["models_name"])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise EvaluationError(
            f'{path}: expected {{"prompt": [text], "img_rank": [4 ranks], '
            f'"models_name": ["<prefix>_<model>", ...]}}'
        ) from error
    if len(ranks) != 4 or len(models) != 4:
        raise EvaluationError(f"{path}: expected 4 ranks and 4 models")
    for model in models:
        if model not in leaderboard:
            raise EvaluationError(f"{path}: model {model!r} is not in {LEADERBOARD}")
    images = tuple(find_image(folder, str(k)) for k in range(4))
    return Instance(folder.name, prompt, images, ranks, models)


def find_image(folder: Path, stem: str) -> Path:
    """Path of <stem>.jpg, .jpeg or .png in a folder; raises EvaluationError when none is there."""
    for suffix in (".jpg", ".png", ".jpeg"):
        if (path := folder / f"{stem}{suffix}").is_file():
            return path
    raise EvaluationError(f"{folder}: no image {stem}.png or {stem}.jpg")


def read_dataset(root: Path) -> Dataset:
    """Read a K-Sort Eval folder; raises EvaluationError naming the file that is not right."""
    meta = root / "Image_meta"
    if not meta.is_dir():
        raise EvaluationError(
            f"{root}: no folder Image_meta, so this is not a K-Sort Eval data set"
        )
    arrays = {}
    for name in ("avg_capacitys", "total_overlaps", "subfolders"):
        path = meta / f"{name}.npy"
        try:
            arrays[name] = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise EvaluationError(f"{path}: cannot be read: {error}") from error
    names = tuple(str(name) for name in arrays["subfolders"])
    capacity, overlap = arrays["avg_capacitys"], arrays["total_overlaps"]
    if capacity.shape != (len(names), 4) or overlap.shape != (len(names),) or not names:
        raise EvaluationError(
            f"{meta}: shapes disagree: avg_capacitys {capacity.shape} should be (n, 4), "
            f"total_overlaps {overlap.shape} and subfolders {arrays['subfolders'].shape} (n,)"
        )
    leaderboard = read_leaderboard(meta / LEADERBOARD)
    return Dataset(root, names, capacity.mean(axis=1), overlap.astype(float), leaderboard)
