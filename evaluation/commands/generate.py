"""Make a policy's images for a list of prompts.

examples:
  python -m evaluation generate --base examples/miniature/world/base --policy runs/arenapo/policy \\
      --name arenapo --prompts examples/miniature/world/evaluation_prompts.parquet \\
      --images-per-prompt 2 --steps 20 --guidance 2 --seed 0 --out runs/arenapo/generations
  accelerate launch --num_processes 8 -m evaluation generate --policy spo-sdxl --name spo \\
      --prompts PartiPrompts.parquet --out runs/spo

POLICY: a folder that training wrote, a LoRA's .safetensors (diffusers', peft's or kohya's keys), a
hub name, or one of the releases in evaluation/policies.py (dpo-sdxl, spo-sdxl, mapo-sdxl, ...).
A run that was interrupted goes on with the images that are not there yet.
"""

import argparse
from pathlib import Path

from evaluation.commands import Done


def drawing_arguments(parser: argparse.ArgumentParser) -> None:
    """What decides how a policy draws; `ksort` takes it as well."""
    parser.add_argument("--base", help="diffusers folder or hub name (a release knows its own)")
    parser.add_argument("--policy", help="see below; absent: the base itself")
    parser.add_argument("--steps", type=int, default=50, help="scheduler steps (50)")
    parser.add_argument("--guidance", type=float, default=7.5, help="guidance scale (7.5)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise, and of orders shown (0)")
    parser.add_argument("--resolution", type=int, help="side in pixels (the base's own)")
    parser.add_argument("--batch-size", type=int, help="images at once (by their size)")
    parser.add_argument("--device", help='"cpu", "cuda:1" (a GPU where there is one)')


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    drawing_arguments(parser)
    parser.add_argument("--name", required=True, help="the policy's name in the table")
    parser.add_argument("--prompts", type=Path, required=True, help="see `prompts`")
    parser.add_argument("--out", type=Path, required=True, help="folder for images")
    parser.add_argument("--images-per-prompt", type=int, default=1)
    parser.add_argument("--limit", type=int, help="only the first so many prompts")
    parser.add_argument("--ksort", type=Path, help="K-Sort data set to make all images for as well")


def run(args: argparse.Namespace) -> Done:
    """Make the images, then the table that lists them."""
    from evaluation import devices
    from evaluation import generate as room
    from evaluation.ksort_dataset import read_dataset
    from evaluation.policies import find_policy
    from evaluation.prompts import read_prompts

    prompts = read_prompts(args.prompts)[: args.limit]
    pairs = [(one.prompt_id, one.prompt) for one in prompts]
    targets = room.prompt_targets(pairs, args.images_per_prompt, args.seed, args.out / "images")
    if args.ksort is not None:
        dataset = read_dataset(args.ksort)
        targets += [
            room.ksort_target(one.name, one.prompt, args.seed, args.out / "ksort")
            for one in map(dataset.instance, range(len(dataset.names)))
        ]
    made, kept, seconds, weights = room.generate(
        find_policy(args.base, args.policy),
        targets,
        room.Settings(args.steps, args.guidance, args.seed, args.resolution),
        batch_size=args.batch_size,
    )
    if devices.RANK:
        return {}, []
    index = args.out / "images.parquet"
    room.write_index(index, args.name, prompts, args.images_per_prompt, weights)
    print(f"{args.name}: {made} images made in {seconds:.1f} s, {kept} kept: {index}")
    seconds = round(seconds, 3)
    report = {"policy": args.name, "images": len(targets), "made": made, "seconds": seconds}
    return report, [*(target.path for target in targets), index]
