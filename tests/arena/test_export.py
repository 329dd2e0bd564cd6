"""Pairs for other trainers, each layout read back the way its trainer's loader reads.

The loaders, at the commits that were read:
  huggingface/diffusers      examples/research_projects/diffusion_dpo/train_diffusion_dpo.py
                             071190daca865a4d04deac0e02cda5b8c5d6f6fa, and _sdxl.py
                             03ea18cc7e2cabbbf28e413d48021f957b2822da
  X-GenGroup/Flow-Factory    src/flow_factory/data_utils/dataset.py
                             a0b2bc5a2b4fbf9125429b3fb70c0c5d7631047c
  bghira/SimpleTuner         documentation/experimental/FLOW_DPO.md and simpletuner/helpers/
                             image_manipulation/training_sample.py
                             bc8e6ab7738ce457a2ed8eb2d26cadd91c6442cb
  verl-project/verl-omni     verl_omni/utils/dataset/offline_dpo_dataset.py
                             a1139bafffb5b9711f0a6b6edff8ecaa60bfff30
"""

import io
import json
import os
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from PIL import Image

from arena.__main__ import main
from arena.export import export_pairs
from arena.layouts import LAYOUTS
from arena.ratings.trueskill import TrueSkill
from arena.schema import VOTES
from arena.votes.images import Images

RED, BLUE, GREEN = (250, 0, 0), (0, 0, 250), (0, 250, 0)


@pytest.fixture
def images(tmp_path):
    """A folder with a JPEG, a PNG of another size, one that lies on its side, and no picture."""
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (32, 24), RED).save(folder / "red.png")
    Image.new("RGB", (32, 24), GREEN).save(folder / "green.png")
    Image.new("RGB", (40, 40), BLUE).save(folder / "blue.jpg", quality=95)
    side, exif = Image.new("RGB", (24, 32), RED), Image.Exif()
    side.putpixel((0, 0), BLUE)
    exif[0x0112] = 6
    side.save(folder / "side.png", exif=exif)
    (folder / "page.jpg").write_text("<html>")
    return Images(root=folder)


@pytest.fixture
def votes():
    rows = [
        ("v1", "M", "N", "a", "a cat", "red.png", "green.png", "train"),
        ("v2", "M", "N", "b", "a cat\nand a dog", "blue.jpg", "red.png", None),
        ("v3", "M", "N", "tie", "a cat", "red.png", "green.png", "train"),
        ("v4", "N", "M", "a", "a hat", "side.png", "green.png", "validation"),
        ("v5", "M", "N", "a", None, "red.png", "green.png", "train"),
        ("v6", "M", "N", "a", "a hat", "red.png", None, "train"),
        ("v7", "M", "N", "a", "a hat", "page.jpg", "green.png", "train"),
        ("v8", "M", "N", "a", "a hat", "red.png", "green.png", "train"),
    ]
    columns = ["vote_id", "model_a", "model_b", "outcome", "prompt", "image_a", "image_b", "split"]
    made = pl.DataFrame(rows, columns, orient="row")
    absent = {name: pl.lit(None, kind) for name, kind in VOTES.items() if name not in columns}
    return made.with_columns(**absent).select(list(VOTES))


@pytest.fixture
def gaps():
    """v8 has no gap; the training split's mean over v1, v2 and v7 is 2."""
    ids = ["v7", "v6", "v5", "v4", "v3", "v2", "v1", "v8"]
    gap = [2.0, 9.0, 9.0, 5.0, 0.1, 1.0, 3.0, None]
    return pl.DataFrame({"vote_id": ids, "gap": gap, "gap_sd": [0.5] * 8})


def colour(image):
    return tuple(int(v) for v in np.asarray(image.convert("RGB"))[-1, -1])


def near(image, wanted):
    return np.abs(np.array(colour(image)) - wanted).max() <= 8


def test_what_is_no_pair_is_counted_and_the_first_broken_image_is_named(
    votes, gaps, images, tmp_path
):
    export = export_pairs(votes, gaps, "diffusers", tmp_path / "out", images)
    assert export.pairs == {"train": 2, "validation": 1}
    assert export.mean_gap == 2.0
    assert export.left_out == {
        "ties": 1,
        "without a prompt": 1,
        "without both images": 1,
        "without a gap": 1,
        "with an image that cannot be read": 1,
    }
    assert "pairs: 3 (2 train, 1 validation)" in str(export)
    assert "page.jpg: no picture of a known format" in str(export)


