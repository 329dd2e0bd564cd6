"""A lake in an object store: put whole, brought by content, listed, pointed to, and cleaned."""

import json
import os
import time
from functools import partial

import boto3
import polars as pl
import pytest
from moto.core import set_initial_no_auth_action_count
from object_store import BUCKET, machine
from pyarrow import fs

from assets import folders, store
from assets.brought import brought
from assets.lake import Lake
from assets.store_url import StoreError, checked

TABLE = pl.DataFrame({"model": ["a", "b"], "mu": [1.0, 2.0]})


@pytest.fixture
def lake(s3, tmp_path):
    return Lake(s3.url(f"{tmp_path.name}/lake"))


@pytest.fixture
def there(tmp_path, monkeypatch):
    """Go to another machine, which has no working copy yet."""
    return partial(machine, monkeypatch, tmp_path / "there")


def names(s3, tmp_path):
    return s3.names(f"{tmp_path.name}/lake")


def test_a_table_is_one_object_of_equal_version_that_any_machine_reads(
    lake,
    s3,
    tmp_path,
    there,
):
    local = Lake(tmp_path / "local")
    assert lake.write("ratings", TABLE) == local.write("ratings", TABLE)
    assert names(s3, tmp_path) == {"ratings/ratings.parquet"}
    there()
    assert lake.read("ratings").equals(TABLE)
    assert lake.root.is_relative_to(tmp_path / "there")
    with pytest.raises(FileNotFoundError, match=r"s3://lakes/.*votes.parquet is not there"):
        lake.read("votes")


def test_what_another_machine_wrote_is_brought_and_what_it_deleted_is_gone(
    lake,
    tmp_path,
    monkeypatch,
    there,
):
    lake.write("ratings", TABLE)
    there()
    lake.write("ratings", TABLE[:1])
    lake.write("votes", TABLE)
    machine(monkeypatch, tmp_path / "machine")
    assert lake.read("ratings").height == 1
    assert lake.read("votes").height == 2
    there()
    lake.remove("votes/votes.parquet")
    machine(monkeypatch, tmp_path / "machine")
    assert not lake.table("votes").exists()
    assert not lake.exists("votes/votes.parquet")


def test_a_file_that_was_written_and_never_put_counts_for_nothing(lake):
    lake.write("ratings", TABLE)
    TABLE[:1].write_parquet(lake.target("ratings"))  # killed before it was put
    assert lake.read("ratings").equals(TABLE)


def test_what_is_unchanged_is_fetched_once(lake, monkeypatch, there):
    lake.write("ratings", TABLE)
    there()
    fetched, fetch = [], store.Store.fetch

    def counted(self, name, head):
        fetched.append(name)
        return fetch(self, name, head)

    monkeypatch.setattr(store.Store, "fetch", counted)
    for _ in range(3):
        lake.read("ratings")
    assert fetched == ["ratings/ratings.parquet"]


def test_a_folder_is_current_when_its_pointer_is_put_and_those_before_it_go(
    lake,
    s3,
    tmp_path,
    there,
):
    assert lake.current_version("policies", "dpo") is None
    for version in ("one", "two"):
        folder = lake.folder("policies", "dpo", version)
        (folder / "policy").mkdir()
        (folder / "policy" / "weights").write_text(version)
        (folder / "log").write_text(version)
        lake.publish("policies", "dpo", version)
    made = {f"policies/dpo/two/{name}" for name in ("policy/weights", "log", ".files.json")}
    assert names(s3, tmp_path) == {"policies/dpo/current", *made}
    assert lake.exists("policies/dpo/current/policy")
    there()
    assert lake.current("policies", "dpo", "log").read_text() == "two"
    assert not (lake.path("policies", "dpo", "two") / "policy").exists()  # only what was asked
    assert (lake.current("policies", "dpo") / "policy" / "weights").read_text() == "two"


def test_a_folder_that_was_damaged_in_the_store_is_never_taken_for_whole(
    lake,
    s3,
    tmp_path,
    there,
):
    (lake.folder("policies", "dpo", "one") / "weights").write_text("sound")
    lake.publish("policies", "dpo", "one")
    with s3.files.open_output_stream(
        f"{BUCKET}/{tmp_path.name}/lake/policies/dpo/one/weights"
    ) as out:
        out.write(b"other")
    there()
    with pytest.raises(StoreError, match=r"policies/dpo/one/weights is not what was put there"):
        lake.current("policies", "dpo")


