"""Ten thousand spoiled files: no traceback, no lost row, and a message that names what to mend.

Every real layout is cut, flipped, retyped and filled with what people and machines put into files.
"""

import gzip
import io
import json
import random
import tarfile
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from arena.ratings.comparisons import Comparisons
from arena.votes.faults import VotesError
from arena.votes.formats import READERS
from arena.votes.read import read_votes
from arena.votes.stream import read_comparisons, votes_in_batches

NASTY = [
    None,
    "",
    " ",
    "NaN",
    float("nan"),
    float("inf"),
    -1,
    10**30,
    2**63,
    True,
    [],
    {},
    [[]],
    {"a": 1},
    'quo"te',
    "new\nline",
    "tab\tand\0nul",
    "../../etc/passwd",
    "<script>alert(1)</script>",
    "x,y",
    "模型",
    "\ud800",
    "2999-01-01",
    "1e400",
    "x" * 20_000,
    b"\xff\xfe".decode("latin-1"),
]

VOTE = {
    "vote_id": "v",
    "model_a": "x",
    "model_b": "y",
    "outcome": "a",
    "prompt": "a cat",
    "created_at": "2026-01-01T00:00:00Z",
    "confidence": 0.5,
}
RECORDS = {
    "jsonl": VOTE,
    "battles": {"model_a": "x", "model_b": "y", "winner": "tie", "judge": "j", "tstamp": 1.5},
    "hpd_v3": {"prompt": "p", "path1": "1", "path2": "2", "model1": "x", "model2": "y"},
    "hpd_v2": {"prompt": "p", "image_path": ["1", "2"], "human_preference": [1, 0]},
    "imagereward": {"id": "i", "prompt": "p", "generations": ["1", "2"], "ranking": [1, 2]},
    "ksort": {"prompt": ["p"], "img_rank": [0, 1], "models_name": ["0_x", "1_y"]},
    "rankings": {"vote_id": "v", "models": ["x", "y"], "ranks": [1, 2]},
}
KINDS = [*RECORDS, "csv", "likert csv", "likert json", "parquet", "pickapic", "tar", "gzip"]
EACH = 720  # of 14 kinds: 10,080 files


def spoil(record, rng):
    """Return a copy of a record with one to three of its values, keys or names spoiled."""
    record = dict(record)
    for _ in range(rng.randint(1, 3)):
        key = rng.choice([*record, "other"])
        what = rng.random()
        if what < 0.15:
            record.pop(key, None)
        elif what < 0.25 and isinstance(record.get(key), list):
            record[key] = [*record[key], rng.choice(NASTY)]
        else:
            record[key] = rng.choice(NASTY)
    return record


def records_of(record, rng):
    made = [dict(record) for _ in range(rng.randint(1, 6))]
    for i, each in enumerate(made):
        if "vote_id" in each and rng.random() < 0.8:
            each["vote_id"] = f"v{i}"
    spoiled = [spoil(each, rng) if rng.random() < 0.5 else each for each in made]
    if rng.random() < 0.1:
        spoiled.insert(rng.randrange(len(spoiled) + 1), rng.choice(NASTY))
    return spoiled


def as_csv(records, rng):
    names = list(dict.fromkeys(name for each in records if isinstance(each, dict) for name in each))
    lines = [",".join(names)]
    for each in records:
        values = each.values() if isinstance(each, dict) else [each]
        cells = [str(value) for value in values]
        if rng.random() < 0.7:
            cells = ['"' + cell.replace('"', '""') + '"' for cell in cells]
        lines.append(",".join(cells))
    return "\n".join(lines).encode("utf-8", "replace")


def as_tar(records):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for i, each in enumerate(records):
            for name, content in ((f"{i}.json", json.dumps(each)), (f"{i}.jpg_0", "image")):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content.encode()))
    return stream.getvalue()


def as_parquet(records, rng):
    """Return a parquet of flat values; a column is what its values have in common, or text."""
    flat = [
        {k: v for k, v in each.items() if v != {} and "\ud800" not in str(v)}
        for each in records
        if isinstance(each, dict)
    ]
    names = list(dict.fromkeys(name for each in flat for name in each)) or ["x"]
    arrays = []
    for name in names:
        values = [each.get(name) for each in flat]
        try:
            arrays.append(pa.array(values))
        except (pa.ArrowException, OverflowError, ValueError):
            arrays.append(pa.array([None if v is None else str(v) for v in values]))
    stream = io.BytesIO()
    frame = pa.table(dict(zip(names, arrays, strict=True)))
    pq.write_table(frame, stream, compression=rng.choice(["snappy", "zstd", None]))
    return stream.getvalue()


PICKAPIC = {
    "caption": "a cat",
    "model_0": "x",
    "model_1": "y",
    "label_0": 1.0,
    "label_1": 0.0,
    "has_label": True,
    "user_id": 7,
    "created_at": datetime(2023, 1, 1),
}