def test_diffusers_reads_bytes_a_label_and_a_caption_by_split(votes, gaps, images, tmp_path):
    export_pairs(votes, gaps, "diffusers", tmp_path / "out", images)
    # load_dataset(folder) takes a split from data/<split>-<shard>-of-<shards>.parquet.
    files = sorted(path.name for path in (tmp_path / "out" / "data").iterdir())
    assert files == ["train-00000-of-00001.parquet", "validation-00000-of-00001.parquet"]
    examples = pq.read_table(tmp_path / "out" / "data" / files[0]).to_pydict()
    preferred = []
    for zero, one, label_0 in zip(
        examples["jpg_0"], examples["jpg_1"], examples["label_0"], strict=True
    ):
        pair = [Image.open(io.BytesIO(each)).convert("RGB") for each in (zero, one)]
        if label_0 == 0:
            pair = pair[::-1]
        preferred.append(pair)
    assert near(preferred[0][0], RED)
    assert near(preferred[0][1], GREEN)
    assert near(preferred[1][0], RED)
    assert near(preferred[1][1], BLUE)
    assert examples["caption"] == ["a cat", "a cat\nand a dog"]
    assert examples["margin"] == [1.5, 0.5]
    assert examples["gap"] == [3.0, 1.0]
    assert examples["model_0"] == ["M", "M"]
    # The file is a source of images itself, for whoever starts from an export.
    again = Images([tmp_path / "out" / "data" / files[0]])
    assert again.content(examples["image_1_uid"][1]) == examples["jpg_1"][1]


def test_a_votes_file_that_holds_its_images_needs_no_other_source(votes, gaps, images, tmp_path):
    export_pairs(votes, gaps, "diffusers", tmp_path / "out", images)
    shard = tmp_path / "out" / "data" / "train-00000-of-00001.parquet"  # Pick-a-Pic's columns
    ratings, again = tmp_path / "ratings.parquet", tmp_path / "again"
    TrueSkill().fit(votes).write(ratings)
    wanted = ["--ratings", str(ratings), "--to", "flow-factory", "--out", str(again)]
    assert main(["export", str(shard), *wanted]) == 0
    pairs = [json.loads(line) for line in (again / "train.jsonl").read_text().splitlines()]
    assert len(pairs) == 2
    assert near(Image.open(again / pairs[1]["chosen"]), RED)
    assert near(Image.open(again / pairs[1]["rejected"]), BLUE)


def test_a_trainer_that_knows_no_exif_sees_the_picture_upright(votes, gaps, images, tmp_path):
    export_pairs(votes, gaps, "diffusers", tmp_path / "out", images)
    table = pq.read_table(tmp_path / "out" / "data" / "validation-00000-of-00001.parquet")
    picture = Image.open(io.BytesIO(table["jpg_0"][0].as_py())).convert("RGB")
    assert picture.size == (32, 24)
    assert picture.getpixel((31, 0)) == BLUE
    untouched = (images.root / "green.png").read_bytes()
    assert table["jpg_1"][0].as_py() == untouched


