"""Votes arrive, the arena is refitted and a policy trains, for as long as it is told.

    python -m benchmarks.soak [--minutes 60] [--votes 200] [--every 60]

The miniature, in a folder of its own: `python -m pipelines ui` serves it and its daemon rates what
arrives; beside it `python -m training` trains a policy without an end. Every minute: the resident
memory of each server with its children and of the training, the disk, and how many votes are rated.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import polars as pl
import psutil

HOUSE = Path(__file__).resolve().parents[1]
WORLD = HOUSE / "examples" / "miniature" / "world"
WATCHED = {
    "webserver": "pipelines.webserver", "daemon": "dagster._daemon", "mlflow": "mlflow server",
    "training": "-m training",
}  # fmt: skip


def make_study(folder: Path) -> Path:
    """Write the miniature with its lake and its landing folder here; 100 new votes are rated."""
    text = (HOUSE / "experiments" / "miniature.toml").read_text()
    text = text.replace("../examples/", f"{HOUSE}/examples/").replace("../lake/miniature", "lake")
    path = folder / "soak.toml"
    path.write_text(text)
    (folder / "lake" / "landing").mkdir(parents=True)
    return path


def deliver(folder: Path, votes: pl.DataFrame, number: int, count: int) -> None:
    """Put one file of votes into the landing folder, whole."""
    some = votes.sample(count, seed=number).with_columns(
        pl.Series("vote_id", [f"soak-{number}-{k}" for k in range(count)]),
    )
    aside = folder / f"delivery-{number}.jsonl"
    some.write_ndjson(aside)
    aside.rename(folder / "lake" / "landing" / aside.name)


def megabytes(of: psutil.Process) -> float:
    """Return the resident memory of a process and its children."""
    total = 0.0
    with suppress(psutil.Error):
        for each in [of, *of.children(recursive=True)]:
            with suppress(psutil.Error):
                total += each.memory_info().rss / 1e6
    return total


def sizes(folder: Path, parents: list[psutil.Process]) -> dict[str, float]:
    """Return megabytes by what takes them."""
    found = dict.fromkeys(WATCHED, 0.0)
    for parent in parents:
        with suppress(psutil.Error):
            for each in [parent, *parent.children()]:
                line = " ".join(each.cmdline())
                for name, word in WATCHED.items():
                    if word in line and " ui " not in line:
                        found[name] = megabytes(each)
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    disk = 0.0
    for path in files:
        with suppress(OSError):
            disk += path.stat().st_size / 1e6
    return {**found, "disk": disk}


def rated(folder: Path) -> int:
    """Return how many votes the ratings count."""
    with suppress(OSError, pl.exceptions.PolarsError):
        return int(pl.read_parquet(folder / "lake/ratings/ratings.parquet")["votes"].sum()) // 2
    return 0


def main() -> None:
    """Soak, and print a line per minute."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--votes", type=int, default=200, help="in a delivery")
    parser.add_argument("--every", type=float, default=60, help="seconds between deliveries")
    options = parser.parse_args()
    votes = pl.read_parquet(WORLD / "votes.parquet")
    folder = Path(tempfile.mkdtemp(prefix="arenapo-soak-"))
    home = folder / "home"
    home.mkdir()
    shutil.copy(HOUSE / "dagster.yaml", home)
    told = {**os.environ, "DAGSTER_HOME": str(home)}
    python, study = [sys.executable, "-m"], make_study(folder)
    ports = [f"--{name}-port={port}" for name, port in
             (("dagster", 3911), ("mlflow", 3912), ("voting", 3913))]  # fmt: skip
    quiet = {"stdout": (folder / "log").open("w"), "stderr": subprocess.STDOUT, "env": told}
    pages = subprocess.Popen([*python, "pipelines", "ui", str(study), *ports], **quiet)
    training = subprocess.Popen(
        [*python, "training", str(study), "--policy", "arenapo", "--out", str(folder / "run"),
         "--set", "train.steps=1000000"],
        **quiet,
    )  # fmt: skip
    parents = [psutil.Process(each.pid) for each in (pages, training)]
    names = "  ".join(f"{name:>9}" for name in (*WATCHED, "disk"))
    print(f"minute  {names}  rated", flush=True)
    begun = time.monotonic()
    delivered = minute = 0
    try:
        while (now := time.monotonic() - begun) < options.minutes * 60:
            if now >= delivered * options.every:
                deliver(folder, votes, delivered, options.votes)
                delivered += 1
            if now >= minute * 60:
                found = sizes(folder, parents)
                cells = "  ".join(f"{value:>6.0f} MB" for value in found.values())
                print(f"{minute:>6}  {cells}  {rated(folder)}", flush=True)
                minute += 1
            time.sleep(1)
    finally:
        for each in (training, pages):
            each.send_signal(signal.SIGINT)
        for each in (training, pages):
            with suppress(subprocess.TimeoutExpired):
                each.wait(timeout=60)
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    print(f"{delivered} deliveries; trained to step {json.loads(lines[-1])['step']}; {folder}")


if __name__ == "__main__":
    main()
