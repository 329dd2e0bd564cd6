"""A job's own side: begin where the launch prefix led, watch for a stop, say how it ended.

    python -P -m assets.child FOLDER MODULE ARGUMENTS...

FOLDER is the job's own in the lake, which both sides see; between them nothing else is needed, so
it does not matter what a prefix (ssh, srun, ray job submit) keeps of the environment or of signals.

    job.json     the working directory and the environment variables of the job
    alive        changed every second while the job works
    stop         asks the job to stop; it holds how many seconds the job may take to save
    ended-RANK   how each process ended, unless a signal ended it
"""

import contextlib
import json
import os
import runpy
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, TextIO

BEAT_SECONDS = 1.0
WITHOUT_A_FOLDER = 60.0
INTERRUPTED = 130


# How a report begins where Pipes has only the job's output for it.
REPORT = '{"__dagster_pipes'


class Heard:
    """A stream that remembers its last line for people, and outlives whoever reads it.

    Where a connection broke, nobody reads what the job prints; the job goes on.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.last = stream, ""

    def write(self, text: str) -> int:
        """Write and remember."""
        lines = [line for line in text.splitlines() if line.strip()]
        self.last = next((line for line in lines[::-1] if not line.startswith(REPORT)), self.last)
        with contextlib.suppress(BrokenPipeError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Send what was written."""
        with contextlib.suppress(BrokenPipeError):
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def main() -> None:
    """Run the module as `python -m` would, and end as it ends."""
    folder, module = Path(sys.argv[1]), sys.argv[2]
    told = json.loads((folder / "job.json").read_text())
    for name, value in told["defaults"].items():
        os.environ.setdefault(name, value)
    os.environ.update(told["environment"])
    name_ranks(os.environ, folder)
    os.chdir(told["folder"])
    # What a shell's script puts in the background is deaf to interrupts, and so are its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    beat(folder)
    threading.Thread(target=watch, args=(folder,), daemon=True).start()
    sys.stdout, sys.stderr = Heard(sys.stdout), (heard := Heard(sys.stderr))
    sys.argv = sys.argv[2:]
    status, traced = 0, False
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except BaseException:
        traceback.print_exc()
        status, traced = 1, True
    # Among several processes a traceback may only say that another one is gone.
    if not (traced and int(os.environ.get("WORLD_SIZE", "1")) > 1):
        said = json.dumps({"status": status, "said": heard.last.strip()})
        put(folder / f"ended-{os.environ.get('RANK', '0')}", said)
    sys.exit(status)


def beat(folder: Path) -> None:
    """Show that the job lives; of several processes the first does."""
    if os.environ.get("RANK", "0") == "0":
        (folder / "alive").write_text(str(time.monotonic()))


def watch(folder: Path) -> None:
    """Show that this process lives, and end it when it is asked to stop or its folder is gone."""
    while True:
        time.sleep(BEAT_SECONDS)
        try:
            beat(folder)
            grace = float((folder / "stop").read_text())
        except FileNotFoundError:
            if folder.exists():
                continue
            grace = WITHOUT_A_FOLDER
        except (OSError, ValueError):  # a network's storage takes a break; half a number
            continue
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace)
        os.kill(os.getpid(), signal.SIGKILL)


def name_ranks(environment: MutableMapping[str, str], folder: Path) -> None:
    """Give the tasks that `srun` started together the names that torchrun has for processes."""
    count = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if count == 1 or "RANK" in environment:
        return
    rank, address = environment["SLURM_PROCID"], folder / "address"
    if rank == "0":
        put(address, socket.gethostname())
    while not address.exists():
        time.sleep(0.2)
    environment.update(
        RANK=rank,
        WORLD_SIZE=str(count),
        LOCAL_RANK=environment["SLURM_LOCALID"],
        LOCAL_WORLD_SIZE=str(count // int(environment["SLURM_STEP_NUM_NODES"])),
        MASTER_ADDR=address.read_text(),
        MASTER_PORT=str(20000 + int(environment["SLURM_JOB_ID"]) % 20000),
    )


def put(path: Path, text: str) -> None:
    """Write a file that appears whole."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text)
    aside.replace(path)


if __name__ == "__main__":
    main()
