"""Pick-a-Pic in its own layouts: parquet with and without images, and webdataset tars.

Columns and types: the cards of yuvalkirstain/pickapic_v2 and pickapic_v2_no_images.
"""

import io
import json
import tarfile
from datetime import UTC, datetime

import polars as pl
import pytest

from arena.votes.faults import VotesError
from arena.votes.read import read_votes

LABELS = [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (1.0, 1.0), (None, None)]


def table(n=5):
    """The columns of the hub's parquet, in its types."""
    return pl.DataFrame(
        {
            "are_different": [True] * n,
            "best_image_uid": [f"u{i}-0" for i in range(n)],
            "caption": [f"a cat {i}" for i in range(n)],
            "created_at": [datetime(2023, 1, 30, 12, i) for i in range(n)],
            "has_label": [True] * n,
            "image_0_uid": [f"u{i}-0" for i in range(n)],
            "image_0_url": ["https://example.org/0.png"] * n,
            "image_1_uid": [f"u{i}-1" for i in range(n)],
            "image_1_url": ["https://example.org/1.png"] * n,
            "jpg_0": [b"\xff\xd8 not decoded here"] * n,
            "jpg_1": [b"\xff\xd8 not decoded here"] * n,
            "label_0": [LABELS[i % 5][0] for i in range(n)],
            "label_1": [LABELS[i % 5][1] for i in range(n)],
            "model_0": ["dreamlike-art/dreamlike-photoreal-2.0"] * n,
            "model_1": ["stabilityai/stable-diffusion-xl"] * n,
            "ranking_id": list(range(n)),
            "user_id": list(range(100, 100 + n)),
            "num_example_per_prompt": [n] * n,
            "__index_level_0__": list(range(n)),
        }
    )


@pytest.mark.parametrize("images", [True, False])
def test_the_hub_s_parquet_with_and_without_images(images, tmp_path):
    path = tmp_path / "train-00000-of-00645.parquet"
    (table() if images else table().drop("jpg_0", "jpg_1")).write_parquet(path)
    reading = read_votes([path])
    votes = reading.votes
    assert reading.files[0].format == "pickapic"
    assert (reading.rows, reading.accepted, reading.rejected.height) == (5, 3, 2)
    assert votes["outcome"].to_list() == ["a", "b", "tie"]
    assert votes["model_a"][0] == "dreamlike-art/dreamlike-photoreal-2.0"
    assert votes["prompt"].to_list() == ["a cat 0", "a cat 1", "a cat 2"]
    assert votes["image_b"].to_list() == ["u0-1", "u1-1", "u2-1"]
    assert votes["rater"].to_list() == ["100", "101", "102"]
    assert votes["created_at"][1] == datetime(2023, 1, 30, 12, 1, tzinfo=UTC)
    assert reading.rejected["column"].to_list() == ["label_0", "label_0"]
    assert reading.rejected["value"].to_list() == ["1.0 and 1.0", "none and none"]


def test_a_row_without_a_label_is_rejected_as_such(tmp_path):
    path = tmp_path / "votes.parquet"
    table(2).with_columns(has_label=pl.Series([True, False])).write_parquet(path)
    reading = read_votes([path])
    assert reading.rejected.select("row", "value").rows() == [(2, "no label")]


@pytest.mark.parametrize("gone", [("model_0",), ("model_0", "model_1"), ("label_1",)])
def test_a_missing_column_is_named(gone, tmp_path):
    path = tmp_path / "votes.parquet"
    table().drop(*gone).write_parquet(path)
    with pytest.raises(VotesError, match=f"votes.parquet: no column {', '.join(gone)};"):
        read_votes([path])


def write_tar(path, samples):
    with tarfile.open(path, "w") as archive:
        for name, content in samples:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def as_members(row, key, *, spread):
    record = {name: value for name, value in row.items() if not isinstance(value, bytes)}
    record["created_at"] = record["created_at"].isoformat()
    images = [(f"{key}.{name}", row[name]) for name in ("jpg_0", "jpg_1")]
    if not spread:
        return [*images, (f"{key}.json", json.dumps(record).encode())]
    told = [(f"{key}.{name}.txt", str(value).encode()) for name, value in record.items()]
    return [*images, *told]


@pytest.mark.parametrize("spread", [True, False])
def test_a_tar_gives_the_votes_of_the_parquet(spread, tmp_path):
    table(3).write_parquet(tmp_path / "votes.parquet")
    members = [
        member
        for i, row in enumerate(table(3).iter_rows(named=True))
        for member in as_members(row, f"part/{i:05d}", spread=spread)
    ]
    reading = read_votes([write_tar(tmp_path / "votes.tar", members)])
    expected = read_votes([tmp_path / "votes.parquet"]).votes
    assert reading.votes.drop("source").equals(expected.drop("source"))


def test_an_image_without_a_uid_is_named_by_its_member_and_no_sample_is_lost(tmp_path):
    good = b'{"caption": "c", "model_0": "x", "model_1": "y", "label_0": 1, "label_1": 0}'
    members = [
        ("0.json", good),
        ("0.jpg_0", b"image"),
        ("1.json", b"{half"),
        ("1.label_0", b"\xff"),
        ("2.jpg_0", b"image"),
    ]
    reading = read_votes([write_tar(tmp_path / "votes.tar", members)])
    assert reading.votes["image_a"].to_list() == ["votes.tar::0.jpg_0"]
    assert (reading.rows, reading.accepted, reading.rejected.height) == (3, 1, 2)
    assert reading.rejected.select("row", "column").rows() == [(2, "json"), (3, "model_0")]


def test_a_tar_that_is_cut_off_says_so(tmp_path):
    path = write_tar(tmp_path / "votes.tar", [("0.json", b"{}"), ("1.jpg_0", b"x" * 4000)])
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(VotesError, match=r"votes\.tar: .*cut off"):
        read_votes([path])
