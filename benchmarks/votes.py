"""Votes in: how long, how much memory, how many bytes read.

    python -m benchmarks.votes [--rows 1000000] [--with-images 100000] [--battles 40000] [--pass 0]

Pick-a-Pic's columns, written here with invented content of the real lengths, become the accepted
table on disk. First without images, then the same number of rows with two images of 40 kB each and
without, so that the two times can be compared. Beside them the floor: polars reading the same
columns and writing them, with nothing checked. `--battles N` reads a JSON list of N battles, beside
`json.load` of the same file. `--pass N` sends N votes of the votes table through `read_ballots`
(what `fit` reads) and through the intake, and needs about 20 bytes of disk per vote. Every figure
is of a process of its own.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

GROUP = 2_000  # rows a row group with images, as the hub's files have it: about 160 MB
IMAGE = 40_000


def pickapic(rows: int, seed: int) -> pl.DataFrame:
    """Return rows with Pick-a-Pic's small columns: 60 characters of prompt, uids of 36."""
    random = np.random.default_rng(seed)
    words = np.array([f"{word:07x}" for word in random.integers(0, 1 << 28, 4000)])
    prompts = [" ".join(each) for each in random.choice(words, (max(rows // 14, 1), 8))]
    half = random.random(rows)
    label = np.where(half < 0.12, 0.5, np.where(half < 0.56, 1.0, 0.0))
    names = np.array([f"stabilityai/model-{i}" for i in range(12)])
    uid = random.integers(0, 1 << 62, (2, rows))
    return pl.DataFrame(
        {
            "are_different": np.ones(rows, bool),
            "caption": random.choice(np.array(prompts), rows),
            "created_at": 1_674_000_000_000_000 + np.sort(random.integers(0, 10**13, rows)),
            "has_label": np.ones(rows, bool),
            "image_0_uid": [f"{x:016x}-1111-2222-333333333333"[:36] for x in uid[0]],
            "image_1_uid": [f"{x:016x}-1111-2222-333333333333"[:36] for x in uid[1]],
            "label_0": label,
            "label_1": 1 - label,
            "model_0": random.choice(names, rows),
            "model_1": random.choice(names, rows),
            "ranking_id": np.arange(rows),
            "user_id": random.integers(0, 6000, rows),
        }
    ).with_columns(pl.col("created_at").cast(pl.Datetime("us")))


def write_with_images(small: pl.DataFrame, path: Path) -> None:
    """Write the rows with two columns of 40 kB each, which do not pack."""
    noise = np.random.default_rng(0).bytes(IMAGE + 5000)
    writer = None
    for start in range(0, small.height, GROUP):
        part = small[start : start + GROUP]
        images = [noise[i % 5000 : i % 5000 + IMAGE] for i in range(part.height)]
        table = part.to_arrow()
        for name in ("jpg_0", "jpg_1"):
            table = table.append_column(name, pa.array(images, pa.large_binary()))
        writer = writer or pq.ParquetWriter(
            path, table.schema, compression="none", use_dictionary=False
        )
        writer.write_table(table)
    assert writer is not None
    writer.close()


def write_table(rows: int, path: Path) -> None:
    """Write votes with a model, a model, an outcome and a time each, a million at a time."""
    random = np.random.default_rng(0)
    names = pa.array([f"model-{i:02}" for i in range(40)])
    outcomes = pa.array(["a", "b", "tie"])
    writer = None
    for start in range(0, rows, 1 << 20):
        n = min(1 << 20, rows - start)
        a, b = (pa.DictionaryArray.from_arrays(random.integers(0, 40, n), names) for _ in "ab")
        won = pa.DictionaryArray.from_arrays(random.integers(0, 3, n), outcomes)
        when = pa.array(np.arange(start, start + n) * 1_000_000, pa.timestamp("us", "UTC"))
        columns = {"model_a": a, "model_b": b, "outcome": won}
        table = pa.table(
            {k: v.cast(pa.string()) for k, v in columns.items()} | {"created_at": when}
        )
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def write_battles(rows: int, path: Path) -> None:
    """Write a JSON list of battles as FastChat's clean_battle_data.py does, with an indent of 2."""
    random = np.random.default_rng(0)
    names, winners = [f"model-{i:02}" for i in range(40)], ("model_a", "model_b", "tie (bothbad)")
    a, b = random.integers(0, 40, (2, rows))
    won = random.integers(0, 3, rows)
    battles = [
        {
            "model_a": names[a[i]],
            "model_b": names[b[i]],
            "winner": winners[won[i]],
            "judge": f"arena_user_{i % 997}",
            "anony": bool(i % 4),
            "tstamp": 1707700514.3167 + i,
        }
        for i in range(rows)
    ]
    path.write_text(json.dumps(battles, indent=2))


def intake(path: Path, out: Path) -> int:
    """Take the file in; return how many votes were accepted."""
    from arena.votes.intake import take_in

    names = ("votes", "rankings", "rejected")
    files = take_in([path], *(out / f"{name}.parquet" for name in names))
    return int(files["accepted"].sum())


def floor(path: Path, out: Path) -> int:
    """Read the same columns and write them, with nothing checked and nothing named."""
    from arena.votes.formats.pickapic import LABELS, NAMES

    names = [*(each for names in NAMES.values() for each in names), LABELS[1]]
    table = pl.read_parquet(path, columns=names)
    table.write_parquet(out / "floor.parquet")
    return table.height


def ballots(path: Path, out: Path) -> int:
    """Read what an estimator needs."""
    from arena.votes.read import read_ballots

    return read_ballots([path])[0].height


def whole(path: Path, out: Path) -> int:
    """Read everything into memory."""
    from arena.votes.read import read_votes

    return read_votes([path]).votes.height


def parsed(path: Path, out: Path) -> int:
    """Parse JSON, and nothing else."""
    return len(json.loads(path.read_text()))


WORK = {"intake": intake, "floor": floor, "ballots": ballots, "whole": whole, "parsed": parsed}


def measured(work: str, path: Path) -> dict[str, Any]:
    """Run one piece of work in a process of its own; return its seconds, memory and reads."""
    with tempfile.TemporaryDirectory(dir=path.parent) as out:
        command = [sys.executable, "-m", "benchmarks.votes", "--work", work, str(path), out]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def run_here(work: str, path: Path, out: Path) -> None:
    """Do the work and print what it took, imports and compilation apart."""
    import arena.votes.intake  # noqa: F401

    before, begun = _read_bytes(), time.perf_counter()
    votes = WORK[work](path, out)
    took = time.perf_counter() - begun
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1e6
    print(json.dumps({"votes": votes, "seconds": took, "GB": peak, "read": _read_bytes() - before}))


def _read_bytes() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


def say(what: str, found: dict[str, Any]) -> None:
    """Print one line."""
    print(
        f"{what:34} {found['votes']:>12,} votes {found['seconds']:7.2f} s "
        f"{found['GB']:5.2f} GB peak {found['read'] / 1e6:9.1f} MB read",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--with-images", type=int, default=100_000, help="rows with 40 kB images")
    parser.add_argument("--battles", type=int, default=40_000, help="in a JSON list")
    parser.add_argument("--pass", dest="passed", type=int, default=0, help="votes of the table")
    parser.add_argument("--folder", type=Path, help="where the files are written (default: temp)")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work, path, out = options.work
        run_here(work, Path(path), Path(out))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "votes.parquet"
        if options.rows:
            pickapic(options.rows, 0).write_parquet(path)
            say("Pick-a-Pic without images", measured("intake", path))
            say("  floor: read and write", measured("floor", path))
        if options.with_images:
            small = pickapic(options.with_images, 1)
            small.write_parquet(path, row_group_size=GROUP)
            say("the same, fewer rows", measured("intake", path))
            write_with_images(small, path)
            size = path.stat().st_size / 1e9
            say(f"  with images, a file of {size:.1f} GB", measured("intake", path))
        if options.battles:
            write_battles(options.battles, path)
            say("battles in a JSON list", measured("whole", path))
            say("  floor: json.loads", measured("parsed", path))
        if options.passed:
            write_table(options.passed, path)
            say("votes table, for an estimator", measured("ballots", path))
            say("votes table, to the lake", measured("intake", path))


if __name__ == "__main__":
    main()
