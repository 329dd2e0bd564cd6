"""Build a K-Sort Eval data set from your own K-wise votes.

examples:
  python -m evaluation dataset votes.parquet --images images.parquet --out ksort
  python -m evaluation dataset rankings.jsonl --ratings ratings.parquet --out ksort

VOTES: K-wise votes (prompt, models, images, ranks; K of 4 or more) in any format that `arena
inspect` reads. Images are paths relative to the file, or ids into --images (parquet: image, bytes).
"""

import argparse
from pathlib import Path

from evaluation.commands import IMAGES, Done

ARGUMENTS = {
    "votes": {"type": Path, "metavar": "VOTES"},
    "--images": IMAGES,
    "--ratings": {"type": Path, "help": "leaderboard, as `arena fit` writes it"},
    "--instances": {"type": int, "default": 500, "help": "at most (500)"},
    "--seed": {"type": int, "default": 0, "help": "of the draw of fours and instances"},
    "--out": {"type": Path, "required": True, "help": "new folder"},
}


def run(args: argparse.Namespace) -> Done:
    """Build the data set and say what became of the votes."""
    from evaluation.human_votes import image_source, read_rankings
    from evaluation.ksort.build import rate_models, read_ratings, write_dataset

    rankings = read_rankings(args.votes)
    ratings = read_ratings(args.ratings) if args.ratings else rate_models(rankings)
    source = image_source(args.votes, args.images)
    instances = write_dataset(
        args.out, rankings, ratings, source, seed=args.seed, most=args.instances
    )
    few = sum(len(one.images) < 4 for one in rankings)
    print(
        f"{instances} instances from {len(rankings):,} votes over {len(ratings)} models "
        f"({few:,} votes of fewer than four images rate models only): {args.out}"
    )
    report = {"instances": instances, "votes": len(rankings), "models": len(ratings)}
    return report, sorted(path for path in args.out.rglob("*") if path.is_file())
