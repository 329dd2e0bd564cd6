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

MOST_NAMED = 50  # problems that are named one by one
Done = tuple[dict[str, Any], list[Path]]


def run_generate(args: argparse.Namespace) -> Done:
    """Make the images, then the table that lists them."""
    from evaluation import generate as room
    from evaluation.drawing import Settings
    from evaluation.policies import find_policy
    from evaluation.prompts import read_prompts

    prompts = [(one.prompt_id, one.prompt) for one in read_prompts(args.prompts)]
    targets = room.prompt_targets(prompts, args.images_per_prompt, args.seed, args.out / "images")
    written = [target.path for target in targets]
    if args.ksort is not None:
        from evaluation.ksort_dataset import read_dataset

        instances = read_dataset(args.ksort).prompts()
        targets += room.ksort_targets(instances, args.seed, args.out / "ksort")
        written = [target.path for target in targets]
    settings = Settings(args.steps, args.guidance, args.seed, args.resolution)
    outcome = room.generate(
        find_policy(args.base, args.policy),
        targets,
        settings,
        batch_size=args.batch_size,
        processes=args.processes,
    )
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


def run_prompts(args: argparse.Namespace) -> Done:
    """Write a table of prompts, and say which of them a policy has been trained on."""
    from collections import Counter

    import pyarrow as pa

    from evaluation import prompts as room
    from evaluation.tables import write_parquet

    found = list(
        {one.prompt_id: one for p in args.sources for one in room.read_prompts(p)}.values()
    )
    columns = {
        "prompt_id": [one.prompt_id for one in found],
        "prompt": [one.prompt for one in found],
        "category": pa.array([one.category for one in found], pa.string()),
    }
    report: dict[str, Any] = {"prompts": len(found)}
    print(f"{len(found):,} prompts: {args.out}")
    counts = Counter(one.category for one in found if one.category)
    for category, count in counts.most_common():
        print(f"  {count:6,}  {category}")
    if args.training is not None:
        trained = room.training_prompts(args.training)
        shared = room.overlap(columns["prompt"], trained)
        columns["in_training"] = [text in set(shared) for text in columns["prompt"]]
        print(f"{len(shared):,} of them are among the {len(trained):,} prompts of {args.training}")
        for text in shared[:5]:
            print(f"  {text[:100]}")
        report["in_training"] = len(shared)
    write_parquet(args.out, pa.table(columns))
    return report, [args.out]


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
    say_problems(scored.problems, f"{args.out} holds the rest")
    return report, [args.out]


def run_compare(args: argparse.Namespace) -> Done:
    """Compare, write the page and its figures, print the table."""
    from evaluation.ksort_dataset import read_json
    from evaluation.page import as_text, read_scores, write_comparison
    from evaluation.prompts import training_prompts

    ksort: dict[str, Any] = {}
    for entry in args.ksort:
        policy, separator, path = entry.partition("=")
        if not separator:
            raise EvaluationError(f"--ksort {entry}: expected POLICY=result.json")
        ksort[policy] = read_json(Path(path))
    training = None if args.training is None else training_prompts(args.training)
    files = write_comparison(read_scores(args.scores), args.baseline, args.out, ksort, training)
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
    asked = result.judge
    if "requests" in asked:
        print(
            f"judge: {asked['requests']} requests, {asked['prompt_tokens']:,} tokens in, "
            f"{asked['completion_tokens']:,} out; {asked['kept']} judgments kept from before"
        )
        for position, place in enumerate(asked["mean_place_by_position"], start=1):
            if abs(place - 2) > 3 * asked["mean_place_error"] and asked["orders"] < 5:
                print(
                    f"position {position} got mean place {place:.2f} where 2 is fair: this judge "
                    "looks at positions, and --orders 5 averages that out"
                )
    report = {
        "mu": result.mu,
        "sigma": result.sigma,
        "score": result.score,
        "rounds": len(result.rounds),
        "stopped": result.stopped,
    }
    return report, [args.out]


def run_agreement(args: argparse.Namespace) -> Done:
    """Score the images that people judged, and say how often scorers and people agree."""
    from itertools import combinations

    from evaluation import agreement as room
    from evaluation.human_votes import image_opener, read_rankings
    from evaluation.scorers.load import load_scorers
    from evaluation.tables import finite, write_bytes

    rankings, notes = read_rankings(args.votes)
    print(*notes, sep="\n", end="\n" if notes else "", file=sys.stderr)
    pairs, ties = room.judged_pairs(rankings)
    if not pairs:
        raise EvaluationError(f"{args.votes}: every vote is a tie, so there is nothing to agree on")
    scorers, problems = load_scorers(args.scorer)
    scores, broken = room.score_pairs(pairs, scorers, image_opener(args.votes, args.images))
    found = [room.accuracy(name, pairs, scores[name]) for name in scorers]
    people, twice = room.human_agreement(pairs)
    between = {
        (a, b): room.same_order(scores[a], scores[b], pairs) for a, b in combinations(scorers, 2)
    }
    print(f"{len(pairs):,} judged pairs of {found[0].prompts:,} prompts, {ties:,} ties left out")
    width = max(len(name) for name in [*scorers, "people with each other"])
    for one in sorted(found, key=lambda one: -one.accuracy):
        interval = f"[{one.low:.1%}, {one.high:.1%}]"
        print(f"{one.scorer:{width}}  {one.accuracy:.1%} {interval} of {one.pairs:,} pairs")
    if twice:
        print(f"{'people with each other':{width}}  {people:.1%} of {twice:,} pairs of votes")
    for (a, b), share in between.items():
        print(f"{a} and {b} order {share:.1%} of the pairs alike")
    content = {
        "accuracy": [vars(one) for one in found],
        "ties": ties,
        "people": {"agreement": finite(people), "pairs_of_votes": twice},
        "scorers": [
            {"scorers": list(names), "alike": finite(share)} for names, share in between.items()
        ],
    }
    files = [] if args.out is None else [args.out]
    for path in files:
        write_bytes(path, json.dumps(content, indent=1, allow_nan=False).encode())
    say_problems([*problems, *broken], "the pairs without them are counted above")
    return {f"accuracy_{one.scorer}": one.accuracy for one in found}, files


def say_problems(problems: list[str], rest: str) -> None:
    """Name what could not be scored on stderr, and end with exit code 1 where there was some."""
    for problem in problems[:MOST_NAMED]:
        print(problem, file=sys.stderr)
    if len(problems) > MOST_NAMED:
        print(f"and {len(problems) - MOST_NAMED:,} more like these", file=sys.stderr)
    if problems:
        raise EvaluationError(
            f"{len(problems)} of the above could not be scored; mend and run again ({rest})"
        )


def run_dataset(args: argparse.Namespace) -> Done:
    """Build a K-Sort Eval data set and say what became of the votes."""
    from evaluation import ksort_build
    from evaluation.human_votes import image_opener, read_rankings

    rankings, notes = read_rankings(args.votes)
    print(*notes, sep="\n", end="\n" if notes else "", file=sys.stderr)
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
    "prompts": run_prompts,
    "generate": run_generate,
    "score": run_score,
    "compare": run_compare,
    "agreement": run_agreement,
    "dataset": run_dataset,
    "ksort": run_ksort,
}
