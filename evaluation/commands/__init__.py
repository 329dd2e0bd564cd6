"""The commands of the evaluation job, one module each.

A module's docstring is what `--help` says, with an example; `arguments` declares what it takes and
`run` does it. `run` returns what Dagster or a person should know, and the files that were written.
Heavy libraries are imported where they are used, so `--help` answers at once.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from arena.escape import printable
from evaluation.errors import EvaluationError

NAMES = ("prompts", "generate", "score", "compare", "agreement", "dataset", "ksort")
MOST_NAMED = 50  # problems that are named one by one
Done = tuple[dict[str, Any], list[Path]]


class Parser(argparse.ArgumentParser):
    """argparse that ends with exit code 1 and one sentence."""

    def error(self, message: str) -> NoReturn:
        """Print the sentence and leave."""
        print(f"{self.prog}: {printable(message)} (see --help)", file=sys.stderr)
        raise SystemExit(1)


def parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The command line; of the command that the words begin with, only that one is read."""
    root = Parser(prog="python -m evaluation", description="Generate, score and compare policies.")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in words[:1] if words and words[0] in NAMES else NAMES:
        module = import_module(f"evaluation.commands.{name}")
        first, _, rest = (module.__doc__ or "").partition("\n\n")
        one = commands.add_parser(
            name,
            help=first,
            description=first,
            epilog=rest,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        one.set_defaults(run=module.run)
        module.arguments(one)
    return root


def at_least(lowest: int) -> Any:
    """An argparse type: an integer that is not below `lowest`."""

    def parse(text: str) -> int:
        value = int(text)
        if value < lowest:
            raise argparse.ArgumentTypeError(f"{value} is below {lowest}")
        return value

    parse.__name__ = "integer"
    return parse


def device_argument(parser: argparse.ArgumentParser) -> None:
    """Where the job computes."""
    parser.add_argument("--device", help='"cpu", "cuda:1" (a GPU where there is one)')


def scorer_argument(parser: argparse.ArgumentParser) -> None:
    """Which scorers score."""
    parser.add_argument("--scorer", action="append", required=True, metavar="NAME[=SOURCE]")


def votes_arguments(parser: argparse.ArgumentParser) -> None:
    """Votes on images, and where the images are."""
    parser.add_argument("votes", type=Path, metavar="VOTES")
    parser.add_argument("--images", type=Path, help="parquet of image, bytes")


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
