"""Each published layout in four containers, packed or not, gives one votes table."""

import bz2
import gzip
import json
import lzma
import zipfile

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from vote_files import shared_path

from arena.votes.faults import VotesError
from arena.votes.read import read_votes

LAYOUTS = (
    "argilla/records.jsonl",
    "battle_log/2024-02-12-conv.json",
    "battle_log/genai_bench.jsonl",
    "both_bad/votes.json",
    "hpd_v2/train.json",
    "hpd_v2/test.json",
    "hpd_v3/train.json",
    "containers/imagereward.json",
    "containers/pickapic.jsonl",
    "containers/battles.json",
    "label_studio/project-3.json",
    "label_studio/project-3-min.json",
    "kwise_ties/openskill166.jsonl",
    "imgsys/preferences_rows.csv",
    "containers/likert.csv",
    "rapidata/counted.csv",
    "image_ranker/comparisons.csv",
)


def records_of(path):
    """Return a file's records, read without the project's code."""
    if path.suffix == ".csv":
        return pl.read_csv(path, infer_schema=False).to_dicts()
    text = path.read_text()
    if text.startswith("["):
        return json.loads(text)
    return [json.loads(line) for line in text.splitlines()]


def write_records(kind, records, path):
    """Write records as people convert them: a nested cell of a csv is JSON."""
    names = list(dict.fromkeys(name for each in records for name in each))
    if kind == "json":
        path.write_text(json.dumps(records, indent=1))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(each) + "\n" for each in records))
    elif kind == "parquet":
        columns = {name: [each.get(name) for each in records] for name in names}
        pq.write_table(pa.table(columns), path)
    else:
        cell = {
            name: [
                json.dumps(each[name])
                if isinstance(each.get(name), list | dict | bool)
                else None
                if each.get(name) is None
                else str(each[name])
                for each in records
            ]
            for name in names
        }
        pl.DataFrame(cell, schema=dict.fromkeys(names, pl.String)).write_csv(path)
    return path


def same(one, other):
    assert one.votes.drop("source").equals(other.votes.drop("source"))
    assert one.rankings.drop("source").equals(other.rankings.drop("source"))
    assert one.rejected.drop("file").equals(other.rejected.drop("file"))


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "parquet"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_equal_tables_in_every_container(name, kind, tmp_path):
    path = shared_path(f"cases/votes/{name}")
    records = records_of(path)
    if kind == "parquet" and "label_studio/project-3.json" in name:
        for task in records:  # a parquet column has one type
            for each in task["annotations"]:
                by = each["completed_by"]
                each["completed_by"] = by["id"] if isinstance(by, dict) else by
    expected = read_votes([path])
    assert expected.accepted > 0
    same(read_votes([write_records(kind, records, tmp_path / "copy")]), expected)


PACKINGS = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda content: pa.compress(content, "zstd", asbytes=True),
}
CSV = b"model_a,model_b,outcome\nm,n,a\nn,m,tie\n"
JSONL = b'{"model_a": "m", "model_b": "n", "outcome": "a"}\n' * 2


def packed(kind, content, path):
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("inside", content)
    elif kind == "zst":
        with pa.CompressedOutputStream(path, "zstd") as stream:
            stream.write(content)
    else:
        path.write_bytes(PACKINGS[kind](content))
    return path


@pytest.mark.parametrize("kind", [*PACKINGS, "zip"])
@pytest.mark.parametrize("content", [CSV, JSONL], ids=["csv", "jsonl"])
def test_text_is_read_packed_whatever_it_is_called(content, kind, tmp_path):
    plain = tmp_path / "plain"
    plain.write_bytes(content)
    path = packed(kind, content, tmp_path / "packed")
    same(read_votes([path]), read_votes([plain]))


@pytest.mark.parametrize("kind", [*PACKINGS, "zip"])
def test_a_packed_file_that_is_cut_off_says_so(kind, tmp_path):
    lines = b"model_a,model_b,outcome\n" + b"".join(b"m,n%d,a\n" % i for i in range(20_000))
    path = packed(kind, lines, tmp_path / "cut")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VotesError, match=r"cut: .*deliver it again"):
        read_votes([path])


def test_a_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "votes.csv.gz"
    path.write_bytes(gzip.compress(b"model_a,model_b,outcome\n" + b" " * (300 << 20), 1))
    with pytest.raises(VotesError, match=r"votes\.csv\.gz: unpacks to more than"):
        read_votes([path])


def test_a_zip_of_several_files_is_refused(tmp_path):
    path = tmp_path / "votes.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("1.csv", CSV)
        archive.writestr("2.csv", CSV)
    with pytest.raises(VotesError, match="a zip archive of 2 files"):
        read_votes([path])


def test_what_a_mac_adds_to_a_zip_is_no_file_of_it(tmp_path):
    path = tmp_path / "votes.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("export/votes.csv", "export/.DS_Store", "__MACOSX/export/._votes.csv"):
            archive.writestr(name, CSV)
    assert read_votes([path]).accepted


def test_lists_and_durations_of_any_arrow_type_cost_no_vote(tmp_path):
    table = pa.table(
        {
            "path1": ["1.png"],
            "path2": ["2.png"],
            "model1": ["m"],
            "model2": ["n"],
            "choice_dist": pa.array([[12, 7]], pa.list_(pa.int32(), 2)),
            "lead_time": pa.array([90], pa.duration("s")),
        }
    )
    pq.write_table(table, tmp_path / "votes.parquet")
    how = {"columns": {"created_at": "lead_time"}}
    votes = read_votes([tmp_path / "votes.parquet"], **how).votes
    assert votes.select("votes_a", "votes_b").rows() == [(12, 7)]


def test_a_parquet_that_is_packed_besides_is_refused(tmp_path, votes_of):
    votes_of().write_parquet(tmp_path / "votes.parquet")
    path = packed("gz", (tmp_path / "votes.parquet").read_bytes(), tmp_path / "votes.parquet.gz")
    with pytest.raises(VotesError, match="a packed parquet file; unpack it"):
        read_votes([path])


NO_TABLES = {
    b"SQLite format 3\0": "a SQLite database; export its table",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n": "git lfs pull",
    b" <!DOCTYPE html>\n<html>": "a web page",
    b"\x80\x02]q\x00.": "a Python pickle, which can run code",
    b"\x80\x05\x95.": "a Python pickle, which can run code",
    b"%PDF-1.7": "a PDF",
    b"{\\rtf1\\ansi}": "a document of a word processor",
    b'<?xml version="1.0"?>': "an XML file",
    b"Obj\x01\x04\x14avro.codec": "an Avro file",
    b"ORC\x11\x00": "an ORC file",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an old Excel workbook",
    b"\x89PNG\r\n": "an image",
    b"model\0_a": "neither text nor a known table",
    b" \n": "the file is empty",
}


@pytest.mark.parametrize("content", NO_TABLES, ids=lambda content: str(content[:8]))
def test_what_is_no_table_says_what_it_is(content, tmp_path):
    path = tmp_path / "delivery"
    path.write_bytes(content)
    with pytest.raises(VotesError, match=rf"delivery: .*{NO_TABLES[content]}"):
        read_votes([path])


def test_an_excel_workbook_is_told_from_a_zip(tmp_path):
    path = tmp_path / "votes.xlsx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("[Content_Types].xml", "")
        archive.writestr("xl/workbook.xml", "")
    with pytest.raises(VotesError, match="an Excel workbook; save the sheet as csv"):
        read_votes([path])
