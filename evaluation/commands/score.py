"""Add one column of scores for each scorer to tables of images.

examples:
  python -m evaluation score runs/*/generations/images.parquet \\
      --scorer miniature=examples/miniature/world/scorer --scorer clip --out scores.parquet
  python -m evaluation score images.parquet --scorer hps_v2.1 --scorer old=pickscore:FOLDER \\
      --scorer mine=my_module:my_function --out scores.parquet
  accelerate launch --num_processes 8 -m evaluation score images.parquet --scorer vqa \\
      --questions geneval2_data.jsonl --out scores.parquet

scorers: pickscore, hps_v2, hps_v2.1, hps_v3, clip, aesthetic, imagereward, vqa, ocr, miniature;
hps_v2_aliased and hps_v2.1_aliased resize as when HPS was trained. NAME=SOURCE takes the weights
from a folder, a file or a hub name, LABEL=NAME:SOURCE under another name, and
LABEL=module:function is your own function of (prompts, images).
What is scored is kept beside --out (or in --kept) and is not scored again. An image that cannot be
read keeps its row with null scores, and a scorer without weights has null scores: both are named on
stderr, the rest is written, and the exit code is 1 (0 with --warn).
"""

import argparse
from pathlib import Path
from typing import Any

from evaluation.commands import DEVICE, LIMIT, SCORER, Done, say_problems

ARGUMENTS = {
    "images": {"type": Path, "nargs": "+", "metavar": "IMAGES", "help": ".csv or .parquet"},
    "--scorer": SCORER,
    "--out": {"type": Path, "required": True, "help": "scores.parquet"},
    "--kept": {"type": Path, "help": "file of scores kept from before (beside --out)"},
    "--questions": {"type": Path, "help": "for vqa: GenEval 2's or DPG-Bench's file"},
    "--limit": LIMIT,
    "--batch-size": {"type": int, "default": 64, "help": "images at once (64)"},
    "--device": DEVICE,
    "--warn": {"action": "store_true", "help": "exit 0 where some has no score"},
}


def run(args: argparse.Namespace) -> Done:
    """Score, write, and say on stderr what could not be scored."""
    from arena.escape import printable
    from evaluation import devices
    from evaluation.kept import Kept
    from evaluation.score import score, tasks_of
    from evaluation.scorers.naming import parse_all
    from evaluation.tables import write

    named = parse_all(args.scorer)
    questions = None
    if args.questions is not None:
        from evaluation.scorers.vqa import read_questions

        questions = read_questions(args.questions)
    table, scorers, problems = score(
        args.images,
        tasks_of(named, questions),
        Kept(args.kept or args.out.with_suffix(".kept.sqlite")),
        limit=args.limit,
        batch_size=args.batch_size,
    )
    rest = f"{args.out} holds the rest"
    if devices.RANK:
        say_problems(problems, rest, warn=True)
        return {}, []
    write(args.out, table)
    means = table.group_by("policy", use_threads=False).aggregate([(n, "mean") for n in scorers])
    width = max(len(printable(policy)) for policy in ["policy", *means["policy"].to_pylist()])
    print(f"{'policy':{width}}  " + "  ".join(f"{name:>12}" for name in scorers))
    for row in means.to_pylist():
        found = [row[f"{name}_mean"] for name in scorers]
        cells = "  ".join(f"{'-' if mean is None else f'{mean:.4f}':>12}" for mean in found)
        print(f"{printable(row['policy']):{width}}  {cells}")
    print(f"{table.num_rows} images: {args.out}")
    report: dict[str, Any] = {"n": table.num_rows}
    overall = table.group_by([]).aggregate([(name, "mean") for name in scorers]).to_pylist()[0]
    for name in scorers:
        mean = overall[f"{name}_mean"]
        report[f"mean_{name}"] = float("nan") if mean is None else mean
    if problems:
        report |= {"without_score": len(problems), "first_problem": problems[0]}
        say_problems(problems, rest, warn=args.warn)
    return report, [args.out]
