"""The evaluation job: `python -m evaluation COMMAND`, see `--help`.

Runs alone in a shell or started by Dagster Pipes, and is the one file here that knows which: it
parses, runs the command (`commands`), and reports a materialization when Pipes is there. Of several
processes that were launched together the first reports.
"""

import argparse
import hashlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NoReturn

from arena.escape import printable
from evaluation import devices
from evaluation.errors import EvaluationError

COMMANDS = ("prompts", "generate", "score", "compare", "agreement", "dataset", "ksort")
# What an argument that is a whole number may be at least; others 1.
LEAST = {"seed": None, "resolution": 8, "size": 8}


class Parser(argparse.ArgumentParser):
    """argparse that ends with exit code 1 and one sentence."""

    def error(self, message: str) -> NoReturn:
        """Print the sentence and leave."""
        print(f"{self.prog}: {printable(message)} (see --help)", file=sys.stderr)
        raise SystemExit(1)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Read the command line; of the commands only the one that it begins with is imported."""
    root = Parser(prog="python -m evaluation", description="Generate, score and compare policies.")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in words[:1] if words and words[0] in COMMANDS else COMMANDS:
        module = import_module(f"evaluation.commands.{name}")
        first, _, rest = (module.__doc__ or "").partition("\n\n")
        one = commands.add_parser(
            name,
            help=first,
            description=first,
            epilog=rest,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        one.set_defaults(run=module.run, refuse=one.error)
        for argument, how in module.ARGUMENTS.items():
            one.add_argument(argument, **how)
    args = root.parse_args(words)
    for name, value in vars(args).items():
        least = LEAST.get(name, 1)
        if type(value) is int and least is not None and value < least:
            args.refuse(f"argument --{name.replace('_', '-')}: {value} is below {least}")
    return args


def run_under_pipes(args: argparse.Namespace) -> None:
    """Run the command and report it as the materialization that Dagster waits for.

    The data version is the digest of the files that were written.
    """
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as pipes:
        report, files = args.run(args)
        contents = (hashlib.sha256(path.read_bytes()).digest() for path in files)
        version = hashlib.sha256(b"".join(contents)).hexdigest()
        metadata: Mapping[str, Any] = report
        pipes.report_asset_materialization(metadata=metadata, data_version=version)


def stop(signum: int, frame: object) -> NoReturn:
    """End as Ctrl-C does, also when asked by SIGTERM; what was finished stays."""
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parse(sys.argv[1:] if argv is None else argv)
    devices.chosen = getattr(args, "device", None)
    signal.signal(signal.SIGTERM, stop)
    try:
        if "DAGSTER_PIPES_CONTEXT" in os.environ and devices.RANK == 0:
            run_under_pipes(args)
        else:
            args.run(args)
        return 0
    except KeyboardInterrupt:
        print("interrupted; the same command goes on with what is not done yet", file=sys.stderr)
        return 130
    except EvaluationError as error:
        said = str(error)
    except ModuleNotFoundError as error:
        said = f"needs the package {error.name}, which is not installed here"
    except UnicodeEncodeError as error:
        said = f"{error.object[:60]!r} holds half a character, which no file can carry"
    except OSError as error:  # no room, no right to write, a folder where a file should be
        if error.filename is None:
            raise
        said = f"{error.filename}: {error.strerror}; mend that and run again"
    print(f"python -m evaluation {args.command}: {printable(said)}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
