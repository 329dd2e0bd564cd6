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

from evaluation.commands import DRAWING, LIMIT, Done, artist

ARGUMENTS = {
    **DRAWING,
    "--name": {"required": True, "help": "the policy's name in the table"},
    "--prompts": {"type": Path, "required": True, "help": "see `prompts`"},
    "--out": {"type": Path, "required": True, "help": "folder for images"},
    "--images-per-prompt": {"type": int, "default": 1},
    "--limit": LIMIT,
    "--ksort": {"type": Path, "help": "K-Sort data set to make all images for as well"},
}


def run(args: argparse.Namespace) -> Done:
    """Make the images, then the table that lists them."""
    from evaluation import devices
    from evaluation.generate import generate, ksort_target, prompt_targets, write_index
    from evaluation.ksort.dataset import read_dataset
    from evaluation.prompts import read_prompts

    prompts = read_prompts(args.prompts)[: args.limit]
    pairs = [(one.prompt_id, one.prompt) for one in prompts]
    targets = prompt_targets(pairs, args.images_per_prompt, args.seed, args.out / "images")
    if args.ksort is not None:
        dataset = read_dataset(args.ksort)
        targets += [
            ksort_target(one.name, one.prompt, args.seed, args.out / "ksort")
            for one in map(dataset.instance, range(len(dataset.names)))
        ]
    drawing = artist(args)
    made, kept, seconds = generate(drawing, targets)
    if devices.RANK:
        return {}, []
    index = args.out / "images.parquet"
    write_index(index, args.name, prompts, args.images_per_prompt, drawing.weights)
    print(f"{args.name}: {made} images made in {seconds:.1f} s, {kept} kept: {index}")
    seconds = round(seconds, 3)
    report = {"policy": args.name, "images": len(targets), "made": made, "seconds": seconds}
    return report, [*(target.path for target in targets), index]
