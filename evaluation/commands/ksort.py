"""Rate a new model against an arena by K-Sort Eval.

examples:
  python -m evaluation ksort --dataset examples/miniature/world/ksort --images new \\
      --base examples/miniature/world/base --policy runs/arenapo/policy --steps 20 --guidance 2 \\
      --judge scorer:miniature=examples/miniature/world/scorer --out result.json
  OPENAI_API_KEY=... python -m evaluation ksort --dataset K-Sort-Eval --images new \\
      --judge openai:gpt-4o --question published --max-requests 100 --out result.json

With --base or --policy the images of the instances that are met are drawn into --images, a batch
ahead; without, they have to be there. judges: recorded:FILE.jsonl, scorer:NAME[=SOURCE],
local:FOLDER (a vision-language model in transformers' layout, or its hub name), openai:MODEL (any
OpenAI-compatible endpoint, OPENAI_BASE_URL and OPENAI_API_KEY). Answers that cost something are
kept beside --out, in judgments/, so a repeat or an interrupted evaluation asks only what is new. An
instance that the judge refuses is left out and noted.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.commands import DRAWING, Done, artist

ENDINGS = {
    "sigma": "settled",
    "rounds": "not settled after the last round allowed",
    "instances": "not settled when the data set ran out",
    "refusals": "stopped because the judge refused too many instances",
    "budget": "stopped by --max-requests; the same command with a higher one goes on",
}


ARGUMENTS = {
    "--dataset": {"type": Path, "required": True, "help": "K-Sort Eval folder"},
    "--images": {"type": Path, "required": True, "help": "<instance>.png of the new model"},
    "--judge": {"required": True},
    "--out": {"type": Path, "required": True, "help": "result.json"},
    **DRAWING,
    "--question": {
        "choices": ("house", "published", "unified"), "default": "house",
        "help": "how openai and local are asked: published has K-Sort Eval's own weights, unified "
        "judges three dimensions first",
    },
    "--size": {
        "type": int, "default": 512, "help": "longer side of what they see, pixels (512)",
    },
    "--orders": {
        "type": int, "default": 1,
        "help": "ask openai or local in so many orders (1 to 5) and average: no place is favoured",
    },
    "--max-requests": {"type": int, "help": "stop after so many requests"},
    "--max-tokens": {
        "type": int, "default": 1024, "help": "of an answer, thoughts and all (1024)",
    },
    "--max-refusals": {"type": int, "default": 10, "help": "stop after so many (10)"},
    "--variance": {"choices": ("code", "paper"), "default": "code", "help": "reading"},
    "--score": {"choices": ("code", "paper"), "default": "code", "help": "reading"},
}  # fmt: skip


def run(args: argparse.Namespace) -> Done:
    """Run K-Sort Eval and write its result."""
    from tqdm import tqdm

    from arena.escape import printable
    from evaluation.generate import ksort_target
    from evaluation.ksort.dataset import read_dataset
    from evaluation.ksort.judges import Asking, load_judge
    from evaluation.ksort.rating import MOST_ROUNDS, Round, evaluate
    from evaluation.tables import write

    dataset = read_dataset(args.dataset)
    asking = Asking(args.orders, args.question, args.size, args.max_requests, args.max_tokens)
    judge: Any = load_judge(args.judge, args.out.parent / "judgments", asking)
    rounds = min(MOST_ROUNDS, len(dataset.names))
    if hasattr(judge, "estimate"):
        print(judge.estimate(rounds), file=sys.stderr)
    drawing: Any = None if args.base is None and args.policy is None else artist(args)

    def draw(instances: Iterator[Any]) -> None:
        some = (ksort_target(each.name, each.prompt, args.seed, args.images) for each in instances)
        drawing.draw_first(some)

    with tqdm(total=rounds, unit="round", mininterval=2) as progress:

        def show(one: Round) -> None:
            progress.set_postfix_str(f"mu {one.mu:.2f}, sigma {one.sigma:.2f}", refresh=False)
            progress.update()

        result = evaluate(
            dataset,
            args.images,
            judge,
            seed=args.seed,
            variance=args.variance,
            score=args.score,
            draw=None if drawing is None else draw,
            most_refusals=args.max_refusals,
            on_round=show,
        )
    write(args.out, json.dumps(asdict(result), indent=1).encode())
    print(
        f"score {result.score:.2f} (mu {result.mu:.2f}, sigma {result.sigma:.2f}) "
        f"after {len(result.rounds)} rounds, {ENDINGS[result.stopped]}: {args.out}"
    )
    for one in result.skipped:
        print(printable(f"left out: {one['instance']}: {one['reason']}"), file=sys.stderr)
    if "requests" in result.judge:
        say_costs(result.judge)
    report = {key: getattr(result, key) for key in ("mu", "sigma", "score", "stopped")}
    return report | {"rounds": len(result.rounds), "skipped": len(result.skipped)}, [args.out]


def say_costs(asked: dict[str, Any]) -> None:
    """What a judge that is asked in words cost, and whether it looks at positions."""
    print(
        f"judge: {asked['requests']} requests, {asked['prompt_tokens']:,} tokens in, "
        f"{asked['completion_tokens']:,} out; {asked['kept']} judgments kept from before, "
        f"{asked['refused']} refused"
    )
    for position, place in enumerate(asked["mean_place_by_position"], start=1):
        if abs(place - 2) > 3 * asked["mean_place_error"] and asked["orders"] < 5:
            print(
                f"position {position} got mean place {place:.2f} where 2 is fair: this judge "
                "looks at positions, and --orders 5 averages that out"
            )
