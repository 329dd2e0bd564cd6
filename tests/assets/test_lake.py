import os

import duckdb
import polars as pl
import pytest

from assets.content import content_hash
from assets.lake import Lake


def test_equal_content_has_an_equal_hash_wherever_it_lies(tmp_path):
    table = pl.DataFrame({"model": ["a", "b"], "mu": [1.0, 2.0]})
    one, two = Lake(tmp_path / "one"), Lake(tmp_path / "two")
    assert one.write("ratings", table) == two.write("ratings", table)
    assert one.write("ratings", table[:1]) != two.version("ratings")


def test_a_folder_is_hashed_with_its_names(tmp_path):
    for name in ("left", "right"):
        (tmp_path / name).mkdir()
    (tmp_path / "left" / "a").write_text("same")
    (tmp_path / "right" / "b").write_text("same")
    assert content_hash(tmp_path / "left") != content_hash(tmp_path / "right")


def test_a_write_that_fails_leaves_the_old_table_and_nothing_else(tmp_path):
    lake = Lake(tmp_path)
    lake.write("votes", pl.DataFrame({"x": [1]}))
    with pytest.raises(Exception, match="Object"):
        lake.write("votes", pl.DataFrame({"x": [object()]}))
    assert lake.read("votes")["x"].to_list() == [1]
    assert [path.name for path in lake.table("votes").parent.iterdir()] == ["votes.parquet"]


def test_the_warehouse_is_swapped_in_while_a_reader_holds_the_old_one(tmp_path):
    lake = Lake(tmp_path)
    for rows in (1, 2):
        lake.write("votes", pl.DataFrame({"x": list(range(rows))}))
        if rows == 1:
            lake.build_warehouse(["votes"])
    reader = duckdb.connect(str(lake.warehouse), read_only=True)
    lake.build_warehouse(["votes"])
    assert reader.execute("SELECT count(*) FROM votes").fetchall() == [(1,)]
    reader.close()
    with duckdb.connect(str(lake.warehouse), read_only=True) as anew:
        assert anew.execute("SELECT count(*) FROM votes").fetchall() == [(2,)]


def test_publishing_a_version_clears_the_one_before(tmp_path):
    lake = Lake(tmp_path)
    for version in ("one", "two"):
        (lake.folder("policies", "dpo", version) / "weights").write_text(version)
        lake.publish("policies", "dpo", version)
    assert (lake.current("policies", "dpo") / "weights").read_text() == "two"
    assert {path.name for path in (tmp_path / "policies" / "dpo").iterdir()} == {"current", "two"}


@pytest.mark.parametrize("name", ["", ".", "..", "../../x", "/etc", "a/b", "a\\b", "a\nb", "a\0b"])
def test_a_name_that_is_no_plain_component_reaches_no_folder(tmp_path, name):
    lake = Lake(tmp_path / "lake")
    (lake.root / "policies" / "dpo" / "1").mkdir(parents=True)
    (tmp_path / "x").mkdir()
    attempts = (
        lambda: lake.current("policies", name),
        lambda: lake.current_version("policies", name),
        lambda: lake.folder("policies", name, "1"),
        lambda: lake.folder("policies", "dpo", name),
        lambda: lake.publish("policies", name, "1"),  # "." cleared every policy
        lambda: lake.scores(name),
        lambda: lake.ksort(name),
        lambda: lake.lock(name),
    )
    for attempt in attempts:
        with pytest.raises(ValueError, match="has to be one plain name"):
            attempt()
    assert [path.name for path in (lake.root / "policies").iterdir()] == ["dpo"]
    assert (tmp_path / "x").exists()


def test_the_lake_is_its_owners_only(tmp_path):
    umask = os.umask(0)  # the most generous one there is
    try:
        lake = Lake(tmp_path / "data" / "lake")
        lake.lock("study")
        lake.write("votes", pl.DataFrame({"x": [1]}))
        lake.folder("policies", "dpo", "1")
    finally:
        os.umask(umask)
    made = [path for path in (tmp_path / "data").rglob("*") if path.is_dir()]
    assert {path.stat().st_mode & 0o777 for path in [tmp_path / "data", *made]} == {0o700}


def test_a_planted_link_is_never_written_through(tmp_path):
    lake, target = Lake(tmp_path / "lake"), tmp_path / "precious"
    target.write_text("mine")
    (lake.root / "votes").mkdir(parents=True)
    for name in (f".votes.parquet.{os.getpid()}.partial", "votes.parquet"):
        (lake.root / "votes" / name).symlink_to(target)
    lake.write("votes", pl.DataFrame({"x": [1]}))
    assert target.read_text() == "mine"
    assert lake.read("votes")["x"].to_list() == [1]
