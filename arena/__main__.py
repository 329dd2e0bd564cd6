"""The arena from a shell: votes to ratings, ratings to gaps, and what is in a votes file.

    python -m arena fit votes.csv --out ratings.parquet

This file reads the command line and prints; the work is done in the modules that it names. An
error of the input ends in one sentence and exit code 1.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from arena.escape import printable

if TYPE_CHECKING:
    from arena.ratings.comparisons import Comparisons
    from arena.ratings.table import Estimator
    from arena.votes.options import Options
    from arena.votes.read import Reading

PARAMETERS = ("mu", "sigma", "beta", "tau", "draw_probability")


def _draw_probability(text: str) -> float | str:
    return text if text == "auto" else float(text)


def _pairs(text: str) -> dict[str, str]:
    """Read NAME=VALUE,NAME=VALUE."""
    pairs = [each.partition("=") for each in text.split(",") if each.strip()]
    if not all(middle for _, middle, _ in pairs):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE,NAME=VALUE")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _votes_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "votes",
        nargs="+",
        type=Path,
        metavar="VOTES",
        help="files, folders, patterns or URLs of votes; the content tells the layout",
    )
    parser.add_argument(
        "--format", metavar="NAME", help="the layout, where the columns should not tell it"
    )
    parser.add_argument(
        "--columns",
        type=_pairs,
        default={},
        metavar="OURS=THEIRS,...",
        help="names of a table's own columns, such as model_a=left_model,outcome=choice",
    )
    parser.add_argument(
        "--outcomes",
        type=_pairs,
        default={},
        metavar="WORD=a|b|tie,...",
        help="words of a table's own outcomes, such as left=a,right=b,both=tie",
    )
    parser.add_argument("--dimension", metavar="NAME", help="which one, where a file has several")


class _Parser(argparse.ArgumentParser):
    """One sentence and exit code 1 for a wrong command line, as for any other wrong input."""

    def error(self, message: str) -> NoReturn:
        self.exit(1, f"arena: {message}; see `{self.prog} --help`\n")


def _command(commands: Any, name: str, what: str, example: str, run: Any) -> Any:
    """Add a command that reads votes, and return its parser."""
    parser = commands.add_parser(
        name,
        help=what,
        description=what,
        epilog=f"example:\n  python -m arena {name} votes.csv{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _votes_argument(parser)
    parser.set_defaults(run=run)
    if "--ratings" in example:
        parser.add_argument("--ratings", type=Path, required=True, help="what `fit` wrote")
    if "--out" in example:
        what = f"{example.split()[-1]} to write"
        parser.add_argument("--out", type=Path, required=True, help=what)
    return parser


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m arena",
        description="From human votes between models to ratings, and from ratings to gaps.",
        epilog="example:\n  python -m arena fit votes.csv --out ratings.parquet",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)

    what = "Rate every model and print the leaderboard."
    fit = _command(commands, "fit", what, " --out ratings.parquet", run_fit)
    fit.add_argument(
        "--estimator",
        metavar="NAME",
        default="trueskill",
        help="trueskill (the default), thurstone or bradley_terry",
    )
    fit.add_argument("--mu", type=float, help="prior mean (default 25)")
    fit.add_argument("--sigma", type=float, help="prior standard deviation (default 25/3)")
    fit.add_argument("--beta", type=float, help="spread of one performance (default 25/6)")
    fit.add_argument("--tau", type=float, help="what sigma gains before a vote (default 25/300)")
    fit.add_argument(
        "--draw-probability",
        type=_draw_probability,
        metavar="P|auto",
        help="how often two equals tie, or auto: the most likely for these votes (the default)",
    )
    fit.add_argument(
        "--from",
        dest="prior",
        type=Path,
        metavar="RATINGS",
        help="earlier ratings to go on from; VOTES are then the newer votes alone (trueskill)",
    )

    what = "Write one gap per vote: how much better the winner is."
    example = " --ratings ratings.parquet --out gaps.parquet"
    gaps = _command(commands, "gaps", what, example, run_gaps)
    what = "Write pairs with their margins in the layout that another trainer reads."
    example = " --ratings ratings.parquet --to diffusers --out pairs"
    export = _command(commands, "export", what, example, run_export)
    for each in (gaps, export):
        each.add_argument(
            "--estimator",
            choices=["pairwise", "joint", "capability"],
            default="pairwise",
            help="by the two models and the vote (the default), by every vote that the two images "
            "got, or by the two models alone: the difference of their mu",
        )
    gaps.add_argument(
        "--spread",
        choices=["posterior", "predictive"],
        help="spread of an image, for pairwise and capability: the model's uncertainty (default), "
        "or that and the images' own",
    )
    gaps.add_argument(
        "--signed",
        action="store_true",
        help="keep the sign: of ties, and where joint or capability say that the winner is worse",
    )
    export.add_argument(
        "--to",
        required=True,
        metavar="TRAINER",
        help="diffusers, flow-factory, simpletuner, verl-omni",
    )
    export.add_argument(
        "--images",
        type=Path,
        nargs="+",
        default=[],
        metavar="SOURCE",
        help="parquets or tars that hold the images by id, and folders beside that of the votes in "
        "which images may lie",
    )
    export.add_argument("--network", action="store_true", help="fetch images that are URLs")

    what = "Say what is in votes files, and what is wrong."
    _command(commands, "inspect", what, "", run_inspect)

    what = "Draw the ratings, their calibration and the gaps into one page."
    _command(commands, "report", what, " --ratings ratings.parquet --out report", run_report)

    what = "Choose beta, tau and the draw probability by the evidence of the votes."
    tune = _command(commands, "tune", what, "", run_tune)
    tune.add_argument("--estimator", choices=["trueskill", "thurstone"], default="trueskill")
    return parser


def _options(options: argparse.Namespace) -> "Options":
    """Return how the files are to be read."""
    from arena.votes.options import Options

    return Options(
        format=options.format,
        columns=options.columns,
        outcomes=options.outcomes,
        dimension=options.dimension,
    )


def _votes(options: argparse.Namespace) -> "Reading":
    """Read the votes; say on stderr what was left out. Raises ValueError where no vote is left."""
    from arena.votes.read import read_votes

    return _said(read_votes(options.votes, _options(options)))


def _comparisons(
    options: argparse.Namespace, load: Callable[[argparse.Namespace], Any]
) -> "tuple[Comparisons, Any]":
    """Return (what an estimator needs of the votes, what `load` returns).

    load: takes the options and may refuse them. numba loads there while the votes are read: half of
    the time of a command is spent on either, and neither waits for the other.
    """
    from arena.votes.read import read_ballots

    with ThreadPoolExecutor(1) as beside:
        coming = beside.submit(read_ballots, options.votes, _options(options))
        loaded = load(options)
        ballots, reading = coming.result()
    from arena.ratings.comparisons import Comparisons

    return Comparisons.of(ballots, _said(reading).rankings), loaded


def _said(reading: "Reading") -> "Reading":
    from arena.votes.summary import notes

    reading.require()
    for note in notes(reading):
        print(f"arena: {note}", file=sys.stderr)
    return reading


def _estimator(options: argparse.Namespace) -> "tuple[Estimator, dict[str, Any]]":
    """Return the estimator that the options name, ready to fit, and what it goes on from."""
    from arena.ratings.table import Ratings, estimator
    from arena.ratings.trueskill import warmed_up

    given = {name: getattr(options, name) for name in PARAMETERS}
    given = {name: value for name, value in given.items() if value is not None}
    more: dict[str, Any] = {}
    if options.prior is not None:
        if options.estimator != "trueskill":
            raise ValueError("--from needs --estimator trueskill: the others have no order of time")
        more["prior"] = Ratings.read(options.prior)
        if more["prior"].estimator == "trueskill":  # others are refused, or a leaderboard
            given = {**more["prior"].estimate_as().__dict__, **given}
    return warmed_up(estimator(options.estimator, **given)), more


def run_fit(options: argparse.Namespace) -> None:
    """Fit, write the ratings and print the leaderboard."""
    comparisons, (chosen, more) = _comparisons(options, _estimator)
    from arena.ratings.trueskill import order_note
    from arena.report.tables import leaderboard

    ratings = chosen.fit(comparisons, **more)
    ratings.write(options.out)
    print(leaderboard(ratings))
    if note := order_note(comparisons, chosen):
        print(f"arena: {note}", file=sys.stderr)
    print(f"ratings: {options.out}")


def run_gaps(options: argparse.Namespace) -> None:
    """Write the gaps and print their summary."""
    from arena.gaps.table import write_gaps
    from arena.ratings.table import Ratings

    ratings = Ratings.read(options.ratings)
    if options.estimator == "joint" and options.spread:
        raise ValueError("--spread is not for the joint gap, which infers its own")
    reading = _votes(options)
    how = {"spread": options.spread or "posterior", "signed": options.signed}
    summary, report = write_gaps(reading.votes, ratings, options.out, options.estimator, **how)
    if report is not None:
        print(report)
    print(summary)
    print(f"gaps: {options.out}")


def run_export(options: argparse.Namespace) -> None:
    """Write the pairs and print how many there are."""
    from arena.export import export_pairs, files_with_images
    from arena.gaps.table import gaps_by
    from arena.ratings.table import Ratings
    from arena.votes.images import Images

    reading = _votes(options)
    gaps, _ = gaps_by([options.estimator], reading.votes, Ratings.read(options.ratings))
    sources = [*options.images, *files_with_images(reading)]
    images = Images(sources, reading.folder, network=options.network)
    print(export_pairs(reading.votes, gaps, options.to, options.out, images))


def run_inspect(options: argparse.Namespace) -> None:
    """Print what the votes files hold."""
    from arena.votes.read import read_votes
    from arena.votes.summary import describe

    reading = read_votes(options.votes, _options(options))
    print(describe(reading))
    reading.require()


def run_report(options: argparse.Namespace) -> None:
    """Write the report and print its path."""
    from arena.ratings.table import Ratings
    from arena.report.page import write_report

    reading = _votes(options)
    print(write_report(reading.votes, Ratings.read(options.ratings), options.out))


def run_tune(options: argparse.Namespace) -> None:
    """Print the parameters that the evidence prefers, and how later votes agree."""
    comparisons, _ = _comparisons(options, lambda _: import_module("arena.prediction.tune"))
    from arena.prediction.tune import later_votes, tune
    from arena.report.tables import held_out

    found = tune(comparisons, options.estimator)
    print(found)
    print(f"\n{held_out(later_votes(comparisons, options.estimator))}")
    votes = " ".join(shlex.quote(str(path)) for path in options.votes)
    print(f"\npython -m arena fit {votes} --out ratings.parquet {found.options}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, KeyError, OSError) as error:
        print(f"arena: {printable(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    code = main()
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    # Python would take half a second to give back gigabytes and take numba apart, piece by piece.
    os._exit(code)