def test_flow_factory_reads_prompts_and_takes_the_rest_as_metadata(votes, gaps, images, tmp_path):
    export_pairs(votes, gaps, "flow-factory", tmp_path / "out", images)
    # A verbatim record of its data sets, dataset/sharegpt4o_image_mini/train.jsonl: `image` and
    # `images` are what generation is conditioned on, below <data set>/images.
    published = (
        '{"prompt": "Remove the text \\"Time to CREATE!\\" from the chalkboard.", '
        '"image": "v2v_2209.png"}'
    )
    lines = (tmp_path / "out" / "train.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert set(json.loads(published)) & set(records[0]) == {"prompt"}
    preprocessed = {"prompt", "negative_prompt", "image", "images", "videos", "audios"}
    metadata = [{k: v for k, v in each.items() if k not in preprocessed} for each in records]
    assert [each["prompt"] for each in records] == ["a cat", "a cat\nand a dog"]
    assert [each["margin"] for each in metadata] == [1.5, 0.5]
    assert near(Image.open(tmp_path / "out" / metadata[1]["rejected"]), BLUE)
    assert metadata[0]["chosen"] == metadata[1]["chosen"]  # one image, one file
    assert len(list((tmp_path / "out" / "images").iterdir())) == 4
    assert (tmp_path / "out" / "validation.jsonl").exists()


def test_simpletuner_finds_each_rejected_image_by_the_preferred_one_s_name(
    votes, gaps, images, tmp_path
):
    out = tmp_path / "out"
    export_pairs(votes, gaps, "simpletuner", out, images)
    backend = json.loads((out / "train" / "multidatabackend.json").read_text())
    # The pair of data sets that FLOW_DPO.md prints.
    published = json.loads(
        """[
  {
    "id": "preferred",
    "dataset_type": "image",
    "type": "local",
    "instance_data_dir": "/data/win",
    "conditioning_data": ["rejected"]
  },
  {
    "id": "rejected",
    "dataset_type": "conditioning",
    "conditioning_type": "reference_strict",
    "type": "local",
    "instance_data_dir": "/data/lose",
    "source_dataset_id": "preferred"
  }
]"""
    )
    for written, printed in zip(backend, published, strict=False):
        told = {key: written[key] for key in printed}
        told["instance_data_dir"] = printed["instance_data_dir"]
        assert told == printed
    assert backend[2]["dataset_type"] == "text_embeds"
    preferred, rejected = (Path(each["instance_data_dir"]) for each in backend[:2])
    names = sorted(path.name for path in rejected.iterdir())
    assert names == ["00000000.png", "00000001.png"]
    for name in names:
        # training_sample_path: the same relative path below the other folder.
        both = [Image.open(preferred / os.path.relpath(rejected / name, rejected))]
        both.append(Image.open(rejected / name))
        assert both[0].size == both[1].size == (32, 24)
    assert near(Image.open(preferred / names[1]), RED)
    assert near(Image.open(rejected / names[1]), BLUE)
    assert (preferred / "00000001.txt").read_text() == "a cat\nand a dog"
    assert backend[0]["caption_strategy"] == "textfile"
    assert backend[0]["disable_multiline_split"] is True
    table = pl.read_parquet(out / "train" / "pairs.parquet")
    assert table.select("file", "vote_id", "margin").rows() == [
        ("00000000.png", "v1", 1.5),
        ("00000001.png", "v2", 0.5),
    ]


def test_verl_omni_reads_paths_scores_and_raw_prompts(votes, gaps, images, tmp_path):
    signed = gaps.with_columns(gap=pl.when(pl.col("vote_id") == "v4").then(-1.0).otherwise("gap"))
    export = export_pairs(votes, signed, "verl-omni", tmp_path / "out", images)
    # The columns that OfflineDPODataset requires, and that only its base model can make.
    required = {"prompt", "img_win", "img_lose", "img_win_latents", "img_lose_latents"}
    required |= {"prompt_embeds", "prompt_embeds_mask", "pooled_prompt_embeds"}
    file = tmp_path / "out" / "train.parquet"
    rows = pq.read_table(file).to_pylist()
    lacking = required - set(rows[0])
    assert lacking == {each for each in required if "latents" in each or "embeds" in each}
    assert all(name in export.remark for name in lacking)
    for row in [*rows, *pq.read_table(tmp_path / "out" / "validation.parquet").to_pylist()]:
        assert row["win_score"] >= row["lose_score"]
        assert row["extra_info"]["raw_prompt"] == row["prompt"] != ""
        for side in ("img_win", "img_lose"):
            assert Image.open(os.path.normpath(file.parent / row[side])).size
    assert [row["win_score"] - row["lose_score"] for row in rows] == [3.0, 1.0]
    assert rows[1]["extra_info"]["index"] == 1
    assert near(Image.open(file.parent / rows[1]["img_lose"]), BLUE)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_export_is_whole_or_absent(votes, gaps, images, tmp_path, layout):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="no image could be read; the first such image is page"):
        export_pairs(votes.filter(pl.col("vote_id") == "v7"), gaps, layout, out, images)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]
    out.mkdir()
    assert export_pairs(votes, gaps, layout, out, images).pairs.total() == 3
    with pytest.raises(ValueError, match="not an empty folder"):
        export_pairs(votes, gaps, layout, out, images)


def test_what_cannot_be_exported_is_said_in_one_sentence(votes, gaps, images, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="choose from diffusers, flow-factory, simpletuner"):
        export_pairs(votes, gaps, "trl", out, images)
    bare = votes.with_columns(prompt=pl.lit(None, pl.String))
    with pytest.raises(ValueError, match="no pairs to export: 1 ties, 7 without a prompt"):
        export_pairs(bare, gaps, "diffusers", out, images)
    away = votes.with_columns(split=pl.lit("../x"))
    with pytest.raises(ValueError, match=r"the split '\.\./x' cannot be part of a file's name"):
        export_pairs(away, gaps, "diffusers", out, images)
    with pytest.raises(ValueError, match="margins have no scale"):
        export_pairs(votes, gaps.with_columns(gap=pl.lit(-1.0)), "diffusers", out, images)
    assert not out.exists()
