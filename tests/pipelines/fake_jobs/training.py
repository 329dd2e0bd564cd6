"""Stands in for the training job: the same command line and the same promises, in milliseconds.

A step is a hash of the state before it, so the weights tell whether steps were lost or taken twice.
`fake.json` in the working directory says how many steps there are, how long one lasts, and at which
step of which policy the job kills itself, once.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from dagster_pipes import open_dagster_pipes
from safetensors.numpy import save_file

parser = argparse.ArgumentParser()
parser.add_argument("study", type=Path)
parser.add_argument("--policy", required=True)
parser.add_argument("--out", required=True, type=Path)
parser.add_argument("--resume", action="store_true")
parser.add_argument("--set", action="append", dest="overrides")
options = parser.parse_args()
fake = json.loads(Path("fake.json").read_text())
settings = dict(override.split("=", 1) for override in options.overrides)
pairs = Path(settings["training_set.pairs"]).read_bytes()
asked_to_stop = []
for kind in (signal.SIGINT, signal.SIGTERM):
    signal.signal(kind, lambda number, _: asked_to_stop.append(number))


def note(line: str) -> None:
    with Path("steps.log").open("a") as log:
        log.write(f"{options.policy} {os.getpid()} {line}\n")


checkpoint = options.out / "checkpoint.json"
done, state = 0, hashlib.sha256(pairs + options.policy.encode()).hexdigest()
if checkpoint.exists():
    done, state = json.loads(checkpoint.read_text())
note(f"begins at {done}")
with open_dagster_pipes() as context:
    if fake.get("bad") == options.policy:
        print("error: train.steps = -1: needs a whole number", file=sys.stderr)
        sys.exit(1)
    while done < fake["steps"]:
        time.sleep(fake["pause"])
        state = hashlib.sha256(f"{state} {done}".encode()).hexdigest()
        done += 1
        print("step", done, flush=True)
        aside = checkpoint.with_suffix(".partial")
        aside.write_text(json.dumps([done, state]))
        aside.replace(checkpoint)
        once = options.out / "died"
        if fake.get("dies") == [options.policy, done] and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if fake.get("spoils"):  # a file that others need goes bad while this works
            Path(fake["spoils"]).write_bytes(b"not a database" * 400)
        if asked_to_stop:
            note(f"stops after {done}")
            print("stopped by a signal; --resume goes on", file=sys.stderr)
            sys.exit(130)
    note(f"ends after {done}")
    (options.out / "policy").mkdir(exist_ok=True)
    weights = np.frombuffer(bytes.fromhex(state), np.uint8).astype(np.float32)
    if options.policy in fake.get("spoiled", ()):
        weights = weights * np.nan
    save_file({"up": weights}, options.out / "policy" / "pytorch_lora_weights.safetensors")
    (options.out / "metrics.jsonl").write_text('{"step": 1, "loss": 0.7}\n')
    context.report_asset_materialization(
        metadata={"held_out_accuracy": 0.6, "steps": done, "peak_memory_gib": 0.5},
        data_version=state,
    )
