"""Give another trainer the margins of your votes: pairs for diffusers' Diffusion-DPO script.

    python -m examples.margins_for_a_trainer pairs/

The votes and images are the miniature's. What is written has Pick-a-Pic's columns, which that
script reads, and a column `margin`: ArenaPO's loss is -log sigmoid(logits - gamma * margin).
"""

import argparse
from pathlib import Path

import arena

WORLD = Path(__file__).parent / "miniature" / "world"


def main() -> None:
    """Rate the models by all votes, and write the pairs of the newest thousand."""
    parser = argparse.ArgumentParser(prog="python -m examples.margins_for_a_trainer")
    parser.add_argument("out", type=Path, help="an own folder")
    options = parser.parse_args()
    votes = arena.read_votes(WORLD / "votes.parquet").votes
    ratings = arena.TrueSkill().fit(votes)
    newest = votes.tail(1000)
    gaps = arena.pairwise_gaps(newest, ratings)
    images = arena.Images([WORLD / "images.parquet"])
    print(arena.export_pairs(newest, gaps, "diffusers", options.out, images))


if __name__ == "__main__":
    main()
