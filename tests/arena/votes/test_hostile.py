"""What strangers may send: bombs, claims, links and words that a terminal obeys."""

import io
import json
import os
import subprocess
import sys
import tarfile

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from vote_files import adds_up, make_votes

from arena.__main__ import main
from arena.votes.faults import VotesError
from arena.votes.identity import with_ids
from arena.votes.images import Images
from arena.votes.limits import MOST_MODELS
from arena.votes.read import read_ballots, read_votes
from arena.votes.summary import describe, notes

HEADER = "model_a,model_b,outcome"


def zstd(begins, again, times):
    """Return a small zstd file of a large text."""
    stream = io.BytesIO()
    with pa.CompressedOutputStream(stream, "zstd") as packed:
        packed.write(begins)
        for _ in range(times):
            packed.write(again * (1 << 16))
        packed.flush()
        return stream.getvalue()


def tar_of(members):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def negative_tar():
    """Return a tar whose first member says that it has -1,024 bytes, as GNU's base 256 can."""
    content = bytearray(tar_of({"0.json": b"{}", "1.json": b"{}"}))
    content[124:136] = b"\xff" * 10 + (-1024 & 0xFFFF).to_bytes(2, "big")
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    return bytes(content)


def dictionary_bomb():
    """Return a parquet of a few kilobytes that holds 4 TB of prompts: one text, in every row."""
    stream, rows = io.BytesIO(), 4_000_000
    one = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), ["x" * 1_000_000])
    few = {n: pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), [n]) for n in "ab"}
    table = pa.table({"model_a": few["a"], "model_b": few["b"], "outcome": few["a"], "prompt": one})
    pq.write_table(table, stream, compression="zstd", store_schema=False)
    return stream.getvalue()


def rows_bomb():
    """Return a parquet of two kilobytes that holds 10^8 rows of one vote."""
    stream, rows = io.BytesIO(), 10_000_000
    one = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int8()), ["a"])
    table = pa.table({"model_a": one, "model_b": one, "outcome": one})
    pq.write_table(table, stream, compression="zstd", row_group_size=rows, store_schema=False)
    return stream.getvalue()


BOMBS = {
    "rows_claimed.json": b'[{"ranks":0,"rows":999999999}]',
    "deep.json": b"[" * 29,
    "digits.json": b'[{"ranks":[' + b"9" * 5000 + b",1]}]",
    "spaces.csv.zst": zstd(HEADER.encode() + b"\nm,n,a", b" ", 1 << 14),
    "list.json.zst": zstd(b"[", b"[", 1 << 12),
    "objects.json.zst": zstd(b"[", b"{},", 1 << 10),
    "fields.csv.zst": zstd(b"", b",", 1 << 12),
    "lines.csv.zst": zstd(HEADER.encode(), b"\n,", 1 << 10),
    "dictionary.parquet": dictionary_bomb(),
    "rows.parquet": rows_bomb(),
    "negative.tar": negative_tar(),
    "columns.csv": ",".join(f"c{k}" for k in range(20_000)).encode() + b"\n",
    "keys.json": json.dumps([{f"c{k}": 0 for k in range(20_000)}]).encode(),
    "rankings.jsonl": b"".join(
        json.dumps({"models": [f"m{k}" for k in range(100)], "ranks": [*range(100)]}).encode()
        + b"\n"
        for _ in range(200)
    ),
    "pickapic.tar": tar_of(
        {
            f"{k}.json": json.dumps(
                {"model_0": "x", "model_1": "y", "label_0": 1, "label_1": 0}
                | {f"k{k}_{j}": 0 for j in range(9)}
            ).encode()
            for k in range(1000)
        }
    ),
    "samples.tar": tar_of(
        {
            f"{k}.json": json.dumps({f"k{k}_{j}": 0 for j in range(100)}).encode()
            for k in range(1000)
        }
    ),
}
READ = """
import resource, sys, time
from arena.votes.faults import VotesError
from arena.votes.read import read_votes
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
for path in sys.argv[1:]:
    begun = time.process_time()
    try:
        read_votes(path)
        said = "read"
    except VotesError as error:
        said = str(error)
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    most = int(status["VmHWM"].split()[0]) >> 10
    print(path.rpartition("/")[2], most, round(time.process_time() - begun), said[:300], sep="|")
"""
SAYS = {
    "rows_claimed.json": "read",
    "deep.json": "not readable JSON",
    "digits.json": "not readable JSON|cannot be read|read",
    "rankings.jsonl": "read",
    "pickapic.tar": "read",
    "samples.tar": "columns, more than",
    "columns.csv": "20,000 columns, more than 10,000",
    "keys.json": "columns, more than 10,000",
    "negative.tar": "-1,024 bytes",
    "rows.parquet": "says that it holds 10,000,000 rows",
    "dictionary.parquet": "unpacks to more than",
}


