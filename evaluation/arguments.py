"""The command line of the evaluation job: what each command takes, with an example each.

Nothing heavy is imported here, so `--help` answers at once; what a command does is in `commands`.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

from evaluation.releases import RELEASES

PROMPTS = """examples:
  python -m evaluation prompts PartiPrompts.tsv --training votes.parquet --out prompts.parquet
  python -m evaluation prompts HPDv2/benchmark_prompts DrawBench.csv --out prompts.parquet

SOURCE: Pick-a-Pic (.parquet), HPDv2 (folder of .json), PartiPrompts (.tsv), DrawBench (.csv),
GenEval (.jsonl), own tables with prompt and perhaps prompt_id, .txt with one a line, or a training
set, of which the held-out prompts are taken. `generate` reads the same files directly.
"""
GENERATE = (
    """examples:
  python -m evaluation generate --base examples/miniature/world/base --policy runs/arenapo/policy \\
      --name arenapo --prompts examples/miniature/world/evaluation_prompts.parquet \\
      --images-per-prompt 2 --steps 20 --guidance 2 --seed 0 --out runs/arenapo/generations
  python -m evaluation generate --policy spo-sdxl --name spo --prompts PartiPrompts.parquet \\
      --processes 8 --out runs/spo

releases: """
    + ", ".join(RELEASES)
    + """.
A run that was interrupted, or another --processes, goes on with the images that are not there yet.
"""
)
SCORE = """example:
  python -m evaluation score runs/*/generations/images.parquet \\
      --scorer miniature=examples/miniature/world/scorer --scorer clip --out scores.parquet

scorers: pickscore, hps_v2, hps_v2.1, hps_v3, clip, aesthetic, imagereward, miniature; SOURCE is a
folder or a hub name.
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
AGREEMENT = """examples:
  python -m evaluation agreement votes.parquet --images images.parquet \\
      --scorer pickscore --scorer hps_v2.1=FOLDER --out agreement.json

VOTES: votes on images in any format that `arena inspect` reads: the votes table, K-wise votes
(prompt, images, ranks), Pick-a-Pic, HPD, ImageReward. Images are paths relative to the file, ids
into --images (parquet: image, bytes), or inside it (Pick-a-Pic). Accuracy is the share of pairs of
images that the scorer orders as the person did, ties left out.
"""
DATASET = """examples:
  python -m evaluation dataset votes.parquet --images images.parquet --out ksort
  python -m evaluation dataset rankings.jsonl --ratings ratings.parquet --out ksort

VOTES: K-wise votes (prompt, models, images, ranks; K of 4 or more) in any format that `arena
inspect` reads. Images are paths relative to the file, or ids into --images (parquet: image, bytes).
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

    prompts = add("prompts", "Read public prompt sets; find what was trained on.", PROMPTS)
    prompts.add_argument("sources", type=Path, nargs="+", metavar="SOURCE")
    prompts.add_argument("--training", type=Path, help="training set or votes, to find overlap")
    prompts.add_argument("--out", type=Path, required=True, help="prompts.parquet")

    generate = add("generate", "Make a policy's images for a list of prompts.", GENERATE)
    generate.add_argument("--base", help="diffusers folder or hub name (a release knows its own)")
    generate.add_argument(
        "--policy", help="folder of a LoRA, denoiser or pipeline, or a release; absent: the base"
    )
    generate.add_argument("--name", required=True, help="the policy's name in the table")
    generate.add_argument("--prompts", type=Path, required=True, help="see `prompts`")
    generate.add_argument("--out", type=Path, required=True, help="folder for images")
    generate.add_argument("--images-per-prompt", type=at_least(1), default=1)
    generate.add_argument("--steps", type=at_least(1), default=50, help="scheduler steps (50)")
    generate.add_argument("--guidance", type=float, default=7.5, help="guidance scale (7.5)")
    generate.add_argument("--seed", type=int, default=0)
    generate.add_argument("--resolution", type=at_least(8), help="side in pixels (the base's own)")
    generate.add_argument("--ksort", type=Path, help="K-Sort data set to make images for as well")
    generate.add_argument("--batch-size", type=at_least(1), help="images at once (by their size)")
    generate.add_argument("--processes", type=at_least(1), default=1, help="one a GPU, say (1)")

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
    compare.add_argument("--training", type=Path, help="training set or votes, to find overlap")

    agreement = add("agreement", "How often do scorers agree with people's votes?", AGREEMENT)
    agreement.add_argument("votes", type=Path, metavar="VOTES")
    agreement.add_argument("--scorer", action="append", required=True, metavar="NAME[=SOURCE]")
    agreement.add_argument("--images", type=Path, help="parquet of image, bytes")
    agreement.add_argument("--out", type=Path, help="agreement.json")

    dataset = add("dataset", "Build a K-Sort Eval data set from your own K-wise votes.", DATASET)
    dataset.add_argument("votes", type=Path, metavar="VOTES")
    dataset.add_argument("--images", type=Path, help="parquet of image, bytes")
    dataset.add_argument("--ratings", type=Path, help="leaderboard, as `arena fit` writes it")
    dataset.add_argument("--instances", type=at_least(1), default=500, help="at most (500)")
    dataset.add_argument("--seed", type=int, default=0, help="of the draw of fours and instances")
    dataset.add_argument("--out", type=Path, required=True, help="new folder")

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
