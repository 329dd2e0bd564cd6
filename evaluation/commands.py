"""What each command of the evaluation job does: call the room, print the result, report it.

Each `run_*` returns what Dagster or a person should know, and the files that were written. Heavy
libraries are imported by what needs them.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from evaluation.errors import EvaluationError

Done = tuple[dict[str, Any], list[Path]]


def run_generate(args: argparse.Namespace) -> Done:
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


def run_score(args: argparse.Namespace) -> Done:
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


def run_compare(args: argparse.Namespace) -> Done:
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


def run_ksort(args: argparse.Namespace) -> Done:
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


def run_dataset(args: argparse.Namespace) -> Done:
    """Build a K-Sort Eval data set and say what became of the votes."""
    from evaluation import ksort_build
    from evaluation.human_votes import image_opener, read_rankings

    rankings = read_rankings(args.votes)
    ratings = (
        ksort_build.rate_models(rankings)
        if args.ratings is None
        else ksort_build.read_ratings(args.ratings)
    )
    instances = ksort_build.write_dataset(
        args.out,
        rankings,
        ratings,
        image_opener(args.votes, args.images),
        seed=args.seed,
        most=args.instances,
    )
    few = sum(len(one.images) < 4 for one in rankings)
    print(
        f"{instances} instances from {len(rankings):,} votes over {len(ratings)} models "
        f"({few:,} votes of fewer than four images rate models only): {args.out}"
    )
    report = {"instances": instances, "votes": len(rankings), "models": len(ratings)}
    return report, sorted(path for path in args.out.rglob("*") if path.is_file())


COMMANDS = {
    "generate": run_generate,
    "score": run_score,
    "compare": run_compare,
    "dataset": run_dataset,
    "ksort": run_ksort,
}
