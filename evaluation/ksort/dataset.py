"""The K-Sort Eval data set on disk: instances of a prompt, four ranked images, their models.

The published layout is read as it is (arXiv 2602.09411): Image/<instance>/{0,1,2,3}.jpg with
result.json, and Image_meta/ with the leaderboard and the three arrays that matching needs. The
algorithm is in `evaluation.ksort.rating`.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluation.errors import EvaluationError
from evaluation.prompts import UNPRINTABLE
from evaluation.tables import read_json

LEADERBOARD = "Arena-Leaderboard-Image.json"
MODEL_KEY = "🤖 Model"
SCORE_KEY = "⭐ Score (μ/σ)"
# Names that the published instances and the published leaderboard spell differently; as in
# `arena.votes.formats.kwise`, which needs polars, and images are generated where there is none.
ALIASES = {"LCM": "LCM-v1.5", "Dreamshaper-xl-turbo": "Dreamshaper-xl"}
SCORE = re.compile(r"\S+\s+\((-?\d+\.?\d*(?:e-?\d+)?)/(\d+\.?\d*(?:e-?\d+)?)\)")


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
        """Read Image/<instance>/: result.json and the four images.

        Raises EvaluationError naming the file when something is amiss.
        """
        folder = self.root / "Image" / self.names[index]
        path = folder / "result.json"
        content = read_json(path)
        try:
            (prompt, *_), said = content["prompt"], content["img_rank"]
            ranks = tuple(float(rank) for rank in said)
            models = tuple(model_name(entry) for entry in content["models_name"])
            if UNPRINTABLE.search(prompt) or not all(map(math.isfinite, ranks)):
                raise ValueError
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise EvaluationError(
                f'{path}: expected {{"prompt": [text], "img_rank": [4 ranks], '
                f'"models_name": ["<prefix>_<model>", ...]}}'
            ) from error
        if len(ranks) != 4 or len(models) != 4:
            raise EvaluationError(f"{path}: expected 4 ranks and 4 models")
        for model in models:
            if model not in self.leaderboard:
                raise EvaluationError(f"{path}: model {model!r} is not in {LEADERBOARD}")
        images = tuple(find_image(folder, str(k)) for k in range(4))
        return Instance(folder.name, prompt, images, ranks, models)


def read_leaderboard(path: Path) -> dict[str, tuple[float, float]]:
    """Model -> (mu, sigma) from "score (mu/sigma)" entries."""
    ratings: dict[str, tuple[float, float]] = {}
    try:
        for row in read_json(path)["sorted_score_list"]:
            match = SCORE.fullmatch(row[SCORE_KEY].strip())
            mu, sigma = (float(match[1]), float(match[2])) if match else (0.0, 0.0)
            if not (sigma > 0 and math.isfinite(mu) and math.isfinite(sigma)):
                raise EvaluationError(
                    f'{path}: {row[MODEL_KEY]}: expected "score (mu/sigma)", got {row[SCORE_KEY]!r}'
                )
            ratings[row[MODEL_KEY]] = mu, sigma
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


def find_image(folder: Path, stem: str) -> Path:
    """Path of <stem>.jpg, .jpeg or .png in a folder; raises EvaluationError when none is there."""
    for suffix in (".jpg", ".png", ".jpeg"):
        if (path := folder / f"{stem}{suffix}").is_file():
            return path
    raise EvaluationError(f"{folder}: no image {stem}.png or {stem}.jpg")


def read_dataset(root: Path) -> Dataset:
    """Read a K-Sort Eval folder; raises EvaluationError naming the file that is not right.

    An instance is called by one plain name, because images are written under it.
    """
    meta = root / "Image_meta"
    if not meta.is_dir():
        raise EvaluationError(
            f"{root}: no folder Image_meta, so this is not a K-Sort Eval data set"
        )
    arrays = {}
    for name in ("avg_capacitys", "total_overlaps", "subfolders"):
        path = meta / f"{name}.npy"
        try:  # mapped: a header cannot ask for more memory than the file has
            arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise EvaluationError(f"{path}: cannot be read: {error}") from error
    capacity, overlap, folders = arrays.values()
    count = folders.size
    if (capacity.shape, overlap.shape, folders.shape) != ((count, 4), (count,), (count,)) or (
        not count or capacity.dtype.kind not in "iuf" or overlap.dtype.kind not in "iuf"
    ):
        raise EvaluationError(
            f"{meta}: shapes disagree: avg_capacitys {capacity.shape} should be numbers (n, 4), "
            f"total_overlaps {overlap.shape} numbers and subfolders {folders.shape} names (n,)"
        )
    names = tuple(str(name) for name in folders)
    for name in names:
        if name != Path(name).name or name in ("", "..") or "\0" in name:
            raise EvaluationError(
                f"{meta / 'subfolders.npy'}: {name!r} is not the name of a folder in Image/"
            )
    leaderboard = read_leaderboard(meta / LEADERBOARD)
    return Dataset(root, names, capacity.mean(axis=1), overlap.astype(float), leaderboard)
