"""The world that ships with the project: complete, small, and what its page says it is."""

import io
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from examples.miniature.captions import read_caption
from examples.miniature.digits import load_splits
from examples.miniature.generators import BASE
from examples.miniature.scorer import MiniatureScorer

WORLD = Path(__file__).parents[2] / "examples" / "miniature" / "world"


@pytest.fixture(scope="module")
def votes() -> pl.DataFrame:
    return pl.read_parquet(WORLD / "votes.parquet")


@pytest.fixture(scope="module")
def quality() -> pl.DataFrame:
    return pl.read_parquet(WORLD / "latent_quality.parquet")


def test_the_world_is_at_most_20_megabytes():
    assert sum(f.stat().st_size for f in WORLD.rglob("*") if f.is_file()) <= 20e6


def test_it_has_the_votes_prompts_and_generators_it_promises(votes: pl.DataFrame):
    assert votes.height >= 30_000
    assert votes["prompt_id"].n_unique() >= 300
    assert votes["model_a"].n_unique() >= 10
    assert BASE in votes["model_a"].unique()
    assert votes["vote_id"].is_unique().all()
    assert votes["source"].unique().to_list() == ["simulated raters"]
    assert set(votes["outcome"].unique()) == {"a", "b", "tie"}
    assert (votes["model_a"] == votes["model_b"]).any()


def test_an_image_meets_at_least_three_others_on_average(votes: pl.DataFrame):
    met = pl.concat(
        [votes.select("image_a", "image_b"), votes.select(image_a="image_b", image_b="image_a")]
    ).unique()
    images = pl.read_parquet(WORLD / "images.parquet", columns=["image"])
    assert met.height / images.height >= 3


def test_every_voted_image_is_there_and_is_a_32_pixel_png(votes: pl.DataFrame):
    images = pl.read_parquet(WORLD / "images.parquet")
    shown = set(votes["image_a"]) | set(votes["image_b"])
    assert shown <= set(images["image"])
    for data in images["bytes"].head(20):
        picture = Image.open(io.BytesIO(data))
        assert (picture.format, picture.size) == ("PNG", (32, 32))


def test_evaluation_prompts_ask_for_combinations_that_no_vote_was_about(votes: pl.DataFrame):
    evaluation = pl.read_parquet(WORLD / "evaluation_prompts.parquet")
    assert evaluation.height >= 100
    voted = {read_caption(text) for text in votes["prompt"].unique()}
    assert not voted & {read_caption(text) for text in evaluation["prompt"]}


def test_the_majority_of_votes_follows_the_latent_quality(
    votes: pl.DataFrame, quality: pl.DataFrame
):
    known = dict(quality.select("image", "quality").iter_rows())
    strict = votes.filter(pl.col("outcome") != "tie")
    difference = np.array(
        [known[a] - known[b] for a, b in strict.select("image_a", "image_b").iter_rows()]
    )
    agrees = (difference > 0) == (strict["outcome"] == "a").to_numpy()
    assert 0.6 < agrees.mean() < 0.95  # informative, and not without error
    clear = np.abs(difference) > 1.5
    assert agrees[clear].mean() > agrees.mean()


def test_the_base_is_in_the_middle_of_the_arena(quality: pl.DataFrame):
    order = quality.group_by("model").agg(pl.col("quality").mean()).sort("quality")["model"]
    place = order.to_list().index(BASE)
    assert 3 <= place <= len(order) - 4


def test_the_base_loads_as_stable_diffusion_and_draws_32_pixels():
    import torch
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(WORLD / "base")
    pipeline.set_progress_bar_config(disable=True)

    def draw() -> Image.Image:
        noise = torch.Generator().manual_seed(0)
        return pipeline(
            "a bold seven leaning right",
            num_inference_steps=5,
            guidance_scale=2.0,
            generator=noise,
        ).images[0]

    first = draw()
    assert first.size == (32, 32)
    assert first.tobytes() == draw().tobytes()


def test_the_scorer_tells_right_prompts_from_wrong_ones_on_real_digits():
    real = load_splits(0)["held_out"]
    scorer = MiniatureScorer(str(WORLD / "scorer"))
    pictures = [Image.fromarray((i * 255).astype(np.uint8)) for i in real.images]
    from examples.miniature.captions import Attributes, caption

    def mean_score(shift: tuple[int, int, int]) -> float:
        prompts = [
            caption(
                Attributes(int(d + shift[0]) % 10, int(w + shift[1]) % 3, int(s + shift[2]) % 3),
                0,
            )
            for d, w, s in zip(real.labels, real.weight, real.slant, strict=True)
        ]
        return float(scorer.score(prompts, pictures).mean())

    right = mean_score((0, 0, 0))
    assert right > 0.6
    for wrong in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        assert mean_score(wrong) < right - 0.2


def test_the_k_sort_data_set_has_the_published_layout():
    meta = WORLD / "ksort" / "Image_meta"
    folders = np.load(meta / "subfolders.npy")
    assert np.load(meta / "avg_capacitys.npy").shape == (len(folders), 4)
    assert np.load(meta / "total_overlaps.npy").shape == (len(folders),)
    rows = json.loads((meta / "Arena-Leaderboard-Image.json").read_text())["sorted_score_list"]
    known = {row["🤖 Model"] for row in rows}
    for folder in folders:
        place = WORLD / "ksort" / "Image" / str(folder)
        result = json.loads((place / "result.json").read_text())
        assert len(result["prompt"]) == 1
        assert len(result["img_rank"]) == 4
        assert {name.split("_")[1] for name in result["models_name"]} <= known
        assert all(Image.open(place / f"{i}.jpg").size == (32, 32) for i in range(4))


def test_the_three_splits_of_real_digits_share_no_image():
    splits = load_splits(0)
    seen = {name: {image.tobytes() for image in s.images} for name, s in splits.items()}
    assert sum(len(s.labels) for s in splits.values()) == 1797
    for one, other in combinations(seen.values(), 2):
        assert not one & other
