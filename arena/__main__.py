"""The arena from a shell: votes to ratings, ratings to gaps, and what is in a votes file.

    python -m arena fit votes.csv --out ratings.parquet

This file reads the command line and prints; the work is done in the modules that it names. An
error of the input ends in one sentence and exit code 1.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from arena.ratings.table import ESTIMATORS

PARAMETERS = ("mu", "sigma", "beta", "tau", "draw_probability")


def _draw_probability(text: str) -> float | str:
    return text if text == "auto" else float(text)


def _votes_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "votes",
        nargs="+",
        type=Path,
        metavar="VOTES",
        help="a votes table (.csv, .parquet, .jsonl) or a battles .json; the content decides",
    )


class _Parser(argparse.ArgumentParser):
    """One sentence and exit code 1 for a wrong command line, as for any other wrong input."""

    def error(self, message: str) -> NoReturn:
        self.exit(1, f"arena: {message}; see `{self.prog} --help`\n")


def _command(commands: Any, name: str, what: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=what,
        description=what,
        epilog=f"example:\n  python -m arena {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _votes_argument(parser)
    return parser


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m arena",
        description="From human votes between models to ratings, and from ratings to gaps.",
        epilog="example:\n  python -m arena fit votes.csv --out ratings.parquet",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)

    fit = _command(
        commands,
        "fit",
        "Rate every model and print the leaderboard.",
        "fit votes.csv --out ratings.parquet",
    )
    fit.add_argument("--out", type=Path, required=True, help="ratings.parquet to write")
    fit.add_argument("--estimator", choices=list(ESTIMATORS), default="trueskill")
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
    fit.set_defaults(run=run_fit)

    gaps = _command(
        commands,
        "gaps",
        "Write one gap a vote: how much better the winner is.",
        "gaps votes.csv --ratings ratings.parquet --out gaps.parquet",
    )
    gaps.add_argument("--ratings", type=Path, required=True, help="what `fit` wrote")
    gaps.add_argument("--out", type=Path, required=True, help="gaps.parquet to write")
    gaps.add_argument(
        "--estimator",
        choices=["pairwise", "joint", "capability"],
        default="pairwise",
        help="by the two models and the vote (the default), by every vote that the two images got, "
        "or by the two models alone: the difference of their mu",
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
    gaps.set_defaults(run=run_gaps)

    inspect = _command(
        commands, "inspect", "Say what is in votes files, and what is wrong.", "inspect votes.csv"
    )
    inspect.set_defaults(run=run_inspect)

    report = _command(
        commands,
        "report",
        "Draw the ratings, their calibration and the gaps into one page.",
        "report votes.csv --ratings ratings.parquet --out report",
    )
    report.add_argument("--ratings", type=Path, required=True, help="what `fit` wrote")
    report.add_argument("--out", type=Path, required=True, help="folder to write")
    report.set_defaults(run=run_report)

    tune = _command(
        commands,
        "tune",
        "Choose beta, tau and the draw probability by the evidence of the votes.",
        "tune votes.csv",
    )
    tune.add_argument("--estimator", choices=["trueskill", "thurstone"], default="trueskill")
    tune.set_defaults(run=run_tune)
    return parser


def run_fit(options: argparse.Namespace) -> None:
    """Fit, write the ratings and print the leaderboard."""
    from arena.ratings.comparisons import Comparisons
    from arena.ratings.order import order_note
    from arena.ratings.table import Ratings, estimator
    from arena.report.text import leaderboard
    from arena.votes.stream import read_ballots

    given = {name: getattr(options, name) for name in PARAMETERS}
    given = {name: value for name, value in given.items() if value is not None}
    more: dict[str, Any] = {}
    if options.prior is not None:
        if options.estimator != "trueskill":
            raise ValueError("--from needs --estimator trueskill: the others have no order of time")
        more["prior"] = Ratings.read(options.prior)
        if more["prior"].estimator == "trueskill":  # others are refused, or a leaderboard
            given = {**more["prior"].estimate_as().__dict__, **given}
    chosen = estimator(options.estimator, **given)
    votes, rankings, rejected = read_ballots(options.votes)
    comparisons = Comparisons.of(votes, rankings)
    ratings = chosen.fit(comparisons, **more)
    ratings.write(options.out)
    print(leaderboard(ratings))
    if note := order_note(comparisons, chosen):
        print(f"arena: {note}", file=sys.stderr)
    if rejected:
        print(
            f"{rejected:,} rows were rejected; `python -m arena inspect` names them",
            file=sys.stderr,
        )
    print(f"ratings: {options.out}")


def run_gaps(options: argparse.Namespace) -> None:
    """Write the gaps and print their summary."""
    from arena.gaps.table import write_joint_gaps, write_pairwise_gaps
    from arena.ratings.table import Ratings

    ratings = Ratings.read(options.ratings)
    if options.estimator == "joint":
        if options.spread:
            raise ValueError("--spread is not for the joint gap, which infers its own")
        summary, report = write_joint_gaps(options.votes, ratings, options.out, options.signed)
        print(report)
    else:
        spread = options.spread or "posterior"
        truncated = options.estimator == "pairwise"
        summary = write_pairwise_gaps(
            options.votes, ratings, options.out, spread, options.signed, truncated
        )
    print(summary)
    print(f"gaps: {options.out}")


def run_inspect(options: argparse.Namespace) -> None:
    """Print what the votes files hold."""
    from arena.report.text import describe
    from arena.votes.open import read_votes

    print(describe(read_votes(options.votes)))


def run_report(options: argparse.Namespace) -> None:
    """Write the report and print its path."""
    from arena.ratings.table import Ratings
    from arena.report.page import write_report
    from arena.votes.open import read_votes

    reading = read_votes(options.votes)
    print(write_report(reading.votes, Ratings.read(options.ratings), options.out))


def run_tune(options: argparse.Namespace) -> None:
    """Print the parameters that the evidence prefers, and how later votes agree."""
    from arena.prediction.tune import later_votes, tune
    from arena.ratings.comparisons import Comparisons
    from arena.report.text import held_out_table
    from arena.votes.stream import read_ballots

    comparisons = Comparisons.of(*read_ballots(options.votes)[:2])
    found = tune(comparisons, options.estimator)
    print(found)
    print(f"\n{held_out_table(later_votes(comparisons, options.estimator))}")
    votes = " ".join(shlex.quote(str(path)) for path in options.votes)
    print(f"\npython -m arena fit {votes} --out ratings.parquet {found.options}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, KeyError, OSError) as error:
        print(f"arena: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
