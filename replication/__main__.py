"""Run the replication study and write its page; `python -m replication --help` says how."""

import argparse
import sys
import time
from pathlib import Path

import polars as pl

DOCS = Path(__file__).parents[1] / "docs" / "evidence" / "replication"


def main() -> None:
    """Read the options and do what they ask; progress on stderr, what was written on stdout."""
    parser = argparse.ArgumentParser(
        prog="python -m replication",
        description="Does the arena's gap help? Runs are kept and never done twice.",
        epilog="example: python -m replication run --worlds close-6 --seeds 20 && "
        "python -m replication report",
    )
    parser.add_argument(
        "--docs", type=Path, default=DOCS, help="where the tables are (%(default)s)"
    )
    parser.add_argument(
        "--cache", type=Path, default=Path("lake/replication"), help="(%(default)s)"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about, seeds in (
        ("tune", "try every gamma and beta_dpo on the tuning seeds", 5),
        ("run", "the comparison, on seeds of its own, each policy as it was best", 20),
    ):
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument("--worlds", nargs="+", required=True)
        command.add_argument(
            "--policies", nargs="+", default=["main"], metavar="NAME",
            help="main, more, between, or names such as 'arenapo joint' (%(default)s)",
        )  # fmt: skip
        command.add_argument("--seeds", type=int, default=seeds, help="how many (%(default)s)")
        command.add_argument("--workers", type=int, default=2, help="(%(default)s)")
        command.add_argument(
            "--at", nargs=2, type=float, metavar=("GAMMA", "BETA_DPO"),
            help="every policy at this one setting",
        )  # fmt: skip
        command.add_argument(
            "--spreads", nargs="+", type=float, default=[], metavar="SPREAD",
            help="with --at: scale every gap to this spread about its mean",
        )  # fmt: skip
        if name == "run":
            command.add_argument(
                "--tuned-in", help="the world whose tuning counts (default: each one's own)"
            )
            command.add_argument(
                "--steps", nargs="+", type=int, default=[],
                help="points of learning curves, instead of the comparison's own length",
            )  # fmt: skip
            command.add_argument(
                "--trained-prompts", action="store_true",
                help="with --at: judge by the prompts that were voted about",
            )  # fmt: skip
    about = "the comparison again, every objective at a learning rate of its own"
    command = commands.add_parser("rates", help=about, description=about)
    command.add_argument("--seeds", type=int, default=20, help="fresh ones (%(default)s)")
    command.add_argument("--workers", type=int, default=2, help="(%(default)s)")
    about = "keep and look at images: where mean quality and win rate part"
    command = commands.add_parser("images", help=about, description=about)
    command.add_argument("--seeds", type=int, default=5, help="(%(default)s)")
    about = "how true every gap is, in every world, without training"
    command = commands.add_parser("gaps", help=about, description=about)
    command.add_argument("--seeds", type=int, default=20, help="drawings of a world (%(default)s)")
    command.add_argument("--worlds", nargs="+", help="these alone, the others as they are")
    about = "processor time and memory of a training step with each objective"
    command = commands.add_parser("cost", help=about, description=about)
    command.add_argument("--turns", type=int, default=3, help="(%(default)s)")
    about = "write the tables and figures of docs/evidence/replication.md from the parquet files"
    commands.add_parser("report", help=about, description=about)
    options = parser.parse_args()
    try:
        _do(options)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"replication: {error}") from error


def _do(options: argparse.Namespace) -> None:
    if options.command == "report":
        from replication.report import write_report

        for path in write_report(options.docs):
            print(path)
    elif options.command == "gaps":
        from replication.gaps import every_truth

        path = options.docs / "gaps.parquet"
        _known_worlds(options.worlds or [])
        options.docs.mkdir(parents=True, exist_ok=True)
        every_truth(options.seeds, options.cache, path, options.worlds).write_parquet(path)
        print(path)
    elif options.command == "cost":
        from replication.cost import every_cost

        every_cost(options.turns, options.cache).write_parquet(options.docs / "cost.parquet")
        print(options.docs / "cost.parquet")
    elif options.command == "images":
        from replication.images import every_image

        found = every_image(range(options.seeds), options.cache, options.docs / "images.png")
        found.write_parquet(options.docs / "images.parquet")
        print(options.docs / "images.parquet")
    elif options.command == "rates":
        _rates(options)
    else:
        _run(options)


