"""Compressed Arrow that would unpack to more than the limit is refused before it is unpacked."""

import io
import struct

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from arena.votes.arrow_sizes import stated_size
from arena.votes.faults import VotesError
from arena.votes.read import read_votes

ROWS = 4000
VOTES = pa.table(
    {
        "model_a": pa.array(["x" * 400, "y"] * (ROWS // 2)).dictionary_encode(),
        "model_b": ["z"] * ROWS,
        "outcome": ["a"] * ROWS,
        "weight": np.zeros(ROWS),  # 32,000 bytes: found by their stated length below
    }
)
NEW = {"file": pa.ipc.new_file, "stream": pa.ipc.new_stream}


def written(kind, codec):
    sink = io.BytesIO()
    with NEW[kind](sink, VOTES.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as out:
        out.write_table(VOTES)
    return sink.getvalue()


@pytest.mark.parametrize("kind", NEW)
@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_what_a_buffer_claims_is_refused_before_anything_is_taken(tmp_path, kind, codec):
    path, whole = tmp_path / "votes.arrow", written(kind, codec)
    path.write_bytes(whole)
    assert read_votes(path).accepted == ROWS
    for stated in (ROWS * 8, 402):  # of a column, and of the dictionary: offsets aside 400 + 1
        claimed = whole.replace(struct.pack("<q", stated), struct.pack("<q", 10**15))
        if claimed == whole:
            continue  # such a small buffer was left as it is
        path.write_bytes(claimed)
        with pytest.raises(VotesError, match=r"unpacks to more than 268,435,456 bytes"):
            read_votes(path)


def test_the_stated_size_is_that_of_the_columns(tmp_path):
    path = tmp_path / "votes.arrow"
    for kind in NEW:
        path.write_bytes(written(kind, "zstd"))
        with pa.memory_map(str(path)) as stream:
            size = stated_size(stream, kind == "file")
        # Some buffers are padded, and a validity that says nothing is left out.
        assert size == pytest.approx(VOTES.nbytes, rel=0.05)
        path.write_bytes(written(kind, None))
        with pa.memory_map(str(path)) as stream:
            assert stated_size(stream, kind == "file") == 0
    # Another writer's file: two columns of 5,000 numbers of eight and (categories) four bytes.
    frame = pl.DataFrame({"a": pl.arange(5000, eager=True), "c": ["x", "y"] * 2500})
    frame.cast({"c": pl.Categorical}).write_ipc(path, compression="zstd")
    with pa.memory_map(str(path)) as stream:
        assert stated_size(stream, True) == pytest.approx(5000 * 12, rel=0.05)
