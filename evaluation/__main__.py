"""The evaluation job: `python -m evaluation generate|score|compare|ksort`.

Runs alone in a shell or started by Dagster Pipes, and is the one file here that knows which: it
parses, calls the room, prints the result on stdout, and reports a materialization when Pipes is
there. Heavy libraries are imported by what needs them, so `--help` answers at once.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from evaluation.errors import EvaluationError

GENERATE = """example:
  python -m evaluation generate --base examples/miniature/world/base --policy runs/arenapo/policy \\
      --name arenapo --prompts examples/miniature/world/evaluation_prompts.parquet \\
      --images-per-prompt 2 --steps 20 --guidance 2 --seed 0 --out runs/arenapo/generations
"""
SCORE = """example:
  python -m evaluation score runs/*/generations/images.parquet \\
      --scorer miniature=examples/miniature/world/scorer --scorer clip --out scores.parquet

scorers: pickscore, hps_v2, hps_v2.1, clip, aesthetic, imagereward, miniature; SOURCE is a folder
or a hub name.
An image that cannot be read keeps its row with null scores, and a scorer without weights is left
out: both are named on stderr, the rest is written, and the exit code is 1.
"""
COMPARE = """example:
  python -m evaluation compare scores.parquet --baseline base --out comparison
"""
KSORT = """examples:
  python -m evaluation ksort --dataset examples/miniature/world/ksort \\
      --images runs/arenapo/generations/ksort \\
      --judge scorer:miniature=examples/miniature/world/scorer --out result.json
  OPENAI_API_KEY=... python -m evaluation ksort --dataset K-Sort-Eval --images new \\
      --judge openai:gpt-4o --out result.json

judges: recorded:FILE.jsonl, scorer:NAME[=SOURCE], local:FOLDER (a vision-language model in
transformers' layout, or its hub name), openai:MODEL (any OpenAI-compatible endpoint,
OPENAI_BASE_URL and OPENAI_API_KEY). Answers that cost something are kept beside --out, in
judgments/, so a repeat or an interrupted evaluation asks only what is new.
"""


class Parser(argparse.ArgumentParser):
    """argparse that ends with exit code 1 and one sentence."""

    def error(self, message: str) -> NoReturn:
        """Print the sentence and leave."""
        print(f"{self.prog}: {message} (see --help)", file=sys.stderr)
        raise SystemExit(1)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = Parser(prog="python -m evaluation", description="Generate, score and compare policies.")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, epilog: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    generate = add("generate", "Make a policy's images for a list of prompts.", GENERATE)
    generate.add_argument("--base", required=True, help="diffusers folder or hub name")
    generate.add_argument("--policy", type=Path, help="LoRA or pipeline folder; absent: the base")
    generate.add_argument("--name", required=True, help="the policy's name in the table")
    generate.add_argument("--prompts", type=Path, required=True, help=".parquet or .csv table")
    generate.add_argument("--out", type=Path, required=True, help="folder for images")
    generate.add_argument("--images-per-prompt", type=at_least(1), default=1)
    generate.add_argument("--steps", type=at_least(1), default=50, help="scheduler steps (50)")
    generate.add_argument("--guidance", type=float, default=7.5, help="guidance scale (7.5)")
    generate.add_argument("--seed", type=int, default=0)
    generate.add_argument("--resolution", type=at_least(8), help="side in pixels (the base's own)")
    generate.add_argument("--ksort", type=Path, help="K-Sort data set to make images for as well")
    generate.add_argument("--batch-size", type=at_least(1), help="images at once (by their size)")

    score = add("score", "Add one column of scores a scorer to tables of images.", SCORE)
    score.add_argument("images", type=Path, nargs="+", metavar="IMAGES", help=".csv or .parquet")
    score.add_argument("--scorer", action="append", required=True, metavar="NAME[=SOURCE]")
    score.add_argument("--out", type=Path, required=True, help="scores.parquet")

    compare = add("compare", "Compare policies with a baseline, paired by prompt.", COMPARE)
    compare.add_argument("scores", type=Path, metavar="SCORES", help="what `score` wrote")
    compare.add_argument("--baseline", required=True, help="the policy to compare with")
    compare.add_argument("--out", type=Path, required=True, help="folder for page and figures")
    compare.add_argument(
        "--ksort", action="append", default=[], metavar="POLICY=result.json", help="to be shown too"
    )

    ksort = add("ksort", "Rate a new model against an arena by K-Sort Eval.", KSORT)
    ksort.add_argument("--dataset", type=Path, required=True, help="K-Sort Eval folder")
    ksort.add_argument("--images", type=Path, required=True, help="<instance>.png of the new model")
    ksort.add_argument("--judge", required=True)
    ksort.add_argument("--out", type=Path, required=True, help="result.json")
    ksort.add_argument("--seed", type=int, default=0, help="of the order images are shown in")
    ksort.add_argument(
        "--orders",
        type=at_least(1),
        default=1,
        help="ask openai or local in so many orders (1 to 5) and average: no place is favoured",
    )
    ksort.add_argument("--variance", choices=("code", "paper"), default="code", help="reading")
    ksort.add_argument("--score", choices=("code", "paper"), default="code", help="reading")
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


def run_generate(args: argparse.Namespace) -> tuple[dict[str, Any], list[Path]]:
    """Make the images, then the table that lists them."""
    from evaluation import generate as room
    from evaluation.tables import read_prompts

    prompts = read_prompts(args.prompts)
    targets = room.prompt_targets(prompts, args.images_per_prompt, args.seed, args.out / "images")
    written = [target.path for target in targets]
    if args.ksort is not None:
        from evaluation.ksort_dataset import read_dataset

        instances = read_dataset(args.ksort).prompts()
        targets += room.ksort_targets(instances, args.seed, args.out / "ksort")
        written = [target.path for target in targets]
    settings = room.Settings(args.steps, args.guidance, args.seed, args.resolution)
    outcome = room.generate(args.base, args.policy, targets, settings, batch_size=args.batch_size)
    index = args.out / "images.parquet"
    room.write_index(index, args.name, prompts, args.images_per_prompt)
    print(
        f"{args.name}: {outcome.made} images made in {outcome.seconds:.1f} s, "
        f"{outcome.kept} kept: {index}"
    )
    report = {
        "policy": args.name,
        "images": len(targets),
        "made": outcome.made,
        "seconds": round(outcome.seconds, 3),
    }
    return report, [*written, index]


def run_score(args: argparse.Namespace) -> tuple[dict[str, Any], list[Path]]:
    """Score, write, and say on stderr what could not be scored."""
    import pyarrow.compute as pc

    from evaluation.score import score
    from evaluation.tables import write_parquet

    scored = score(args.images, args.scorer)
    write_parquet(args.out, scored.table)
    report: dict[str, Any] = {"n": scored.table.num_rows}
    for name in scored.scorers:
        mean = pc.mean(scored.table[name]).as_py()
        report[f"mean_{name}"] = float("nan") if mean is None else mean
    policies = list(dict.fromkeys(scored.table["policy"].to_pylist()))
    width = max(len(policy) for policy in [*policies, "policy"])
    print(f"{'policy':{width}}  " + "  ".join(f"{name:>12}" for name in scored.scorers))
    for policy in policies:
        rows = scored.table.filter(pc.equal(scored.table["policy"], policy))
        means = [pc.mean(rows[name]).as_py() for name in scored.scorers]
        cells = "  ".join(f"{'-' if mean is None else f'{mean:.4f}':>12}" for mean in means)
        print(f"{policy:{width}}  {cells}")
    print(f"{scored.table.num_rows} images: {args.out}")
    if scored.problems:
        for problem in scored.problems:
            print(problem, file=sys.stderr)
        raise EvaluationError(
            f"{len(scored.problems)} of the above could not be scored; mend and run again "
            f"({args.out} holds the rest)"
        )
    return report, [args.out]


def run_compare(args: argparse.Namespace) -> tuple[dict[str, Any], list[Path]]:
    """Compare, write the page and its figures, print the table."""
    from evaluation.ksort_dataset import read_json
    from evaluation.page import as_text, read_scores, write_comparison

    ksort: dict[str, Any] = {}
    for entry in args.ksort:
        policy, separator, path = entry.partition("=")
        if not separator:
            raise EvaluationError(f"--ksort {entry}: expected POLICY=result.json")
        ksort[policy] = read_json(Path(path))
    files = write_comparison(read_scores(args.scores), args.baseline, args.out, ksort)
    rows = read_json(args.out / "comparison.json")["comparisons"]
    print(as_text(rows))
    print(f"page: {args.out / 'comparison.html'}")
    others = [row for row in rows if row["policy"] != args.baseline]
    report = {f"win_rate_{row['policy']}_{row['scorer']}": row["win_rate"] for row in others}
    return {"prompts": max(row["prompts"] for row in rows), **report}, files


def run_ksort(args: argparse.Namespace) -> tuple[dict[str, Any], list[Path]]:
    """Run K-Sort Eval and write its result."""
    from evaluation.judges import load_judge
    from evaluation.ksort import Round, evaluate
    from evaluation.ksort_dataset import read_dataset
    from evaluation.tables import write_bytes

    dataset = read_dataset(args.dataset)
    judge = load_judge(args.judge, args.out.parent / "judgments", args.orders)
    shown = time.monotonic()
    count = 0

    def progress(done: Round) -> None:
        nonlocal shown, count
        count += 1
        if time.monotonic() - shown > 2:
            shown = time.monotonic()
            print(f"  round {count}: mu {done.mu:.2f}, sigma {done.sigma:.2f}", file=sys.stderr)

    result = evaluate(
        dataset,
        args.images,
        judge,
        seed=args.seed,
        variance=args.variance,
        score=args.score,
        on_round=progress,
    )
    content = json.dumps(result.as_dict(), ensure_ascii=False, indent=1)
    write_bytes(args.out, content.encode())
    endings = {
        "sigma": "settled",
        "rounds": "not settled after the last round allowed",
        "instances": "not settled when the data set ran out",
    }
    print(
        f"score {result.score:.2f} (mu {result.mu:.2f}, sigma {result.sigma:.2f}) "
        f"after {len(result.rounds)} rounds, {endings[result.stopped]}: {args.out}"
    )
    report = {
        "mu": result.mu,
        "sigma": result.sigma,
        "score": result.score,
        "rounds": len(result.rounds),
        "stopped": result.stopped,
    }
    return report, [args.out]


COMMANDS = {
    "generate": run_generate,
    "score": run_score,
    "compare": run_compare,
    "ksort": run_ksort,
}


def run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Run the command; returns what to report and the digest of what it wrote."""
    report, files = COMMANDS[args.command](args)
    contents = (hashlib.sha256(path.read_bytes()).digest() for path in files)
    return report, hashlib.sha256(b"".join(contents)).hexdigest()


def run_under_pipes(args: argparse.Namespace) -> None:
    """Run the command and report it as the materialization that Dagster waits for."""
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as pipes:
        report, version = run(args)
        metadata: Mapping[str, Any] = report
        pipes.report_asset_materialization(metadata=metadata, data_version=version)


def stop(signum: int, frame: object) -> NoReturn:
    """End as Ctrl-C does, also when asked by SIGTERM; what was finished stays."""
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, stop)
    try:
        if "DAGSTER_PIPES_CONTEXT" in os.environ:
            run_under_pipes(args)
        else:
            run(args)
    except EvaluationError as error:
        print(f"python -m evaluation {args.command}: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(
            f"python -m evaluation {args.command}: needs the package {error.name}, which is not "
            "installed here",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on with what is not done yet", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
