"""What a table is by content: its schema and values, and nothing of who wrote the file."""

import datetime
import os
import time

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets import content
from assets.content import file_hash, frame_version, known, table_version

TABLE = pl.DataFrame(
    {
        "vote_id": ["1", None, "ü"],
        "gap": [1.0, float("nan"), -0.5],
        "count": pl.Series([1, None, 3], dtype=pl.Int64),
        "strict": [True, None, False],
        "models": [["a", "b"], None, []],
        "at": [datetime.datetime(2024, 4, 24, 18, 36, 59), None, datetime.datetime(2024, 1, 1)],
        "place": [{"row": 1}, None, {"row": 2}],
    }
)
# Another value here is another version of every table: all of every lake would be made again.
GOLDEN = "74581afb20bb754e4d583f87474b16ffe1d84e37c1bffff6fde8b4ac06ff07ae"


def test_the_golden_version_of_a_table():
    assert frame_version(TABLE) == GOLDEN


@pytest.mark.parametrize(
    "how",
    [
        {"compression": "gzip"},
        {"row_group_size": 1},
        {"version": "1.0"},
        {"data_page_version": "2.0", "use_dictionary": False},
        {"store_schema": False},
    ],
)
def test_other_bytes_of_equal_values_are_the_same_version(how, tmp_path):
    pq.write_table(TABLE.to_arrow(), tmp_path / "t.parquet", **how)
    assert table_version(tmp_path / "t.parquet") == GOLDEN


def test_who_wrote_it_does_not_count(tmp_path):
    TABLE.write_parquet(tmp_path / "polars.parquet")
    large = TABLE.with_columns(pl.col("vote_id").cast(pl.Categorical))
    large.write_parquet(tmp_path / "categorical.parquet")
    for name in ("polars", "categorical"):
        assert table_version(tmp_path / f"{name}.parquet") == GOLDEN


def test_each_change_of_a_value_a_name_a_type_or_the_order_counts(tmp_path):
    changed = [
        TABLE.with_columns(gap=pl.Series([1.0, float("nan"), -0.6])),
        TABLE.with_columns(gap=pl.Series([1.0, None, -0.5])),
        TABLE.rename({"gap": "gaps"}),
        TABLE.with_columns(pl.col("count").cast(pl.Float64)),
        TABLE[::-1],
        TABLE[:2],
        TABLE.with_columns(models=pl.Series([["a"], ["b"], []])),
        TABLE.with_columns(vote_id=pl.Series(["1ü", None, ""])),
    ]
    versions = [frame_version(each) for each in [TABLE, *changed]]
    assert len(set(versions)) == len(versions)


def test_columns_are_versions_of_their_own(tmp_path):
    path = tmp_path / "t.parquet"
    TABLE.write_parquet(path)
    before = table_version(path, ["vote_id", "gap"])
    TABLE.with_columns(joint_gap=pl.lit(1.0), strict=pl.lit(True)).write_parquet(path)
    assert table_version(path, ["vote_id", "gap"]) == before
    assert table_version(path, ["vote_id", "joint_gap"]) != before
    with pytest.raises(KeyError):
        table_version(path, ["absent"])
    empty = pa.table({"x": pa.array([], pa.string())})
    pq.write_table(empty, path)
    assert table_version(path) == frame_version(pl.DataFrame(schema={"x": pl.String}))


def test_a_files_bytes_are_read_once_for_each_size_and_time(tmp_path, monkeypatch):
    path, read = tmp_path / "large", []
    path.write_bytes(b"x" * 1000)
    real = content._file_hash
    monkeypatch.setattr(content, "_file_hash", lambda each: read.append(each) or real(each))
    file_hash(path)
    file_hash(path)
    assert len(read) == 2  # as young as this it may be written again within a tick of the clock
    old = time.time() - 100
    os.utime(path, (old, old))
    before = file_hash(path)
    assert file_hash(path) == before
    assert len(read) == 3
    # The next process reads nothing either.
    with known(tmp_path / "hashes.db"):
        file_hash(path)
    with known(tmp_path / "hashes.db"):
        os.utime(path, (old + 1, old + 1))
        assert file_hash(path) == before  # looked at again, as its time says
    assert len(read) == 4
    content._hashes.clear()
    with known(tmp_path / "hashes.db"):
        assert file_hash(path) == before
    assert len(read) == 4
    path.write_bytes(b"y" * 1000)
    assert file_hash(path) != before
