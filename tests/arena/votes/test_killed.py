"""Killed at 25 moments of its work and started again, the intake ends in the same content."""

import hashlib
import signal
import subprocess
import sys

import polars as pl
import pytest

from arena.votes.intake import take_in

# Forks a fresh process for every line that it is told; importing takes longer than the work. The
# child kills itself at the event whose number it is told: a file opened, renamed or removed.
SERVER = """
import os, signal, sys
from pathlib import Path
import arena.votes.intake as stage
source, out = map(Path, sys.argv[1:])
paths = [out / f"{name}.parquet" for name in ("votes", "rankings", "rejected")]
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        left = int(line)
        def count(event, _):
            global left
            if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.listdir", "os.scandir"):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(count)
        stage.take_in([source], *paths)
        os.write(1, f"{int(line) - left}\\n".encode())
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status:
        print(-status, flush=True)
"""

KILLS = 25


def content_of(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if not path.name.startswith(".")
    }


@pytest.fixture
def take_in_elsewhere(tmp_path):
    """Return a function: kill the intake at the event of this number.

    It returns the signal as a negative number, or how many events a whole run has.
    """
    command = [sys.executable, "-c", SERVER, str(tmp_path / "in"), str(tmp_path / "out")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:

        def start(event):
            process.stdin.write(f"{event}\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield start
        process.stdin.close()


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_in_the_same_content(take_in_elsewhere, votes_of, tmp_path):
    source, out, expected = (tmp_path / name for name in ("in", "out", "expected"))
    for folder in (source, out, expected):
        folder.mkdir()
    votes = votes_of(3_000).drop("vote_id")
    votes[:2_000].write_csv(source / "1.csv")
    votes[2_000:].write_parquet(source / "2.parquet")
    (source / "3.jsonl").write_text('{"models": ["x", "y", "z"], "ranks": [1, 2, 2]}\n' * 50)
    names = ("votes", "rankings", "rejected")
    take_in([source], *(expected / f"{name}.parquet" for name in names))
    whole = content_of(expected)
    events = take_in_elsewhere(1_000_000)
    assert events > 10
    for path in out.iterdir():
        path.unlink()
    # Every moment from the last event backwards, where the tables are written, then evenly.
    moments = sorted({*range(events, events - 10, -1), *range(1, events, max(1, events // KILLS))})
    for moment in moments:
        assert take_in_elsewhere(moment) == -signal.SIGKILL
        # What lies there is nothing, or what a whole run leaves: never half of it.
        assert content_of(out).items() <= whole.items()
    assert take_in_elsewhere(1_000_000) > 0
    assert content_of(out) == whole
    assert pl.read_parquet(out / "votes.parquet").height == 3_000 + 150
