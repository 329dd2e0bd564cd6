"""A file is replaced whole, and what a killed process left beside it is removed."""

import os
import signal
import subprocess
import sys

import pytest

from arena.atomic import HOST, replacing, writes

WRITER = """
import os, signal, sys
from pathlib import Path
from arena.atomic import replacing
with replacing(Path(sys.argv[1])) as aside:
    aside.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_write_removes_what_a_killed_one_left(tmp_path):
    table = tmp_path / "votes.parquet"
    killed = subprocess.run([sys.executable, "-c", WRITER, str(table)], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.read_text() == "half"
    with replacing(table) as aside:
        aside.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["votes.parquet"]
    assert table.read_text() == "whole"


def test_what_others_are_writing_stays(tmp_path):
    mine = tmp_path / f".a.csv.0f@{HOST}.{os.getpid()}.partial"
    another_host_s = tmp_path / f".a.csv.0f@not-{HOST}.{2**22 + 1}.partial"
    no_process_s = tmp_path / ".download.partial"
    for path in (mine, another_host_s, no_process_s):
        path.touch()
        assert writes(path)
    with replacing(tmp_path / "a.csv") as aside:
        aside.write_text("x")
    assert {path.name for path in tmp_path.iterdir()} == {
        *(path.name for path in (mine, another_host_s, no_process_s)),
        "a.csv",
    }


def test_after_an_error_the_old_file_is_untouched(tmp_path):
    path = tmp_path / "ratings.parquet"
    path.write_text("old")

    def stumble():
        with replacing(path) as aside:
            aside.write_text("new")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        stumble()
    assert [each.read_text() for each in tmp_path.iterdir()] == ["old"]
