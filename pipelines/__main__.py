"""The pipeline from a shell: bring a study up to date, or serve its pages.

    python -m pipelines plan experiments/miniature.toml
    python -m pipelines run experiments/miniature.toml
    python -m pipelines ui experiments/miniature.toml
    python -m pipelines promote experiments/miniature.toml arenapo
    python -m pipelines clean experiments/miniature.toml --dry-run

`plan` says what `run` would do, why and at what cost, and writes nothing; `run` recomputes only
what is stale and ends in the table of policies; `ui` serves Dagster and MLflow on loopback until it
is interrupted.
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from assets.study import Study, read_study


def main() -> int:
    """Run one command and return the exit code: 0, or 1 after one sentence on stderr."""
    options = parse()
    # Dagster is asked to keep its history beside dagster.yaml, as the Makefile says.
    os.environ.setdefault("DAGSTER_HOME", str(Path.cwd()))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        study = read_study(options.study)
        if options.command == "ui":
            from pipelines.pages import serve

            return serve(study, dagster_port=options.dagster_port, mlflow_port=options.mlflow_port)
        if options.command == "promote":
            return promote(study, options.who)
        if options.command == "plan":
            return plan(study)
        if options.command == "clean":
            return clean(study, options.dry_run)
        return run(study)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"pipelines: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines",
        description="Bring a study up to date, or serve its pages.",
        epilog="example:\n  python -m pipelines run experiments/miniature.toml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in {
        "plan": "say what would run, why and at what cost; write nothing",
        "run": "materialise what is stale, then print the table of policies",
        "ui": "serve Dagster's and MLflow's pages on loopback",
        "clean": "remove what is old and not needed, as [retention] says",
        "promote": "make a policy or a version the champion by hand, or roll back",
    }.items():
        command = commands.add_parser(
            name,
            help=what,
            description=what,
            epilog=f"example:\n  python -m pipelines {name} experiments/miniature.toml"
            + (" arenapo" if name == "promote" else ""),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("study", type=Path, help="the study's TOML")
        if name == "promote":
            chosen = command.add_mutually_exclusive_group(required=True)
            chosen.add_argument("who", nargs="?", help="a policy's name or a version's number")
            chosen.add_argument("--back", action="store_true", help="the champion before, again")
        if name == "clean":
            command.add_argument("--dry-run", action="store_true", help="only say what would go")
        if name == "ui":
            command.add_argument("--dagster-port", type=int, default=3000)
            command.add_argument("--mlflow-port", type=int, default=5000)
    return parser.parse_args()


def plan(study: Study) -> int:
    """Print what `run` would do."""
    from pipelines import planning

    with planning.reading_instance() as instance:
        print(planning.plan(study, instance))
    return 0


def promote(study: Study, who: str | None) -> int:
    """Set or take back the champion and say who it is now."""
    from dagster import DagsterInstance

    from pipelines import promotion

    with DagsterInstance.get() as instance:
        print(promotion.promote(study, instance, who))
    return 0


def clean(study: Study, dry_run: bool) -> int:
    """Remove what is old, each thing on stderr, and print what was freed."""
    from pipelines import planning, retention

    with planning.reading_instance() as instance:
        print(retention.clean(study, instance, lambda line: print(line, file=sys.stderr), dry_run))
    return 0


def run(study: Study) -> int:
    """Bring the chain up to date and print what it found."""
    from dagster import DagsterInstance

    from pipelines.launch import Launcher

    begun = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - begun:6.1f} s] {line}", file=sys.stderr, flush=True)

    with DagsterInstance.get() as instance:
        launcher = Launcher(study, instance, say)
        ran = launcher.chain()
    say(f"{len(ran)} stages ran" if ran else "nothing had changed; nothing was recomputed")
    print(standings(study))
    return 0


def standings(study: Study) -> str:
    """Return the closing table: what was found, where it is drawn, and how to go on."""
    from assets.lake import Lake

    lake = Lake(study.lake)
    rows = list(lake.read("report").iter_rows(named=True))
    lines = [
        "",
        f"{study.name}: mean score and win rate by `{study.scorecard.headline}`, "
        f"K-Sort rating by `{study.ksort.judge}`",
        "",
        f"{'policy':<16} {'mean score':>10} {'win rate over ' + study.baseline:>22} "
        f"{'95% interval':>16} {'K-Sort mu':>10} {'sigma':>6} {'score':>7}",
    ]
    for row in rows:
        if row["win_rate"] is None:
            rate, interval = "-", "the baseline"
        else:
            rate = f"{row['win_rate']:.1%}"
            interval = f"{row['win_rate_low']:.1%} - {row['win_rate_high']:.1%}"
        lines.append(
            f"{row['policy']:<16} {row['mean_score']:>10.4f} {rate:>22} {interval:>16} "
            f"{row['ksort_mu']:>10.2f} {row['ksort_sigma']:>6.2f} {row['ksort_score']:>7.2f}"
        )
    lines += ["", verdict(rows), ""]
    reports = lake.root / "reports"
    lines += ["figures"]
    lines += [f"  {relative(path)}" for path in sorted(reports.glob("*")) if path.is_file()]
    lines += [
        "",
        "go on with",
        "  make ui                                          look at the assets, runs and figures",
        f"  .venv/bin/python -m training {relative(study.path)} --policy "
        f"{next(reversed(study.policies))} --out /tmp/policy --set train.gamma=3",
    ]
    return "\n".join(lines)


def verdict(rows: list[dict[str, object]]) -> str:
    """Return in words which policies beat the baseline, with the interval as the judge."""
    tuned = [row for row in rows if row["win_rate"] is not None]
    above = [str(row["policy"]) for row in tuned if float(str(row["win_rate_low"])) > 0.5]
    rest = [str(row["policy"]) for row in tuned if str(row["policy"]) not in above]
    parts = []
    if above:
        parts.append(f"{', '.join(above)}: better than the baseline, interval above 50%")
    if rest:
        parts.append(f"{', '.join(rest)}: not shown to be better than the baseline")
    return "; ".join(parts) + "."


def relative(path: Path) -> str:
    """Return a path as a person in this folder would type it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    sys.exit(main())
