"""What serves: the champion is loaded as docs/pipeline.md says, and draws."""

import io

import numpy as np
import polars as pl
import pytest
from PIL import Image

from assets.champion import champion_of
from assets.tracking import Tracking
from pipelines.launch import Launcher
from pipelines.promotion import promote

pytestmark = pytest.mark.slow


def test_the_champion_is_loaded_by_diffusers_and_draws(
    write_study, instance, tiny_pipeline, votes_table, tmp_path
):
    import mlflow
    import torch
    from diffusers import DiffusionPipeline

    random = np.random.default_rng(0)
    votes = votes_table(60)
    names = pl.concat([votes["image_a"], votes["image_b"]]).unique().sort().to_list()

    def picture():
        stream = io.BytesIO()
        Image.fromarray(random.integers(0, 255, (32, 32, 3), np.uint8)).save(stream, "png")
        return stream.getvalue()

    images = pl.DataFrame({"image": names, "bytes": [picture() for _ in names]})
    images.write_parquet(tmp_path / "images.parquet")

    def with_a_real_model(text):
        text = text.replace('"./base"', f'"{tiny_pipeline}"')
        text = text.replace("steps = 3", "steps = 3\nrank = 2\nlearning_rate = 0.01")
        return text.replace('["votes.parquet"]', '["votes.parquet"]\nimages = "images.parquet"')

    study = write_study(with_a_real_model, votes)
    launcher = Launcher(study, instance, lambda line: None)
    launcher.rate()
    launcher.run("train_and_evaluate", ["policy"], "dpo")
    promote(study, instance, "dpo")
    assert champion_of(Tracking.of(study).client(), study.name).tags["policy"] == "dpo"

    folder = mlflow.artifacts.download_artifacts(
        "models:/small@champion", tracking_uri=f"sqlite:///{study.tracking.store}/mlflow.db"
    )
    pipeline = DiffusionPipeline.from_pretrained(study.base)
    pipeline.set_progress_bar_config(disable=True)

    def draw():
        noise = torch.Generator().manual_seed(0)
        options = {"num_inference_steps": 2, "generator": noise, "output_type": "np"}
        return pipeline("prompt 1", height=32, width=32, **options).images[0]

    before = draw()
    pipeline.load_lora_weights(folder)
    after = draw()
    assert after.shape == (32, 32, 3)
    assert np.isfinite(after).all()
    assert np.abs(after - before).max() > 1e-4  # the champion's weights, not the base's alone
