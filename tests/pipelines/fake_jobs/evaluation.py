"""Stands in for the evaluation job: small pictures of noise, and scores around a stated quality.

`fake.json` in the working directory gives each policy's quality; the noise follows the weights and
the prompt alone.
"""

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import polars as pl
from dagster_pipes import open_dagster_pipes
from PIL import Image

parser = argparse.ArgumentParser()
parser.add_argument("command")
parser.add_argument("images", nargs="*", type=Path)
options = ("base", "name", "policy", "prompts", "dataset", "judge", "ksort", "scorer", "resolution")
for name in options:
    parser.add_argument(f"--{name}")
parser.add_argument("--images", dest="folder")
parser.add_argument("--out", type=Path)
options, _ = parser.parse_known_args()
fake = json.loads(Path("fake.json").read_text())


def noise(*of: object) -> np.random.Generator:
    digest = hashlib.sha256(json.dumps([str(each) for each in of]).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def generate() -> str:
    Path("drawn.json").write_text(json.dumps(vars(options), default=str))
    prompts = pl.read_parquet(options.prompts).select("prompt_id", "prompt")
    (options.out / "images").mkdir(exist_ok=True)
    weights = Path(options.policy or ".") / "pytorch_lora_weights.safetensors"
    content = weights.read_bytes().hex() if weights.exists() else ""
    names = [f"images/{prompt_id}-0.png" for prompt_id in prompts["prompt_id"]]
    for name in names:
        pixels = noise(content, name).integers(0, 255, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(options.out / name)
    table = prompts.with_columns(
        policy=pl.lit(options.name), seed=pl.lit(0, pl.Int64), image=pl.Series(names)
    )
    table.write_parquet(options.out / "images.parquet")
    if options.name in fake.get("loses_a_picture", ()):
        (options.out / names[0]).unlink()
    return hashlib.sha256(content.encode()).hexdigest()


def score() -> str:
    table = pl.concat(pl.read_parquet(path) for path in options.images)
    scores = [
        fake["quality"].get(policy, 0.5) + float(noise(policy, prompt).normal(scale=0.1))
        for policy, prompt in table.select("policy", "prompt").iter_rows()
    ]
    table.with_columns(miniature=pl.Series(scores)).write_parquet(options.out)
    return hashlib.sha256(options.out.read_bytes()).hexdigest()


def ksort() -> str:
    one = {"instance": "Image/0", "ranks": [1, 2, 3, 4, 5], "rho": 1.0, "mu": 25.0, "sigma": 0.7}
    result = {"mu": 25.0, "sigma": 0.7, "score": 22.9, "rounds": [one]}
    options.out.write_text(json.dumps(result))
    return hashlib.sha256(options.out.read_bytes()).hexdigest()


with open_dagster_pipes() as context:
    version = {"generate": generate, "score": score, "ksort": ksort}[options.command]()
    context.report_asset_materialization(metadata={"made": 1}, data_version=version)
