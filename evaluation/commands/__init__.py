"""The commands of the evaluation job, one module each.

A module's docstring is what `--help` says, with an example; `arguments` declares what it takes and
`run` does it. `run` returns what Dagster or a person should know, and the files that were written.
Heavy libraries are imported where they are used, so `--help` answers at once.
"""

import sys
from pathlib import Path
from typing import Any

from arena.escape import printable
from evaluation.errors import EvaluationError

MOST_NAMED = 50  # problems that are named one by one
Done = tuple[dict[str, Any], list[Path]]


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
