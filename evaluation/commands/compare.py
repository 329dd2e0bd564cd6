"""Compare policies with a baseline, paired by prompt.

examples:
  python -m evaluation compare scores.parquet --baseline base --out comparison
  python -m evaluation compare own.csv --baseline base --scorer judge_mark --out comparison

SCORES is what `score` wrote, or any table of policy, prompt, image and scores, with prompt_id and
seed where there are any; --scorer names the columns of scores where the table does not say.
"""

import argparse
from pathlib import Path
from typing import Any

from evaluation.commands import TRAINING, Done
from evaluation.errors import EvaluationError

ARGUMENTS = {
    "scores": {"type": Path, "metavar": "SCORES", "help": "what `score` wrote"},
    "--baseline": {"required": True, "help": "the policy to compare with"},
    "--scorer": {"action": "append", "metavar": "COLUMN", "help": "a column of scores"},
    "--out": {"type": Path, "required": True, "help": "folder for page and figures"},
    "--ksort": {
        "action": "append", "default": [], "metavar": "POLICY=result.json",
        "help": "to be shown too",
    },
    "--training": TRAINING,
}  # fmt: skip


def run(args: argparse.Namespace) -> Done:
    """Compare, write the page and its figures, print the table."""
    from evaluation.comparison.page import as_text, write_comparison
    from evaluation.prompts import training_prompts
    from evaluation.tables import IMAGES, read_json, read_table

    ksort: dict[str, Any] = {}
    for entry in args.ksort:
        policy, separator, path = entry.partition("=")
        if not separator:
            raise EvaluationError(f"--ksort {entry}: expected POLICY=result.json")
        ksort[policy] = result = read_json(Path(path))
        if not isinstance(result, dict) or not {"mu", "sigma", "score", "rounds"} <= {*result}:
            raise EvaluationError(f"{path}: is no result that `ksort` wrote")
    training = None if args.training is None else training_prompts(args.training)
    table = read_table(args.scores, IMAGES)
    numbers, files = write_comparison(table, args.baseline, args.out, ksort, training, args.scorer)
    rows = numbers["comparisons"]
    print(as_text(rows))
    print(f"page: {args.out / 'comparison.html'}")
    policies = [row for row in rows if row["policy"] != args.baseline]
    others = [row for row in policies if row["images"]]
    if policies and not others:
        raise EvaluationError(
            f"{args.scores}: no policy has a score where {args.baseline} has one; images are "
            "paired by prompt (prompt_id where it is there) and seed, so draw the same ones for all"
        )
    report = {f"win_rate_{row['policy']}_{row['scorer']}": row["win_rate"] for row in others}
    return {"prompts": max(row["prompts"] for row in rows), **report}, files