def test_no_bomb_takes_more_than_two_gigabytes_or_loses_its_sentence(tmp_path):
    for name, content in BOMBS.items():
        (tmp_path / name).write_bytes(content)
    paths = [str(tmp_path / name) for name in BOMBS]
    done = subprocess.run(
        [sys.executable, "-c", READ, *paths], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    lines = [line.split("|", 3) for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == list(BOMBS)
    for name, most, seconds, said in lines:
        expected = SAYS.get(name, "unpacks to more than 100 times its size")
        assert any(one in said for one in expected.split("|")), (name, said)
        assert int(most) < 2048, (name, most)
        assert int(seconds) < 20, (name, seconds)  # of the processor, whatever else it does


def test_models_have_an_end_in_one_file_and_in_many(tmp_path):
    half = MOST_MODELS // 2 + 1
    for k in range(2):
        rows = "".join(f"m{k}_{i},x,a\n" for i in range(half))
        (tmp_path / f"{k}.csv").write_text(f"{HEADER}\n{rows}")
    assert read_votes(tmp_path / "0.csv").accepted == half
    for read in (read_votes, lambda path: read_ballots([path])):
        with pytest.raises(VotesError, match=r"10,003 models, more than 10,000"):
            read(tmp_path)


def test_another_s_vote_ids_in_a_file_that_sorts_first_cost_no_honest_vote(tmp_path):
    honest = make_votes(100).drop("votes_a", "votes_b", "votes_tie")
    foreign = honest.with_columns(model_a=pl.lit("mine"), outcome=pl.lit("a"))
    foreign.write_csv(tmp_path / "0.csv")
    honest.write_csv(tmp_path / "honest.csv")
    reading = adds_up(read_votes(tmp_path))
    assert (reading.accepted, reading.rejected.height, reading.doubts.height) == (200, 0, 100)
    kept = reading.votes.filter(pl.col("model_a") != "mine")
    assert kept["prompt"].to_list() == honest["prompt"].to_list()
    ballots, few = read_ballots([tmp_path])
    assert (ballots.height, few.doubts.height) == (200, 100)


def test_an_id_in_the_shape_of_a_ranking_s_pair_is_another_vote_s(tmp_path):
    ranking = {"vote_id": "r", "models": ["x", "y"], "ranks": [1, 2]}
    (tmp_path / "ranks.json").write_text(json.dumps([ranking]))
    (tmp_path / "votes.csv").write_text(f"vote_id,{HEADER}\nr#0-1,x,y,b\nr#0-1~1,x,y,b\n")
    reading = adds_up(read_votes(tmp_path))
    assert reading.votes["vote_id"].to_list() == ["r#0-1", "r#0-1~2", "r#0-1~1"]
    assert reading.votes["ranking"].to_list() == ["r", None, None]


def test_an_id_that_will_be_made_can_be_claimed_and_not_taken(tmp_path):
    votes = make_votes(3).drop("vote_id")
    made = with_ids(votes.with_columns(vote_id=pl.lit(None, pl.String)))["vote_id"]
    claims = make_votes(3).with_columns(vote_id=made, rater=pl.lit("stranger"))
    claims.write_csv(tmp_path / "0.csv")
    votes.write_csv(tmp_path / "1.csv")
    ids = adds_up(read_votes(tmp_path)).votes["vote_id"].to_list()
    honest = adds_up(read_votes(tmp_path / "1.csv")).votes["vote_id"].to_list()
    assert ids == [*(f"{each}~{k}" for k, each in enumerate(honest, start=1)), *honest]


def test_links_that_leave_a_folder_are_no_deliveries(tmp_path):
    make_votes(2).write_csv(tmp_path / "private.csv")
    source = tmp_path / "in"
    source.mkdir()
    make_votes(3).write_csv(source / "votes.csv")
    (source / "link.csv").symlink_to(tmp_path / "private.csv")
    (source / "again.csv").symlink_to(source / "votes.csv")
    for given in (source, source / "*.csv"):
        names = [file.name for file in read_votes(given).files]
        assert names == [str(source / "again.csv"), str(source / "votes.csv")]
    assert read_votes(source / "link.csv").accepted == 2  # named by the machine's user


@pytest.mark.parametrize("path", ["/proc/self/environ", "/proc/kmsg", "/dev/zero", "/dev/tty"])
def test_what_the_kernel_makes_up_is_no_file(path):
    for paths in ([path], [path, path]):
        with pytest.raises(VotesError, match=r"is no regular file|cannot be read"):
            read_votes(paths)
    assert Images().faults([path]).keys() == {path}


def test_images_lie_below_the_votes_or_a_stated_folder(tmp_path):
    (tmp_path / "private.png").write_bytes(b"x")
    here, other = tmp_path / "votes", tmp_path / "images"
    for folder in (here, other):
        folder.mkdir()
        (folder / "1.png").write_bytes(b"x")
    (here / "link.png").symlink_to(tmp_path / "private.png")
    private = str(tmp_path / "private.png")
    out = ("../private.png", private, "link.png", "/etc/passwd", "../gone.png")
    rows = [f"x,y,a,{name},1.png" for name in (*out, str(other / "1.png"), "https://a.org/1.png")]
    path = here / "votes.csv"
    path.write_text("\n".join([f"{HEADER},image_a,image_b", *rows, ""]))
    reading = adds_up(read_votes(path, images="resolved", image_roots=(other,)))
    assert reading.votes["image_a"].to_list() == [
        *[None] * 5,
        str(other / "1.png"),
        "https://a.org/1.png",
    ]
    assert reading.accepted == 7
    assert set(reading.doubts["reason"]) == {
        "leads out of the folder of its votes; the vote has no such image then"
    }
    assert reading.votes["image_b"].to_list() == [str(here / "1.png")] * 7
    images = Images([other], root=here)
    faults = images.faults([*out, "1.png", str(other / "1.png")])
    assert all("leads out of" in faults[name] for name in out)
    assert images.content("1.png") == images.content(str(other / "1.png")) == b"x"
    tar = tmp_path / "private.tar"
    tar.write_bytes(tar_of({"0.jpg_0": b"x"}))
    assert "leads out of" in images.faults(["../private.tar::0.jpg_0"])["../private.tar::0.jpg_0"]


def test_a_pipe_that_is_named_as_a_source_of_images_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "images.parquet")
    with pytest.raises(ValueError, match=r"images\.parquet: cannot be read"):
        Images([tmp_path / "images.parquet"]).read("x")
    (tmp_path / "images.tar").write_bytes(negative_tar())
    with pytest.raises(ValueError, match=r"images\.tar: cannot be read"):
        Images([tmp_path / "images.tar"]).read("x")


EVIL = "\x1b[2J\x9b31m\u202e"


def test_no_word_of_a_stranger_reaches_the_terminal_as_an_order(tmp_path, capsys):
    votes = pl.DataFrame(
        {
            "model_a": [f"x{EVIL[5:]}", "x"],
            "model_b": ["y", "y"],
            "outcome": ["a", f"won{EVIL}"],
            "rater": [f"r{EVIL}"] * 2,
            f"more{EVIL}": ["", ""],
            "dimension": [f"d{EVIL}"] * 2,
            "image_a": [f"i{EVIL}.png"] * 2,
        }
    )
    path = tmp_path / f"v{EVIL}.csv"
    votes.write_csv(path)
    reading = read_votes(path)
    said = [describe(reading), *notes(reading)]
    main(["inspect", str(path)])
    main(["fit", str(path), "--out", str(tmp_path / "ratings.parquet")])
    main(["inspect", str(tmp_path / f"gone{EVIL}")])
    said += capsys.readouterr()
    for text in said:
        assert all(each.isprintable() or each == "\n" for each in text), text
    assert "\\x1b[2J" in said[0]


def test_nothing_of_a_file_stands_in_an_error(tmp_path):
    secret = "alice@example.org"
    for name, content in {
        "no_header.csv": f"a cat,{secret},prompt\n",
        "twice.csv": f"{secret},{secret}\n",
        "cut.json": f'[{{"prompt": "{secret}"',
        "line.json": f'{{"prompt": "{secret}", }}',
        "nested.json": json.dumps([{"model_a": [secret], "model_b": "x", "outcome": "a"}]),
    }.items():
        (tmp_path / name).write_text(content)
        try:
            said = str(read_votes(tmp_path / name).require())
        except VotesError as error:
            said = str(error)
        assert name in said
        assert secret not in said, name


def test_under_a_salt_no_rejected_value_is_kept(read_text):
    shifted = f"{HEADER},rater\nx,y,one too many,alice@example.org\nx,y,a,r\n"
    reading = read_text(shifted, salt="salt")
    assert reading.rejected["value"].to_list() == [None]
    reading = read_text("model_a,model_b,rater,outcome\nx,y,z,alice@example.org\n", salt="salt")
    assert reading.rejected["value"].to_list() == [None]