def _rates(options: argparse.Namespace) -> None:
    from replication import rates
    from replication.matrix import run_all
    from replication.runs import Scale

    how = (Scale(), options.cache, options.workers, _say)
    tuning = run_all(rates.tuning_runs(), *how)
    _keep(options.docs, tuning)
    for runs in (rates.main_runs, rates.other_beta_runs):
        _keep(options.docs, run_all(runs(tuning, seeds=rates.SEEDS[: options.seeds]), *how))


def _run(options: argparse.Namespace) -> None:
    from replication.matrix import (
        BETWEEN,
        MAIN,
        MORE,
        equal_runs,
        finalists,
        main_runs,
        run_all,
        tuning_runs,
    )
    from replication.runs import FIRST_SEED, scale_of

    _known_worlds(options.worlds)
    between = tuple(policy for ladder in BETWEEN for policy in ladder)
    groups = {"main": MAIN, "more": MORE, "between": between}
    groups |= {policy.name: (policy,) for policy in MAIN + MORE + between}
    strangers = [name for name in options.policies if name not in groups]
    if strangers:
        raise ValueError(f"no policy is called {strangers[0]!r}; there are {', '.join(groups)}")
    policies = [policy for name in options.policies for policy in groups[name]]
    results = _kept(options.docs)
    if options.spreads and not options.at:
        raise ValueError("--spreads says how a setting's margins are spread: say --at as well")
    trained = options.command == "run" and options.trained_prompts
    if trained and (not options.at or options.steps):
        raise ValueError("--trained-prompts goes with --at, and without --steps")
    first = FIRST_SEED[options.command]
    seeds = range(first, first + options.seeds)
    scales = dict.fromkeys(scale_of(world) for world in options.worlds)
    if len(scales) > 1:
        raise ValueError("the miniature is of another size: give it a command of its own")
    (scale,) = scales
    if options.at:
        split = "spread" if options.spreads else "equal"
        steps = [] if options.command == "tune" else options.steps
        split = "tuning" if options.command == "tune" else "curve" if steps else split
        split = "trained" if trained else split
        given = (*options.at, options.spreads, split, steps)
        runs = [r for w in options.worlds for r in equal_runs(w, policies, seeds, *given)]
    elif options.command == "tune":
        early = seeds[: len(seeds) * 3 // 5]
        runs = [run for world in options.worlds for run in tuning_runs(world, policies, early)]
        found = run_all(runs, scale, options.cache, options.workers, _say)
        late = seeds[len(early) :]
        runs += [r for w in options.worlds for r in finalists(found, w, policies, late)]
    else:
        runs = [
            run
            for world in options.worlds
            for run in main_runs(
                results, world, policies, seeds, options.tuned_in or world, options.steps
            )
        ]
    _keep(options.docs, run_all(runs, scale, options.cache, options.workers, _say))


def _kept(docs: Path) -> pl.DataFrame:
    from replication.matrix import SCHEMA

    path = docs / "results.parquet"
    return pl.read_parquet(path) if path.exists() else pl.DataFrame(schema=SCHEMA)


def _keep(docs: Path, found: pl.DataFrame) -> None:
    from replication.matrix import merge

    docs.mkdir(parents=True, exist_ok=True)
    path = docs / "results.parquet"
    merge(_kept(docs), found).write_parquet(path)
    print(path)


def _known_worlds(names: list[str]) -> None:
    from replication.world import WORLDS

    unknown = [name for name in names if name not in WORLDS]
    if unknown:
        raise ValueError(f"no world is called {unknown[0]!r}; there are {', '.join(WORLDS)}")


def _say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