def test_a_killed_jobs_checkpoint_goes_on_on_another_machine(lake, there):
    def killed():
        with lake.working("policies", "dpo", "one") as folder:
            (folder / "checkpoint").write_text("after 3 steps")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert lake.current_version("policies", "dpo") is None
    there()
    with lake.working("policies", "dpo", "one") as folder:
        assert (folder / "checkpoint").read_text() == "after 3 steps"
        (folder / "checkpoint").unlink()
        (folder / "weights").write_text("whole")
    lake.publish("policies", "dpo", "one")
    assert {path.name for path in lake.current("policies", "dpo").iterdir()} == {
        "weights",
        ".files.json",
    }


def test_work_that_went_on_here_since_it_was_kept_is_not_taken_back(
    lake, tmp_path, monkeypatch, there
):
    folder = lake.folder("policies", "dpo", "one")
    (folder / "checkpoint").write_text("after 3 steps")
    lake.keep("policies", "dpo", "one")
    (folder / "checkpoint").write_text("after 4 steps")  # then the orchestrator was killed
    assert (lake.folder("policies", "dpo", "one") / "checkpoint").read_text() == "after 4 steps"
    there()
    folder = lake.folder("policies", "dpo", "one")
    assert (folder / "checkpoint").read_text() == "after 3 steps"
    (folder / "checkpoint").write_text("after 9 steps")
    lake.keep("policies", "dpo", "one")
    machine(monkeypatch, tmp_path / "machine")
    assert (lake.folder("policies", "dpo", "one") / "checkpoint").read_text() == "after 9 steps"


def test_what_a_job_leaves_is_kept_while_it_works(lake, monkeypatch, there):
    monkeypatch.setattr(folders, "KEEP_SECONDS", 0.05)
    with lake.working("policies", "dpo", "one") as folder:
        (folder / "checkpoint").write_text("after 3 steps")
        until = time.monotonic() + 60
        while not lake.exists("policies/dpo/one/.files.json"):
            assert time.monotonic() < until
            time.sleep(0.05)
    there()  # the first machine is lost
    assert (lake.folder("policies", "dpo", "one") / "checkpoint").exists()


def test_sweeping_deletes_what_no_list_names_once_it_is_old(
    lake,
    s3,
    tmp_path,
    monkeypatch,
):
    (lake.folder("policies", "dpo", "one") / "weights").write_text("x")
    lake.publish("policies", "dpo", "one")
    lake.put(lake.target("votes"))  # nothing is there to put
    (lake.folder("policies", "dpo", "two") / "half").write_text("x")
    lake.put(lake.path("policies", "dpo", "two", "half"))  # killed before the list
    with lake.writing("landing/2026/11/a.jsonl") as aside:  # people's own, beside the lake's
        aside.write_text("{}")
    whole = names(s3, tmp_path)
    assert lake.sweep() == []
    client = boto3.client("s3", endpoint_url=s3.address, region_name="us-east-1")
    key = f"{tmp_path.name}/lake/policies/dpo/two/large"
    client.create_multipart_upload(Bucket=BUCKET, Key=key)
    monkeypatch.setattr(folders, "ABANDONED_SECONDS", -3600)
    assert lake.sweep() == ["policies/dpo/two/half", f"upload of {key}"]
    assert "Uploads" not in client.list_multipart_uploads(Bucket=BUCKET, Prefix=key)
    assert whole - names(s3, tmp_path) == {"policies/dpo/two/half"}


def test_removing_a_part_of_a_folder_leaves_a_whole_folder(lake, there):
    folder = lake.folder("policies", "dpo", "one")
    (folder / "checkpoints").mkdir()
    for name in ("weights", "checkpoints/1", "checkpoints_of_mine"):
        (folder / name).write_text("x")
    lake.publish("policies", "dpo", "one")
    lake.remove("policies/dpo/one/checkpoints")
    there()
    found = {path.name for path in lake.current("policies", "dpo").iterdir()}
    assert found == {"weights", "checkpoints_of_mine", ".files.json"}


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://host/x", "needs s3://BUCKET/PREFIX"),
        ("s3:///x", "needs s3://BUCKET/PREFIX"),
        ("s3://key:secret@bucket/x", "belongs into AWS_SECRET_ACCESS_KEY"),
        ("s3://bucket/x?regoin=here", "knows the options endpoint_override and region, not regoin"),
    ],
)
def test_a_url_that_can_be_no_store_is_refused(url, says):
    with pytest.raises(ValueError, match=says):
        checked(url)


