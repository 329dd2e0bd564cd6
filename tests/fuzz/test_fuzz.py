"""Spoiled files of every kind: no traceback, no abort, no 2 GB and no 20 seconds for one of them.

A fault names its number: `hostile.spoiled(kind, number)` makes the file again.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import KINDS, seeds

HERE = Path(__file__).parent
HOUSE = HERE.parents[1]
# pyarrow 25 ends the process over a parquet whose size statistics contradict its schema, as soon as
# the metadata of that column is asked for: no handler of ours is reached (docs/guide/security.md).
NOT_OURS = "Definition level histogram size mismatch"
A_FEW, MANY = 500, 20_000


def faults(kind: str, count: int, folder: Path) -> list[str]:
    """Read `count` spoiled files of a kind; return what went wrong, a sentence for each."""
    found, at = [], 0
    environment = os.environ | {
        "PYTHONPATH": str(HOUSE), "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "2",
        "MALLOC_ARENA_MAX": "2", "ARROW_DEFAULT_MEMORY_POOL": "system",
    }  # fmt: skip
    while at < count:
        told = [kind, str(at), str(count - at), str(folder)]
        run = subprocess.run(
            [sys.executable, str(HERE / "reading_process.py"), *told],
            env=environment, capture_output=True, text=True, cwd=HERE, check=False,
        )  # fmt: skip
        lines = [json.loads(line) for line in run.stdout.splitlines()]
        found += [f"{kind} {one['number']}: {one['error']}" for one in lines if "error" in one]
        if run.returncode == 0:
            break
        reached = int((folder / "at").read_text()) if (folder / "at").exists() else at
        if NOT_OURS not in run.stderr[-300:]:
            found.append(f"{kind} {reached}: ended with {run.returncode}: {run.stderr[-800:]}")
        at = reached + 1
        (folder / "at").unlink(missing_ok=True)
        if len(found) > 20:
            break
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_few_spoiled_files_of_each_kind(kind, tmp_path):
    assert faults(kind, A_FEW, tmp_path) == []


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_thousand_spoiled_files(kind, tmp_path):
    assert faults(kind, MANY, tmp_path) == []


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}x"])
def test_a_scorers_damaged_weights_are_one_sentence(tmp_path, name, content):
    from evaluation.errors import EvaluationError
    from evaluation.hub import read_state

    (tmp_path / name).write_bytes(content)
    with pytest.raises(EvaluationError, match=rf"{name}: not a checkpoint of tensors: ."):
        read_state(tmp_path / name)


def not_text(name: str) -> pa.Table:
    """Return a column of text that is no UTF-8."""
    texts = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
    )
    return pa.table({name: texts})


def test_prompts_that_are_no_text_are_one_sentence(tmp_path):
    from evaluation.errors import EvaluationError
    from evaluation.prompts import read_prompts

    path = tmp_path / "prompts.parquet"
    pq.write_table(not_text("prompt"), path)
    with pytest.raises(EvaluationError, match=r"prompts\.parquet: not a readable parquet table"):
        read_prompts(path)
    pq.write_table(pa.table({"prompt": ["a cat"], "style": ["x"]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"style", b"sty\xff\xfe"))
    with pytest.raises(EvaluationError, match=r"prompts\.parquet: not a readable parquet table"):
        read_prompts(path)


def test_many_columns_of_one_name_are_one_sentence(tmp_path):
    from evaluation.errors import EvaluationError
    from evaluation.prompts import read_prompts

    path = tmp_path / "prompts.csv"
    path.write_text(",".join(["prompt", *["x"] * 15_000]) + "\n" + "a cat" + ",1" * 15_000 + "\n")
    with pytest.raises(EvaluationError, match="has two columns 'x'"):
        read_prompts(path)


def test_a_damaged_leaderboard_is_one_sentence(tmp_path):
    from arena.ratings.table import Ratings

    path = tmp_path / "ratings.parquet"
    for name, content in seeds("ratings"):
        if name == path.name:
            path.write_bytes(content[:-40] + content[-20:])
            with pytest.raises(ValueError, match=r"ratings\.parquet: no table of ratings"):
                Ratings.read(path)
    pq.write_table(not_text("model").append_column("mu", [[1.0]]), path)
    with pytest.raises(ValueError, match=r"ratings\.parquet: no table of ratings"):
        Ratings.read(path)
    pq.write_table(pa.table({"model": ["x"], "style": ["y"]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"style", b"sty\xff\xfe"))
    with pytest.raises(ValueError, match=r"ratings\.parquet: no table of ratings"):
        Ratings.read(path)
    words = tmp_path / "ratings.csv"
    words.write_text("model_name,rating,rating_lower,rating_upper\nflux,12oo,1100,1300\n")
    with pytest.raises(ValueError, match="not a leaderboard, a column is of another type"):
        Ratings.read(words)
    with pytest.raises(FileNotFoundError):
        Ratings.read(tmp_path / "none.csv")
