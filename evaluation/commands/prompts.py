"""Read public prompt sets; find what was trained on.

examples:
  python -m evaluation prompts PartiPrompts.tsv --training votes.parquet --out prompts.parquet
  python -m evaluation prompts HPDv2/benchmark_prompts DrawBench.csv --out prompts.parquet

SOURCE: Pick-a-Pic (.parquet), HPDv2 (folder of .json), PartiPrompts (.tsv), DrawBench (.csv),
GenEval (.jsonl), own tables with prompt and perhaps prompt_id, .txt with one a line, or a training
set, of which the held-out prompts are taken. `generate` reads the same files directly.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from evaluation.commands import TRAINING, Done

ARGUMENTS = {
    "sources": {"type": Path, "nargs": "+", "metavar": "SOURCE"},
    "--training": TRAINING,
    "--out": {"type": Path, "required": True, "help": "prompts.parquet"},
}


def run(args: argparse.Namespace) -> Done:
    """Write a table of prompts, and say which of them a policy has been trained on."""
    import pyarrow as pa

    from evaluation.comparison.intervals import detectable_rate
    from evaluation.prompts import overlap, read_prompts, training_prompts
    from evaluation.tables import write

    found = read_prompts(*args.sources)
    columns = {
        "prompt_id": [one.prompt_id for one in found],
        "prompt": [one.prompt for one in found],
        "category": pa.array([one.category for one in found], pa.string()),
    }
    report: dict[str, Any] = {"prompts": len(found)}
    print(f"{len(found):,} prompts: {args.out}")
    rate = detectable_rate(len(found))
    if rate is not None:
        print(f"so many prompts find a win rate of {rate:.1%} or more four times in five")
    counts = Counter(one.category for one in found if one.category)
    for category, count in counts.most_common():
        print(f"  {count:6,}  {category}")
    if args.training is not None:
        trained = training_prompts(args.training)
        shared = overlap(columns["prompt"], trained)
        columns["in_training"] = [text in set(shared) for text in columns["prompt"]]
        print(f"{len(shared):,} of them are among the {len(trained):,} prompts of {args.training}")
        for text in shared[:5]:
            print(f"  {text[:100]}")
        report["in_training"] = len(shared)
    write(args.out, pa.table(columns))
    return report, [args.out]