def test_a_store_that_cannot_be_used_is_one_sentence(s3):
    lost = Lake(f"s3://nobody/lake?endpoint_override={s3.address}")
    with pytest.raises(StoreError, match=r"^s3://nobody/lake: there is no such bucket"):
        lost.reach()
    away = Lake(f"s3://{BUCKET}/lake?endpoint_override=http://127.0.0.1:9")
    with pytest.raises(StoreError, match=r"^s3://lakes/lake: it cannot be reached"):
        away.read("votes")

    @set_initial_no_auth_action_count(0)
    def with_a_key_that_nobody_knows():
        with pytest.raises(StoreError, match=r"^s3://lakes/x: the key is unknown; check AWS_ACC"):
            Lake(s3.url("x")).reach()
        with pytest.raises(StoreError, match=r"^s3://lakes/x: the key may not do this"):
            Lake(s3.url("x")).read("votes")

    with_a_key_that_nobody_knows()


def test_votes_in_a_bucket_are_brought_object_by_object(s3, tmp_path):
    votes = Lake(s3.url(f"{tmp_path.name}/landing"))
    for name, text in {"a.jsonl": "{}", "b.csv": "x", "deep/c.jsonl": "{}", ".d.csv": "x"}.items():
        with votes.writing(name) as aside:
            aside.write_text(text)
    url = s3.url(f"{tmp_path.name}/landing")
    start = f"s3://{BUCKET}/{tmp_path.name}/landing"

    def called(url):
        return [file.name.removeprefix(start + "/") for file in brought(url)]

    assert called(url) == ["a.jsonl", "b.csv", "deep/c.jsonl"]
    assert called(url.replace("landing?", "landing/*.jsonl?")) == ["a.jsonl"]
    assert called(url.replace("landing?", "landing/absent/*.csv?")) == []
    (one,) = brought(url.replace("landing?", "landing/b.csv?"))
    assert one.path.read_text() == "x"
    with votes.writing("b.csv") as aside:
        aside.write_text("y")  # of the same size, at once
    (one,) = brought(url.replace("landing?", "landing/b.csv?"))
    assert one.path.read_text() == "y"


def test_a_table_with_pictures_in_it_stays_where_it_is(s3, tmp_path):
    votes = Lake(s3.url(f"{tmp_path.name}/landing"))
    with votes.writing("pictures.parquet") as aside:
        TABLE.with_columns(jpg_0=pl.lit(b"x")).write_parquet(aside)
    with votes.writing("votes.parquet") as aside:
        TABLE.write_parquet(aside)
    stays, here = brought(s3.url(f"{tmp_path.name}/landing"))
    assert stays.startswith(f"s3://{BUCKET}/{tmp_path.name}/landing/pictures.parquet?endpoint")
    assert here.path.exists()


def test_polars_and_duckdb_read_the_tables_where_they_lie(lake, s3, tmp_path):
    import duckdb

    lake.write("ratings", TABLE)
    url = lake.where("ratings/ratings.parquet")
    assert url == f"s3://{BUCKET}/{tmp_path.name}/lake/ratings/ratings.parquet"
    options = {"aws_endpoint_url": s3.address, "aws_allow_http": "true"}
    assert pl.read_parquet(url, storage_options=options).equals(TABLE)
    with duckdb.connect() as database:
        try:
            database.execute("INSTALL httpfs; LOAD httpfs")
        except duckdb.Error as error:
            pytest.skip(f"DuckDB's httpfs cannot be had here: {error}")
        host = s3.address.removeprefix("http://")
        database.execute(
            f"CREATE SECRET (TYPE s3, KEY_ID '{os.environ['AWS_ACCESS_KEY_ID']}', "
            f"SECRET '{os.environ['AWS_SECRET_ACCESS_KEY']}', ENDPOINT '{host}', "
            "URL_STYLE 'path', USE_SSL false)"
        )
        assert database.sql(f"SELECT sum(mu) FROM '{url}'").fetchall() == [(3.0,)]


def test_the_list_of_a_folder_says_size_and_sha256_of_each_file(lake):
    (lake.folder("policies", "dpo", "one") / "weights").write_text("abc")
    lake.publish("policies", "dpo", "one")
    listed = json.loads(lake.at("policies/dpo/one/.files.json").read_text())
    # sha256 of "abc", NIST's example (FIPS 180-4)
    assert listed == {
        "weights": [3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"]
    }
    assert fs.FileType.File == lake.infos("policies/dpo/one/weights")[0].type
