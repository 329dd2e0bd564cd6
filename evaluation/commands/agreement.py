"""How often do scorers agree with people's votes?

examples:
  python -m evaluation agreement votes.parquet --images images.parquet \\
      --scorer pickscore --scorer hps_v2.1=FOLDER --out agreement.json

VOTES: votes on images in any format that `arena inspect` reads: the votes table, K-wise votes
(prompt, images, ranks), Pick-a-Pic, HPD, ImageReward. Images are paths relative to the file, ids
into --images (parquet: image, bytes), or inside it (Pick-a-Pic). Accuracy is the share of pairs of
images that the scorer orders as the person did, ties left out.
"""

import argparse
import json
from itertools import combinations
from pathlib import Path

from evaluation.commands import DEVICE, IMAGES, SCORER, Done, say_problems
from evaluation.errors import EvaluationError

ARGUMENTS = {
    "votes": {"type": Path, "metavar": "VOTES"},
    "--images": IMAGES,
    "--scorer": SCORER,
    "--device": DEVICE,
    "--out": {"type": Path, "help": "agreement.json"},
}


def run(args: argparse.Namespace) -> Done:
    """Score the images that people judged, and say how often scorers and people agree."""
    from evaluation.agreement import (
        accuracy,
        human_agreement,
        judged_pairs,
        same_order,
        score_pairs,
    )
    from evaluation.human_votes import image_source, read_rankings
    from evaluation.scorers.naming import content, parse_all
    from evaluation.tables import as_json, provenance, write

    scorers = parse_all(args.scorer)
    pairs, ties = judged_pairs(read_rankings(args.votes))
    if not pairs:
        raise EvaluationError(f"{args.votes}: every vote is a tie, so there is nothing to agree on")
    scores, problems = score_pairs(pairs, scorers, image_source(args.votes, args.images))
    names = [name for name in scores if scores[name]]
    if not names:
        say_problems(problems, "where the votes hold ids, give --images")
        raise EvaluationError("no scorer scored any image")
    found = [accuracy(name, pairs, scores[name]) for name in names]
    people, twice = human_agreement(pairs)
    between = {(a, b): same_order(scores[a], scores[b], pairs) for a, b in combinations(names, 2)}
    print(f"{len(pairs):,} judged pairs of {found[0].prompts:,} prompts, {ties:,} ties left out")
    width = max(len(name) for name in [*names, "people with each other"])
    for one in sorted(found, key=lambda one: -one.accuracy):
        interval = f"[{one.low:.1%}, {one.high:.1%}]"
        print(f"{one.scorer:{width}}  {one.accuracy:.1%} {interval} of {one.pairs:,} pairs")
    if twice:
        print(f"{'people with each other':{width}}  {people:.1%} of {twice:,} pairs of votes")
    for (a, b), share in between.items():
        print(f"{a} and {b} order {share:.1%} of the pairs alike")
    result = {
        "accuracy": found,
        "ties": ties,
        "people": {"agreement": people, "pairs_of_votes": twice},
        "scorers": [{"scorers": both, "alike": share} for both, share in between.items()],
        "made_by": provenance({one.label: content(one) for one in scorers}),
    }
    files = [] if args.out is None else [args.out]
    for path in files:
        write(path, json.dumps(as_json(result), indent=1, allow_nan=False).encode())
    say_problems(problems, "the pairs without them are counted above")
    return {f"accuracy_{one.scorer}": one.accuracy for one in found}, files
