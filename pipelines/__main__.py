"""The pipeline from a shell: bring a study up to date, or serve its pages.

    python -m pipelines check experiments/miniature.toml
    python -m pipelines plan experiments/miniature.toml
    python -m pipelines run experiments/miniature.toml
    python -m pipelines ui experiments/miniature.toml [MORE.toml ...]
    python -m pipelines promote experiments/miniature.toml arenapo
    python -m pipelines clean experiments/miniature.toml --dry-run
    python -m pipelines forget experiments/miniature.toml --rater NAME

`check` looks at every file, weight, judge, disk and memory that the study will need; `plan` says
what `run` would do, why and at what cost, and writes nothing; `run` recomputes only what is stale
and ends in what was found; `ui` serves Dagster and MLflow on loopback until it is interrupted.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

from assets.lake import Lake
from assets.pictures import in_plain_text
from assets.study import Study, read_study
from pipelines import homes

# What a database of Dagster raises, by where its errors are defined.
DATABASES = ("sqlalchemy", "psycopg2", "dagster_postgres")
COMMANDS = {
    "check": "look at all that the study will need, before anything is computed",
    "plan": "say what would run, why and at what cost; write nothing",
    "run": "materialise what is stale, then print what was found",
    "ui": "serve Dagster's and MLflow's pages on loopback",
    "clean": "remove what is old and not needed, as [retention] says",
    "forget": "leave a rater's votes out for good; every stage follows",
    "promote": "pin a policy or a version as champion, roll back, or unpin",
}


def main() -> int:
    """Run one command and return the exit code: 0, or 1 after one sentence on stderr."""
    options = parse()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # read when it is imported
    try:
        studies = [read_study(path) for path in options.study]
        home = homes.enter()
        if options.command != "check":  # which says it in its table
            for study in studies:
                Lake(study.lake).reach()
        return {
            "check": check, "plan": plan, "run": run, "ui": ui, "clean": clean,
            "forget": forget, "promote": promote,
        }[options.command](options, studies, home)  # fmt: skip
    except (ValueError, OSError, RuntimeError) as error:
        print(in_plain_text(f"pipelines: {error}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in DATABASES:
            raise
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        print(
            f"pipelines: Dagster's history failed: {in_plain_text(said)}; mend the database and "
            "run again, what was finished is kept",
            file=sys.stderr,
        )
        return 1


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines",
        description="Bring a study up to date, or serve its pages.",
        epilog="example:\n  python -m pipelines run experiments/miniature.toml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=what,
            description=what,
            epilog=f"example:\n  python -m pipelines {name} experiments/miniature.toml"
            + {"promote": " arenapo", "forget": " --rater NAME"}.get(name, ""),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        count = "+" if name == "ui" else 1
        command.add_argument("study", type=Path, nargs=count, help="a study's TOML")
        if name == "promote":
            chosen = command.add_mutually_exclusive_group(required=True)
            chosen.add_argument("who", nargs="?", help="a policy's name or a version's number")
            for flag, said in {"--back": "the champion before", "--unpin": "the rule"}.items():
                chosen.add_argument(
                    flag, dest="who", action="store_const", const=flag, help=f"{said}, again"
                )
        if name == "forget":
            command.add_argument("--rater", required=True, metavar="NAME", help="as the files say")
        if name == "clean":
            command.add_argument("--dry-run", action="store_true", help="only say what would go")
        if name == "run":
            command.add_argument(
                "--new-prompts", action="store_true", help="draw other held-out prompts from now on"
            )
        if name == "ui":
            command.add_argument("--dagster-port", type=int, default=3000)
            command.add_argument("--mlflow-port", type=int, default=5000)
            command.add_argument(
                "--voting-port", type=int, default=8000,
                help="of the first study's voting page; the next study has the next port",
            )  # fmt: skip
    return parser.parse_args()


def check(options: argparse.Namespace, studies: list[Study], home: Path) -> int:
    """Print the table of what the study needs; exit 1 where something is missing."""
    from pipelines.needs import needs, shown

    found = needs(studies[0])
    print(in_plain_text(shown(studies[0], found)))
    return int(any(not each.met for each in found))


def plan(options: argparse.Namespace, studies: list[Study], home: Path) -> int:
    """Print what `run` would do."""
    from assets.tracking import Tracking
    from pipelines import planning
    from pipelines.chain import chain_of

    tracking = Tracking.of(studies[0])
    if tracking.exists:
        tracking.client()  # a store that is damaged is said before anybody relies on the plan
    with homes.reading(home) as instance:
        print(in_plain_text(planning.plan(studies[0], chain_of(studies[0]), instance)))
    return 0


def promote(options: argparse.Namespace, studies: list[Study], home: Path) -> int:
    """Set or take back the champion and say who it is now."""
    from pipelines import promotion
    from pipelines.chain import chain_of

    with homes.opened(home) as instance:
        print(promotion.promote(studies[0], chain_of(studies[0]), instance, options.who))
    return 0


def clean(options: argparse.Namespace, studies: list[Study], home: Path) -> int:
    """Remove what is old, each thing on stderr, and print what was freed."""
    from pipelines import retention
    from pipelines.chain import chain_of

    def say(line: str) -> None:
        print(in_plain_text(line), file=sys.stderr)

    # Whoever writes says in whose history.
    with (homes.reading if options.dry_run else homes.opened)(home) as instance:
        chain = chain_of(studies[0])
        print(retention.clean(studies[0], chain, instance, say, options.dry_run))
    return 0


def forget(options: argparse.Namespace, studies: list[Study], home: Path) -> int:
    """Leave a rater out, rewrite the tables, and say what follows."""
    from pipelines.forget import forget_rater

    def say(line: str) -> None:
        print(in_plain_text(line), file=sys.stderr)

    with homes.opened(home) as instance:
        print(in_plain_text(forget_rater(studies[0], instance, options.rater, say)))
    return 0


def ui(options: argparse.Namespace, studies: list[Study], home: Path) -> int:
    """Serve the pages of every study that was named."""
    from pipelines.pages import Ports, serve

    ports = Ports(options.dagster_port, options.mlflow_port, options.voting_port)
    return serve(studies, home, ports)


def run(options: argparse.Namespace, studies: list[Study], home: Path) -> int:
    """Bring the chain up to date and print what it found."""
    from pipelines.chain import chain_of
    from pipelines.launch import Launcher
    from pipelines.needs import require
    from pipelines.outcome import outcome
    from pipelines.pages import point_to_served_pages
    from pipelines.terminal import shown

    study = studies[0]
    asked = {"evaluation_prompts": "a person asked for new prompts"} if options.new_prompts else {}
    stages = sum(len(stage.partitions(study)) for stage in chain_of(study).values())
    require(study)
    point_to_served_pages(home)
    with homes.opened(home) as instance:
        with shown(stages, home / ".dagster" / "run.log") as terminal:
            ran = Launcher(study, instance, terminal.say, asked, terminal.done).chain()
        done = f"{len(ran)} stages ran" if ran else "nothing had changed; nothing was recomputed"
        print(done, file=sys.stderr)
        print(outcome(study, instance))
    return 0


if __name__ == "__main__":
    sys.exit(main())
