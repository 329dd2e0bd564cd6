"""The commands of the evaluation job, one module each.

A module's docstring is what `--help` says, with an example; `ARGUMENTS` declares what it takes, as
argparse's `add_argument` does, and `run` does it. `run` returns what Dagster or a person should
know, and the files that were written. Heavy libraries are imported where they are used, so `--help`
answers at once.
"""

import sys
from pathlib import Path
from typing import Any

from arena.escape import printable
from evaluation.errors import EvaluationError

MOST_NAMED = 50  # problems that are named one by one
Done = tuple[dict[str, Any], list[Path]]

# Arguments of several commands.
SCORER = {"action": "append", "required": True, "metavar": "NAME[=SOURCE]"}
DEVICE = {"help": '"cpu", "cuda:1" (a GPU where there is one)'}
IMAGES = {"type": Path, "help": "parquet of image, bytes"}
TRAINING = {"type": Path, "help": "training set or votes, to find overlap"}
LIMIT = {"type": int, "help": "only the first so many prompts"}
DRAWING: dict[str, dict[str, Any]] = {  # what decides how a policy draws
    "--base": {"help": "diffusers folder or hub name (a release knows its own)"},
    "--policy": {"help": "see below; absent: the base itself"},
    "--steps": {"type": int, "default": 50, "help": "scheduler steps (50)"},
    "--guidance": {"type": float, "default": 7.5, "help": "guidance scale (7.5)"},
    "--seed": {"type": int, "default": 0, "help": "of the noise, and of orders shown (0)"},
    "--resolution": {"type": int, "help": "side in pixels (the base's own)"},
    "--batch-size": {"type": int, "help": "images at once (by their size)"},
    "--device": DEVICE,
}


def artist(args: Any) -> Any:
    """The policy that DRAWING's arguments describe, ready to draw."""
    from evaluation.generate import Artist, Settings
    from evaluation.policies import find_policy

    settings = Settings(args.steps, args.guidance, args.seed, args.resolution)
    return Artist(find_policy(args.base, args.policy), settings, args.batch_size)


def say_problems(problems: list[str], rest: str, *, warn: bool = False) -> None:
    """Name what could not be scored on stderr; raise EvaluationError unless it is a warning."""
    for problem in problems[:MOST_NAMED]:
        print(printable(problem), file=sys.stderr)
    if len(problems) > MOST_NAMED:
        print(f"and {len(problems) - MOST_NAMED:,} more like these", file=sys.stderr)
    if problems and not warn:
        raise EvaluationError(
            f"{len(problems)} of the above could not be scored; mend and run again ({rest})"
        )
