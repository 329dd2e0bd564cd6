"""Start the training job in two processes, as torchrun does on one machine."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAUNCH = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--no-python", "--master-port=0"]
LAUNCH += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]


def train_in_two(study: Path, out: Path, *options: str, policy: str = "arenapo") -> str:
    """Train `policy` of `study` into `out`; return what the job said on stderr."""
    job = ["-m", "training", str(study), "--policy", policy, "--out", str(out), *options]
    done = subprocess.run(
        [sys.executable, *LAUNCH, sys.executable, *job],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr
