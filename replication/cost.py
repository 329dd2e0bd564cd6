"""What each objective costs: processor time and memory of a training step, beside plain DPO's.

Every measurement is a process of its own, one after the other, in turns. Processor time counts what
the process itself did, so other work on the machine moves it less than it moves a clock. Here the
reference is live, as it is where a study does not share its errors.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import polars as pl

from replication.base import base_model
from replication.matrix import Policy
from replication.runs import Run, Scale, prepared
from training.loop import train

WORLD, SEED, GAMMA, BETA = "close-3", 1000, 4.0, 500.0
FIRST, STEPS = 10, 40  # the first steps load and warm up
POLICIES = (
    Policy("dpo", "none"),
    Policy("fixed_margin", "one"),
    Policy("arenapo", "pairwise"),
    Policy("arenapo", "joint"),
    Policy("arenapo_weighted", "joint"),
    Policy("arenapo_regression", "joint"),
    Policy("ipo", "none"),
    Policy("cdpo", "joint"),
    Policy("sdpo", "none"),
    Policy("sft", "none"),
)


def every_cost(turns: int, cache: Path) -> pl.DataFrame:
    """Measure each of `POLICIES` `turns` times: columns of `measure`, and its turn."""
    rows = []
    for turn in range(turns):
        for policy in POLICIES:
            command = [sys.executable, "-m", "replication.cost", policy.objective, policy.gap]
            done = subprocess.run(
                [*command, str(cache)], capture_output=True, text=True, check=True
            )
            rows.append({"turn": turn, **json.loads(done.stdout.splitlines()[-1])})
    return pl.DataFrame(rows)


def measure(policy: Policy, cache: Path) -> dict[str, object]:
    """Train for `STEPS`; return processor seconds a step after `FIRST`, and peak memory in GiB."""
    import torch

    torch.set_num_threads(1)
    run = Run(WORLD, policy.objective, policy.gap, GAMMA, BETA, SEED, "tuning", STEPS)
    pairs, config, data = prepared(run, Scale(), cache, base_model(cache, print))
    config = replace(config, reference_draws=0, log_every=FIRST)
    moments: list[float] = []
    with tempfile.TemporaryDirectory(dir=cache) as work:
        result = train(
            config, data, pairs, Path(work) / "run",
            watch=lambda line: moments.append(time.process_time()),
        )  # fmt: skip
    return {
        "objective": policy.objective,
        "gap": policy.gap,
        "seconds_a_step": (moments[-1] - moments[0]) / (STEPS - FIRST),
        "peak_memory_gib": result["peak_memory_gib"],
    }


if __name__ == "__main__":
    objective, gap, folder = sys.argv[1:]
    print(json.dumps(measure(Policy(objective, gap), Path(folder))))  # type: ignore[arg-type]
