"""Start the training job in two processes, as torchrun does: on one machine, or on two nodes."""

import socket
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUN = ["-m", "torch.distributed.run", "--no-python"]


def job(study: Path, out: Path, *options: str) -> list[str]:
    """Return what follows `python` in the job's command."""
    return ["-m", "training", str(study), "--policy", "arenapo", "--out", str(out), *options]


def train_in_two(python: list[str], study: Path, out: Path, *options: str) -> str:
    """Train arenapo of `study` into `out`; return what the job said on stderr."""
    launch = ["--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    done = subprocess.run(
        [*python, *RUN, *launch, *python, *job(study, out, *options)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


def train_on_two_nodes(python: list[str], study: Path, out: Path, caches: list[Path]) -> list[str]:
    """Train on two nodes that share `out` and no cache; return what each said on stderr."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    launch = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=localhost"]
    launch += [f"--master-port={port}"]
    nodes = []
    for rank, cache in enumerate(caches):
        given = job(study, out, "--set", f"cache.root={cache}")
        command = [*python, *RUN, *launch, f"--node-rank={rank}", *python, *given]
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        nodes.append(subprocess.Popen(command, cwd=ROOT, text=True, **pipes))
    said = [node.communicate(timeout=300)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(said)
    return said
