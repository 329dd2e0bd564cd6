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
from typing import Any, NoReturn

from arena.escape import printable
from evaluation import devices
from evaluation.commands import parser
from evaluation.errors import EvaluationError


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
    words = sys.argv[1:] if argv is None else argv
    args = parser(words).parse_args(words)
    signal.signal(signal.SIGTERM, stop)
    try:
        if "DAGSTER_PIPES_CONTEXT" in os.environ and devices.first():
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
