"""What serves: the champion is loaded by the lines of docs/guide/pipeline.md, and draws."""

import io
import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from assets.model_registry import champion_of
from assets.tracking import Tracking
from pipelines.chain import chain_of
from pipelines.launch import Launcher
from pipelines.promotion import promote

pytestmark = pytest.mark.slow


def documented(study):
    """Return the docs' lines that load the champion, over this study's store."""
    docs = (Path(__file__).parents[2] / "docs" / "guide" / "pipeline.md").read_text()
    lines = re.search(r"What serves:\n\n((?:    .*\n|\n)+)", docs).group(1)
    code = "\n".join(line[4:] for line in lines.splitlines())
    assert "load_model" in code
    code = code.replace("miniature@", f"{study.name}@")
    return re.sub(r"sqlite:///[^\"]+", Tracking.of(study).uri, code)


def test_the_champion_is_loaded_by_diffusers_and_draws(
    write_study, instance, tiny_pipeline, votes_table, tmp_path, warm_python
):
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
        text = text.replace('["votes.parquet"]', '["votes.parquet"]\nimages = "images.parquet"')
        return f"{text}\n[jobs]\nlaunch = {json.dumps(warm_python)}\n"

    study = write_study(with_a_real_model, votes)
    launcher = Launcher(study, instance, lambda line: None)
    launcher.rate()
    launcher.run("train_and_evaluate", ["policy"], "dpo")
    promote(study, chain_of(study), instance, "dpo")
    assert champion_of(Tracking.of(study).client(), study.name).tags["policy"] == "dpo"

    def draw(pipeline):
        pipeline.set_progress_bar_config(disable=True)
        noise = torch.Generator().manual_seed(0)
        options = {"num_inference_steps": 2, "generator": noise, "output_type": "np"}
        return pipeline("prompt 1", height=32, width=32, **options).images[0]

    before = draw(DiffusionPipeline.from_pretrained(study.base))
    found = {}
    exec(documented(study), found)
    after = draw(found["pipeline"])
    assert after.shape == (32, 32, 3)
    assert np.isfinite(after).all()
    assert np.abs(after - before).max() > 1e-4  # the champion's weights, not the base's alone
