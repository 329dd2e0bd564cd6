"""Killed at 25 random moments and started again, the intake ends in the same content."""

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import time

import polars as pl
import pytest

from arena.votes.intake import take_in

# Forks a fresh process for every line that it is told; importing takes longer than the work.
SERVER = """
import os, sys
from pathlib import Path
import arena.votes.intake as stage
source, out = map(Path, sys.argv[1:])
paths = [out / f"{name}.parquet" for name in ("votes", "rankings", "rejected")]
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        stage.take_in([source], *paths)
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""

KILLS = 25


def content_of(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if not path.name.startswith(".")
    }


@pytest.fixture
def server(tmp_path):
    """Return (a function that starts the intake and gives its process id, one that awaits it)."""
    command = [sys.executable, "-c", SERVER, str(tmp_path / "in"), str(tmp_path / "out")]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:

        def start():
            process.stdin.write("\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield start, lambda: int(process.stdout.readline())
        process.stdin.close()


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_in_the_same_content(server, votes_of, tmp_path):
    start, end = server
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
    begun = time.monotonic()
    start()
    assert end() == 0
    took = time.monotonic() - begun
    for path in out.iterdir():
        path.unlink()
    moments = random.Random(0)
    killed = 0
    for _ in range(KILLS):
        child = start()
        time.sleep(moments.uniform(0, 1.1 * took))
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        killed += end() == signal.SIGKILL
        # What lies there is nothing, or what a whole run leaves: never half of it.
        assert content_of(out).items() <= whole.items()
    assert killed > KILLS // 3
    start()
    assert end() == 0
    assert content_of(out) == whole
    assert pl.read_parquet(out / "votes.parquet").height == 3_000 + 150
