"""Files, folders, patterns and object stores; of a table with images only the small columns."""

import http.server
import os
import threading
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from arena.votes.faults import VotesError
from arena.votes.read import read_ballots, read_votes
from arena.votes.sources import as_url, remote_rows


@pytest.fixture
def folder(tmp_path, votes_of, write_votes):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    votes = votes_of(9)
    write_votes("csv", votes[:3], "in/b.csv")
    write_votes("jsonl", votes[3:6], "in/a.jsonl")
    write_votes("parquet", votes[6:], "in/deep/c.parquet")
    (tmp_path / "in" / ".hidden.csv").write_text("no votes")
    (tmp_path / "in" / "README.md").write_text("no votes")
    (tmp_path / "in" / "x.csv.partial").write_text("no votes")
    return tmp_path / "in"


def test_a_folder_is_every_votes_file_in_it_by_name(folder):
    reading = read_votes([folder])
    assert [Path(file.name).name for file in reading.files] == ["a.jsonl", "b.csv", "c.parquet"]
    assert reading.votes.height == 9


def test_a_pattern_is_every_file_that_matches(folder):
    assert read_votes([folder / "*.csv"]).votes.height == 3
    assert read_votes([folder / "**" / "[ab].*"]).votes.height == 6
    assert read_ballots([folder / "deep" / "*.parquet"])[0].height == 3


def test_nothing_there_says_so(tmp_path):
    with pytest.raises(VotesError, match="no file matches this pattern"):
        read_votes([tmp_path / "*.csv"])
    with pytest.raises(VotesError, match="holds no votes file"):
        read_votes([tmp_path])


def test_a_pipe_or_a_device_is_refused_and_never_opened(tmp_path):
    pipe = tmp_path / "votes.csv"
    os.mkfifo(pipe)
    (tmp_path / "good.csv").write_text("model_a,model_b,outcome\nm,n,a\n")
    for paths in ([pipe], [pipe, tmp_path / "good.csv"], ["/dev/zero"]):
        with pytest.raises(VotesError, match="is no regular file; check the path"):
            read_votes(paths)
    # In a folder such a thing is no delivery.
    assert read_votes([tmp_path]).accepted == 1


def test_what_is_not_there_says_so(tmp_path):
    with pytest.raises(VotesError, match=r"gone\.csv: cannot be read .*check the path"):
        read_votes([tmp_path / "gone.csv"])


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("s3://bucket/votes.parquet", "s3://bucket/votes.parquet"),
        (Path("s3://bucket/votes.parquet"), "s3://bucket/votes.parquet"),
        (Path("hf://datasets/a/b/*.parquet"), "hf://datasets/a/b/*.parquet"),
        ("gs:/bucket/x.csv", "gs://bucket/x.csv"),
        ("votes.csv", None),
        ("a/s3:/b.csv", None),
    ],
)
def test_a_url_is_told_from_a_path_even_after_pathlib_had_it(given, url):
    assert as_url(given) == url


class _Store(http.server.BaseHTTPRequestHandler):
    """The little of S3 that a reader uses: HEAD, and GET of a range."""

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body):
        path = self.server.folder / Path(self.path.partition("?")[0]).name
        if not path.exists():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        size = path.stat().st_size
        start, end = 0, size - 1
        wanted = self.headers.get("Range")
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start = int(first) if first else max(size - int(last), 0)
            end = min(int(last), size - 1) if first and last else size - 1
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(end - start + 1))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{end}/{size}")
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if body:
            self.server.sent += end - start + 1
            with path.open("rb") as stream:
                stream.seek(start)
                self.wfile.write(stream.read(end - start + 1))

    def log_message(self, *_):
        pass


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An object store on loopback that counts what it sends; polars finds it by environment."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Store)
    server.folder, server.sent = tmp_path, 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    yield server
    server.shutdown()


def pickapic_with_images(n, each):
    noise = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "caption": [f"a cat {i}" for i in range(n)],
            "jpg_0": [noise.bytes(each) for _ in range(n)],
            "jpg_1": [noise.bytes(each) for _ in range(n)],
            "label_0": [1.0, 0.0] * (n // 2),
            "label_1": [0.0, 1.0] * (n // 2),
            "model_0": ["x"] * n,
            "model_1": ["y"] * n,
        }
    )


def test_of_a_remote_table_the_images_are_never_fetched(store, tmp_path):
    path = tmp_path / "pickapic.parquet"
    pickapic_with_images(400, 40_000).write_parquet(path, row_group_size=100)
    url = "s3://bucket/pickapic.parquet"
    reading = read_votes([url])
    assert [(file.name, file.format) for file in reading.files] == [(url, "pickapic")]
    assert (reading.rows, reading.votes.height) == (400, 400)
    assert reading.votes["source"].unique().to_list() == ["pickapic.parquet"]
    assert path.stat().st_size > 30_000_000
    assert store.sent < 1_000_000
    assert remote_rows(url) == 400


def test_a_remote_table_without_votes_or_without_a_file_names_its_url(store, tmp_path):
    pl.DataFrame({"x": [1]}).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(VotesError, match=r"s3://bucket/x\.parquet: no column model_a"):
        read_votes(["s3://bucket/x.parquet"])
    with pytest.raises(VotesError, match=r"s3://bucket/gone\.parquet: cannot be read"):
        read_votes(["s3://bucket/gone.parquet"])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts bytes read as Linux does")
def test_of_a_local_table_the_images_are_never_read(tmp_path):
    path = tmp_path / "pickapic.parquet"
    pickapic_with_images(400, 40_000).write_parquet(path, row_group_size=100)

    def read_so_far():
        with Path("/proc/self/io").open() as counters:
            return int(counters.readline().split()[1])

    before = read_so_far()
    assert read_votes([path]).votes.height == 400
    assert read_so_far() - before < 1_000_000 < path.stat().st_size / 30


def test_columns_that_stand_in_folders_names_are_said_to_be_unread(tmp_path):
    """As DuckDB's `COPY ... (PARTITION_BY (dimension, date))` writes them."""
    folder = tmp_path / "votes" / "dimension=style" / "date=2026-11-01"
    folder.mkdir(parents=True)
    (folder / "part-0.csv").write_text("model_a,model_b,outcome\nx,y,a\n")
    (file,) = read_votes([tmp_path / "votes"]).files
    assert file.accepted == 1
    told = ["dimension=style (a folder's name)", "date=2026-11-01 (a folder's name)"]
    assert file.unread == told