def a_file(kind, rng):
    """Return the bytes of one file of a kind, spoiled in its values."""
    if kind in RECORDS:
        records = records_of(RECORDS[kind], rng)
        if kind == "jsonl" or rng.random() < 0.2:
            return "\n".join(json.dumps(each) for each in records).encode()
        return json.dumps(records, indent=rng.choice([None, 1])).encode()
    if kind == "csv":
        return as_csv(records_of(VOTE, rng), rng)
    if kind == "likert csv":
        scores = {"model": "x", "prompt_id": "p", "rater": "r", "score": 3}
        scored = [scores | {"model": rng.choice("xyz")} for _ in range(4)]
        return as_csv(scored + records_of(scores, rng), rng)
    if kind == "pickapic":
        return as_parquet(records_of(PICKAPIC, rng), rng)
    if kind == "tar":
        plain = {name: str(value) for name, value in PICKAPIC.items()}
        return as_tar(records_of(plain, rng))
    return gzip.compress(as_csv(records_of(VOTE, rng), rng), 1)


def damaged(content, rng):
    """Return the bytes cut, flipped, doubled, or as another encoding would have them."""
    what = rng.random()
    if what < 0.4 or not content:
        return content
    at = rng.randrange(len(content))
    if what < 0.6:
        return content[:at]
    if what < 0.8:
        spoiled = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            spoiled[rng.randrange(len(spoiled))] = rng.randrange(256)
        return bytes(spoiled)
    if what < 0.85:
        return content[:at] + content
    if what < 0.9:
        return content.decode("latin-1").encode(rng.choice(["utf-16", "utf-8"]))
    return content[:at] + rng.randbytes(rng.randint(1, 40)) + content[at:]


def check(path, **more):
    """Read a file; whatever it is, all of it is accounted for or one sentence names it."""
    try:
        reading = read_votes([path], **more)
    except VotesError as error:
        said = str(error)
        assert said.startswith(str(path)), said
        assert "\n" not in said.replace("\\n", ""), said
        assert len(said) < 1200
        return False
    assert reading.rows == reading.accepted + reading.rejected.height + reading.duplicates
    rejected = reading.rejected
    assert (rejected["file"] == str(path)).all()
    assert (rejected["row"] >= 1).all()
    assert (rejected["reason"].str.len_chars() > 0).all()
    assert rejected["value"].drop_nulls().str.len_chars().max() is None or (
        rejected["value"].drop_nulls().str.len_chars().max() <= 200
    )
    assert reading.votes["vote_id"].n_unique() == reading.votes.height
    assert reading.votes["outcome"].is_in(["a", "b", "tie"]).all()
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_no_file_ends_in_a_traceback_or_loses_a_row(kind, tmp_path):
    rng = random.Random(kind)
    path = tmp_path / "delivery"
    read = 0
    for _ in range(EACH):
        path.write_bytes(damaged(a_file(kind, rng), rng))
        read += check(path)
    # Were nothing read, nothing would be tested.
    assert read > EACH // 20


def test_a_format_that_is_settled_wrongly_is_no_traceback_either(tmp_path):
    rng = random.Random(0)
    path = tmp_path / "delivery"
    for _ in range(600):
        path.write_bytes(a_file(rng.choice(KINDS), rng))
        check(path, format=rng.choice(list(READERS)))


def test_streaming_a_spoiled_table_accepts_and_rejects_the_same(tmp_path):
    rng = random.Random(1)
    path = tmp_path / "delivery"
    compared = 0
    for _ in range(300):
        path.write_bytes(as_parquet(records_of(VOTE, rng), rng))
        try:
            reading = read_votes([path])
        except VotesError:
            with pytest.raises(VotesError, match="delivery"):
                read_comparisons([path])
            continue
        found, rejected = read_comparisons([path])
        expected = Comparisons.of(reading.votes)
        assert rejected == reading.rejected.height
        assert found.models == expected.models
        assert found.outcome.tolist() == expected.outcome.tolist()
        ids = [name for batch in votes_in_batches([path]) for name in batch["vote_id"]]
        assert ids == reading.votes["vote_id"].to_list()
        compared += 1
    assert compared > 100


def test_a_string_of_ten_megabytes_is_a_vote_or_a_rejection(tmp_path):
    path = tmp_path / "votes.csv"
    long = "x" * 10_000_000
    path.write_text(f"model_a,model_b,outcome,prompt\nx,y,a,{long}\n{long},y,a,p\nx,y,{long},p\n")
    reading = read_votes([path])
    assert (reading.rows, reading.accepted) == (3, 1)
    assert reading.rejected.select("row", "column").rows() == [(2, "model_a"), (3, "outcome")]
    assert reading.rejected["value"].str.len_chars().max() == 200


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"models":'])
def test_json_nested_without_end_is_a_sentence(opening, tmp_path):
    path = tmp_path / "deep.json"
    path.write_text(opening * 100_000)
    with pytest.raises(VotesError, match=r"deep\.json"):
        read_votes([path])
