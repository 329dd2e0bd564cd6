"""Votes and their images in the published layouts: small, seeded, with the faults that are known.

| layout | taken from |
|---|---|
| Pick-a-Pic v2 | huggingface.co/datasets/yuvalkirstain/pickapic_v2, README.md: its `dataset_info` |
| its `no_images` | the same columns without jpg_0 and jpg_1: yuvalkirstain/pickapic_v2_no_images |
| its tars | webdataset's README: a sample's files share a name; a .json and an image each side |
| HPD v2 | huggingface.co/datasets/ymhao/HPDv2: train.json, in the folder of its images |
| HPD v3 | huggingface.co/datasets/MizzenAI/HPDv3: train.json beside images/, from images.tar.gz.* |
| an own table | the study's own `[votes] columns` and `outcomes`, images in folders beside it |
"""

import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

VOTES, PROMPTS, MODELS = 240, 60, 6
# Width and height: square, upright, wide, odd, smaller than what is trained on.
SHAPES = ((64, 64), (48, 72), (96, 56), (37, 41), (20, 30))
NOUNS = ("kite", "stone arch", "red teapot", "café", "lion", "harbour", "paper boat", "violin")
PLACES = ("at dawn", "in the rain", "on a hill", "under water", "made of glass", 'with "signs"')


@dataclass(frozen=True)
class World:
    """What the votes are about. votes: one row each; images: name -> bytes of a file."""

    votes: pl.DataFrame  # prompt, model_a, model_b, image_a, image_b, outcome, rater, created_at
    images: dict[str, bytes]


def prompts(n: int, offset: int = 0) -> list[str]:
    """Return n different prompts; other offsets give others."""
    return [
        f"a {NOUNS[i % len(NOUNS)]} {PLACES[i // len(NOUNS) % len(PLACES)]}, number {i}"
        for i in range(offset, offset + n)
    ]


def world(seed: int = 0, votes: int = VOTES, offset: int = 0) -> World:
    """Draw a world: later models win more often, one image of 20 has a fault or an odd mode.

    offset: the number of the first vote, so that a later delivery has other images.
    """
    random = np.random.default_rng([seed, offset])
    texts = prompts(PROMPTS)
    rows: list[dict[str, Any]] = []
    images: dict[str, bytes] = {}
    for number in range(offset, offset + votes):
        a, b = (int(x) for x in random.choice(MODELS, 2, replace=number % 40 == 39))
        sides = {}
        for side, model in (("a", a), ("b", b)):
            name = f"{number:05d}{side}"
            images[name] = odd(2 * number + (side == "b"), picture(random, model))
            sides[f"image_{side}"] = name
        better = (a - b) / 2 + random.normal()
        rows.append({
            "prompt": texts[number % PROMPTS], "model_a": f"model-{a}", "model_b": f"model-{b}",
            **sides, "outcome": "tie" if abs(better) < 0.2 else "a" if better > 0 else "b",
            "rater": number % 7,
            "created_at": datetime(2023, 5, 1) + timedelta(minutes=7 * number),
        })  # fmt: skip
    return World(pl.DataFrame(rows), images)


def unseen(n: int) -> World:
    """Draw n votes about prompts that the others do not have."""
    made = world(offset=9000, votes=n)
    return World(made.votes.with_columns(prompt=pl.Series(prompts(n, offset=1000))), made.images)


