"""Ten thousand spoiled files: no traceback, no lost row, and a message that names what to mend.

Every layout is cut, flipped, retyped and filled with what people and machines put into files.
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
from vote_files import adds_up

from arena.votes.faults import VotesError
from arena.votes.formats import FORMATS
from arena.votes.read import read_ballots, read_votes

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
    "x,y",
    "模型",
    "\ud800",
    "2999-01-01",
    "1e400",
    "x" * 2_000,
    "1.0",
    b"\xff\xfe".decode("latin-1"),
]

SIDES = {"model_a": "x", "model_b": "y"}
VOTE = SIDES | {
    "vote_id": "v",
    "outcome": "a",
    "prompt": "a cat",
    "created_at": "2026-01-01T00:00:00Z",
    "votes_a": 3,
    "votes_b": 1,
}
RANKED = {"rank": [1, 2], "user_hash": "u"}
LOG = {"type": "leftvote", "tstamp": 1.5, "models": ["x", "y"], "states": [{"model_name": "x"}] * 2}
ANSWER = {"type": "pairwise", "to_name": "i,j", "value": {"selected": "left"}}
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
RECORDS = {
    "table": VOTE,
    "battles": SIDES | {"winner": "tie", "judge": "j", "tstamp": 1.5},
    "battles_one_hot": SIDES | {"winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0},
    "hpd_v3": {"path1": "1", "path2": "2", "model1": "x", "model2": "y", "choice_dist": [3, 1]},
    "hpd_v2": {"prompt": "p", "file_path": ["1", "2"], "human_preference": [1, 0]},
    "hpd_v2 test": {"image_path": ["1", "2"], "rank": [1, 2], "raw_annotations": [RANKED] * 2},
    "imagereward": {"id": "i", "prompt": "p", "generations": ["1", "2"], "ranking": [1, 2]},
    "ksort": {"prompt": ["p"], "img_rank": [0, 1], "models_name": ["0_x", "1_y"]},
    "rankings": {"vote_id": "v", "models": ["x", "y"], "ranks": [1, 2]},
    "argilla": {"model_1": "x", "model_2": "y", "q.responses": ["image_1"]},
    "battle_log": LOG,
    "label_studio": {
        "data": {"model_1": "x", "model_2": "y", "i": "1", "j": "2"},
        "annotations": [{"id": 1, "completed_by": 2, "result": [ANSWER]}],
    },
    "rapidata": {"model1": "x", "model2": "y", "votes_image1": 3, "votes_image2": 1},
    "rapidata_shares": {
        "model1": "x",
        "model2": "y",
        "weighted_results_image1_preference": 0.7,
        "weighted_results_image2_preference": 0.3,
    },
    "rapidata_order": {"aggregatedResults": {"x_1.png": 3, "y_1.png": 1}, "context": "p"},
    "genai_bench": {"left_model": "x", "right_model": "y", "vote_type": "leftvote"},
    "image_ranker": {"Winner": "x/1.png", "Loser": "y/1.png"},
    "imgsys": SIDES | {"preference": 0.5},
    "likert": {"model": "x", "prompt_id": "p", "rater": "r", "score": 3},
    "pickapic": PICKAPIC,
}
CONTAINERS = ("csv", "json", "jsonl", "parquet", "gzip", "tar")
EACH, MORE = 40, 460  # of 20 layouts: 800 files in every run, 10,000 with --long


def spoil(record, rng):
    """Return a copy of a record with one to three of its values, keys or names spoiled."""
    record = dict(record)
    for _ in range(rng.randint(1, 3)):
        key = rng.choice([*record, "other"])
        what = rng.random()
        if what < 0.15:
            record.pop(key, None)
        elif what < 0.3 and isinstance(record.get(key), list):
            record[key] = [*record[key], rng.choice(NASTY)]
        elif what < 0.4 and isinstance(record.get(key), list) and record[key]:
            inner = record[key][0]
            record[key] = [spoil(inner, rng) if isinstance(inner, dict) else rng.choice(NASTY)]
        elif what < 0.5 and isinstance(record.get(key), dict):
            record[key] = spoil(record[key], rng)
        else:
            record[key] = rng.choice(NASTY)
    return record


def records_of(record, rng):
    made = [dict(record) for _ in range(rng.randint(1, 5))]
    for i, each in enumerate(made):
        if "score" in each:
            each["model"] = "xyzuv"[i]
        if "vote_id" in each and rng.random() < 0.8:
            each["vote_id"] = f"v{i}"
    spoiled = [spoil(each, rng) if rng.random() < 0.5 else each for each in made]
    if rng.random() < 0.1:
        spoiled.insert(rng.randrange(len(spoiled) + 1), rng.choice(NASTY))
    return spoiled


def dumped(value):
    return json.dumps(value, default=str)


def as_csv(records, rng):
    names = list(dict.fromkeys(name for each in records if isinstance(each, dict) for name in each))
    lines = [",".join(names)]
    for each in records:
        values = each.values() if isinstance(each, dict) else [each]
        cells = [dumped(v) if isinstance(v, list | dict) else str(v) for v in values]
        if rng.random() < 0.7:
            cells = ['"' + cell.replace('"', '""') + '"' for cell in cells]
        lines.append(",".join(cells))
    return "\n".join(lines).encode("utf-8", "replace")


def as_tar(records):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for i, each in enumerate(records):
            for name, content in ((f"{i}.json", dumped(each)), (f"{i}.jpg_0", "image")):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content.encode()))
    return stream.getvalue()


def as_parquet(records, rng):
    """Return a parquet; a column is what its values have in common, or text."""
    flat = [
        {k: v for k, v in each.items() if v != {} and "ud800" not in repr(v)}
        for each in records
        if isinstance(each, dict)
    ]
    names = list(dict.fromkeys(name for each in flat for name in each)) or ["x"]
    arrays = []
    for name in names:
        values = [each.get(name) for each in flat]
        try:
            arrays.append(pa.array(values))
        except (pa.ArrowException, OverflowError, ValueError, TypeError):
            arrays.append(pa.array([None if v is None else str(v) for v in values]))
    stream = io.BytesIO()
    frame = pa.table(dict(zip(names, arrays, strict=True)))
    try:
        pq.write_table(frame, stream, compression=rng.choice(["snappy", "zstd", None]))
    except pa.ArrowException:  # a type that parquet has not
        return as_csv(records, rng)
    return stream.getvalue()


def a_file(layout, rng):
    """Return the bytes of one file of a layout, spoiled in its values."""
    records = records_of(RECORDS[layout], rng)
    if layout == "rapidata_order":
        return dumped({"info": {}, "results": records}).encode()
    container = rng.choice(CONTAINERS)
    if container == "csv":
        return as_csv(records, rng)
    if container == "gzip":
        return gzip.compress(as_csv(records, rng), 1)
    if container == "parquet":
        return as_parquet(records, rng)
    if container == "tar":
        return as_tar(records)
    if container == "jsonl":
        return "\n".join(map(dumped, records)).encode()
    return json.dumps(records, indent=rng.choice([None, 1]), default=str).encode()


def damaged(content, rng):
    """Return the bytes cut, flipped, doubled, or as another encoding would have them."""
    what = rng.random()
    if what < 0.5 or not content:
        return content
    at = rng.randrange(len(content))
    if what < 0.65:
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


def check(path, read=read_votes, **how):
    """Read a file; whatever it is, all of it is accounted for or one sentence names it."""
    try:
        reading = read([path], **how)
    except VotesError as error:
        said = str(error)
        assert said.startswith(str(path)), said
        assert "\n" not in said, said
        assert len(said) < 1200
        return None
    adds_up(reading)
    rejected = reading.rejected
    assert (rejected["file"] == str(path)).all()
    assert (rejected["row"] >= 1).all()
    assert (rejected["reason"].str.len_chars() > 0).all()
    assert (rejected["value"].drop_nulls().str.len_chars() <= 200).all()
    assert reading.votes["outcome"].is_in(["a", "b", "tie"]).all()
    return reading


def read_spoiled(layout, n, path, seed):
    """Read n spoiled files; assert that some of them are still read."""
    rng = random.Random(seed)
    accepted = 0
    for _ in range(n):
        path.write_bytes(damaged(a_file(layout, rng), rng))
        reading = check(path)
        accepted += reading is not None and reading.accepted > 0
    # Were nothing read, nothing would be tested.
    assert accepted > n // 10


@pytest.mark.parametrize("layout", RECORDS)
def test_no_file_ends_in_a_traceback_or_loses_a_row(layout, tmp_path):
    read_spoiled(layout, EACH, tmp_path / "delivery", layout)


@pytest.mark.long
@pytest.mark.parametrize("layout", RECORDS)
def test_nor_does_any_of_ten_thousand(layout, tmp_path):
    read_spoiled(layout, MORE, tmp_path / "delivery", f"{layout}, more")


def test_a_format_that_is_told_wrongly_is_no_traceback_either(tmp_path):
    rng = random.Random(0)
    path = tmp_path / "delivery"
    for _ in range(100):
        path.write_bytes(a_file(rng.choice(list(RECORDS)), rng))
        check(path, format=rng.choice(list(FORMATS)))


def test_ballots_of_a_spoiled_table_are_its_votes(tmp_path):
    rng = random.Random(1)
    path = tmp_path / "delivery"
    compared = 0
    for _ in range(50):
        path.write_bytes(as_parquet(records_of(VOTE, rng), rng))
        reading = check(path)
        if reading is None:
            with pytest.raises(VotesError, match="delivery"):
                read_ballots([path])
            continue
        ballots, few = read_ballots([path])
        assert few.rejected.equals(reading.rejected)
        assert ballots["model_a"].to_list() == reading.votes["model_a"].to_list()
        assert ballots["outcome"].to_list() == reading.votes["outcome"].to_list()
        compared += 1
    assert compared > 20