def picture(random: np.random.Generator, model: int) -> Image.Image:
    """Return a picture of one of many shapes; a better model draws with less noise."""
    width, height = SHAPES[random.integers(len(SHAPES))]
    low = Image.fromarray(random.integers(0, 256, (3, 3, 3), dtype=np.uint8))
    smooth = np.asarray(low.resize((width, height), Image.Resampling.BICUBIC), dtype=float)
    noisy = smooth + random.normal(0, 12 * (MODELS - model), smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def odd(number: int, image: Image.Image) -> bytes:
    """Return a file: most are plain JPEGs, of each 80 some have another mode, and four a fault."""
    made: dict[int, Callable[[], bytes]] = {
        3: lambda: encoded(image.convert("L")),
        7: lambda: encoded(image.convert("CMYK")),
        11: lambda: encoded(image.convert("RGBA"), "PNG"),
        17: lambda: encoded(image, "WEBP"),
        23: lambda: encoded(image, exif=rotated(6)),
        41: lambda: encoded(image)[:-200],
        53: lambda: b"<!DOCTYPE html><title>404</title>",
        67: lambda: b"",
        71: lambda: encoded(image, "GIF", save_all=True, append_images=[image.rotate(90)]),
    }
    return made.get(number % 80, lambda: encoded(image))()


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """Return the bytes of a picture's file."""
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def rotated(orientation: int) -> Image.Exif:
    """Return EXIF that says how a camera was held."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def write_pickapic(made: World, folder: Path, names: Sequence[str], *, images: bool = True) -> None:
    """Write Pick-a-Pic v2's columns in its order, cut into the named shards: parquets or tars.

    images: with the jpg bytes. One row in 30 has no label, as in the published validation split.
    """
    rows = []
    for number, vote in enumerate(made.votes.iter_rows(named=True)):
        uids = [f"{number:08x}-pick-{vote[f'image_{side}']}" for side in "ab"]
        labels = {"a": (1.0, 0.0), "b": (0.0, 1.0), "tie": (0.5, 0.5)}[vote["outcome"]]
        labelled = number % 30 != 29
        rows.append({
            "are_different": vote["outcome"] != "tie",
            "best_image_uid": {"a": uids[0], "b": uids[1], "tie": "tie"}[vote["outcome"]],
            "caption": vote["prompt"], "created_at": vote["created_at"], "has_label": labelled,
            "image_0_uid": uids[0], "image_0_url": f"https://text-to-image.invalid/{uids[0]}.png",
            "image_1_uid": uids[1], "image_1_url": f"https://text-to-image.invalid/{uids[1]}.png",
            "jpg_0": made.images[vote["image_a"]], "jpg_1": made.images[vote["image_b"]],
            "label_0": labels[0] if labelled else 0.0, "label_1": labels[1] if labelled else 0.0,
            "model_0": vote["model_a"], "model_1": vote["model_b"], "ranking_id": 1000 + number,
            "user_id": vote["rater"], "num_example_per_prompt": 4, "__index_level_0__": number,
        })  # fmt: skip
    table = pl.DataFrame(rows).with_columns(pl.col("created_at").dt.cast_time_unit("ns"))
    folder.mkdir(parents=True, exist_ok=True)
    for place, name in enumerate(names):
        part = table.gather_every(len(names), place)
        if name.endswith(".tar"):
            write_samples(part, folder / name)
        else:
            (part if images else part.drop("jpg_0", "jpg_1")).write_parquet(folder / name)


def write_samples(table: pl.DataFrame, file: Path) -> None:
    """Write each row as a sample of a webdataset tar: its images, and its other columns as JSON."""
    with tarfile.open(file, "w") as archive:
        for row in table.with_columns(pl.col(pl.Datetime).dt.strftime("%FT%T")).to_dicts():
            members = {name: row.pop(name) for name in ("jpg_0", "jpg_1")}
            for name, content in (members | {"json": json.dumps(row).encode()}).items():
                member = tarfile.TarInfo(f"{row['__index_level_0__']:09d}.{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def write_hpd_v2(made: World, file: Path) -> None:
    """Write HPD v2's train.json: pairs without names of models; a tie is a half for each."""
    said = {"a": [1, 0], "b": [0, 1], "tie": [0.5, 0.5]}
    records = [
        {
            "human_preference": said[vote["outcome"]],
            "prompt": vote["prompt"],
            "file_path": [f"{vote[f'image_{side}']}.jpg" for side in "ab"],
            "user_hash": f"{vote['rater']:064x}",
        }
        for vote in made.votes.iter_rows(named=True)
    ]
    write_images(made, file.parent, ".jpg")
    file.write_text(json.dumps(records))


def write_hpd_v3(made: World, file: Path, number: int = 0) -> None:
    """Write HPD v3: path1 is the preferred image, choice_dist how many chose each."""
    records = []
    for vote in made.votes.iter_rows(named=True):
        first, second = ("a", "b") if vote["outcome"] != "b" else ("b", "a")
        paths = [f"images/{vote[f'image_{side}']}.jpg" for side in (first, second)]
        counts = [10, 9] if vote["outcome"] == "tie" else [17, 2]
        records.append({
            "prompt": vote["prompt"], "path1": paths[0], "path2": paths[1],
            "confidence": counts[0] / sum(counts), "choice_dist": counts,
            "model1": vote[f"model_{first}"], "model2": vote[f"model_{second}"],
        })  # fmt: skip
    write_images(made, file.parent / "images", ".jpg")
    file.write_text(json.dumps(records))


def write_table(
    made: World, file: Path, columns: Mapping[str, str], words: Mapping[str, str]
) -> None:
    """Write an own table: the study's names of columns, its words for outcomes, images beside it.

    columns: a vote's column -> the table's; words: the table's word -> a, b or tie.
    """
    said = {meaning: word for word, meaning in reversed(list(words.items()))}
    table = made.votes.with_columns(
        pl.col("outcome").replace(said),
        pl.format("annotator{}@example.org", "rater").alias("rater"),
        *(pl.format("images/{}.jpg", name).alias(name) for name in ("image_a", "image_b")),
    )
    table = table.rename(dict(columns), strict=False)
    write_images(made, file.parent / "images", ".jpg")
    if file.suffix == ".parquet":
        table.write_parquet(file)
    elif file.suffix in (".jsonl", ".ndjson"):
        table.with_columns(pl.col(pl.Datetime).dt.strftime("%FT%TZ")).write_ndjson(file)
    elif file.suffix == ".json":
        rows = table.with_columns(pl.col(pl.Datetime).dt.strftime("%FT%TZ")).to_dicts()
        file.write_text(json.dumps(rows))
    else:
        table.write_csv(file)


def write_images(made: World, folder: Path, suffix: str) -> None:
    """Write the images as files of a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in made.images.items():
        (folder / f"{name}{suffix}").write_bytes(content)
