"""Which images the comparison shows: where policies differ most and least, and what failed.

Images are chosen by the first scorer of the table. How they are shown is in `page_html`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.grids import Column, draw_grid, encode_small, readable
from evaluation.statistics import scorers_of
from evaluation.tables import columns_of

SHOWN = 8  # pairs of images of each kind on the page
ABREAST = 6  # prompts beside each other in a grid of all policies
ABREAST_SIDE = 128  # pixels of each image there


@dataclass(frozen=True)
class Pair:
    """One prompt with the baseline's image and the policy's, and their scores."""

    prompt: str
    images: tuple[Path, Path]
    scores: tuple[float, float]

    @property
    def difference(self) -> float:
        """The policy's score above the baseline's."""
        return self.scores[1] - self.scores[0]


@dataclass(frozen=True)
class Failure:
    """An image that some scorer gave no score, as it could not be read or has none of its own."""

    policy: str
    prompt: str
    image: str
    scorers: tuple[str, ...]
    readable: bool


def pairs_of(scores: Any, baseline: str, policy: str, scorer: str) -> list[Pair]:
    """Pairs of images of the same prompt and noise, largest gain of the policy first."""
    columns = columns_of(scores)
    ids = columns.get("prompt_id", columns["prompt"])
    seeds = columns.get("seed", [0] * len(ids))
    found: dict[str, dict[tuple[str, int], tuple[str, Path, float]]] = {baseline: {}, policy: {}}
    rows = zip(
        columns["policy"],
        ids,
        seeds,
        columns["prompt"],
        columns["image"],
        columns[scorer],
        strict=True,
    )
    for name, prompt_id, seed, prompt, image, score in rows:
        if name in found and score is not None and math.isfinite(score):
            found[name][prompt_id, seed] = (prompt, Path(image), score)
    pairs = []
    for key, (prompt, image, score) in found[policy].items():
        if key in found[baseline]:
            _, before, old = found[baseline][key]
            pairs.append(Pair(prompt, (before, image), (old, score)))
    return sorted(pairs, key=lambda pair: -pair.difference)


def extremes(pairs: Sequence[Pair], count: int = SHOWN) -> dict[str, list[Pair]]:
    """Where a policy gains most, loses most and changes least; no pair in two of them."""
    gains = [pair for pair in pairs[:count] if pair.difference > 0]
    losses = [pair for pair in pairs[::-1][:count] if pair.difference < 0]
    rest = [pair for pair in pairs if pair not in gains and pair not in losses]
    same = sorted(rest, key=lambda pair: abs(pair.difference))[:count]
    return {"gains": gains, "losses": losses, "same": same}


def grid_of(baseline: str, policy: str, found: Mapping[str, Sequence[Pair]]) -> bytes:
    """A PNG of the baseline above the policy: most gained, most lost, least changed."""
    chosen = [*found["gains"][:4], *found["losses"][:4], *found["same"][:2]]
    columns = [
        Column(pair.prompt, pair.images, [f"{score:.3g}" for score in pair.scores])
        for pair in chosen
    ]
    return encode_small(draw_grid([baseline, policy], columns), None)


def spreads(scores: Any, scorer: str) -> dict[str, bytes]:
    """PNGs of all policies for the prompts on which they differ most ("most") and least ("least").

    The difference is the highest score less the lowest among all policies, for one prompt and
    noise; images that not every policy has are left out. Empty where nothing is shared.
    """
    columns = columns_of(scores)
    ids = columns.get("prompt_id", columns["prompt"])
    seeds = columns.get("seed", [0] * len(ids))
    policies = list(dict.fromkeys(columns["policy"]))
    found: dict[tuple[str, int], dict[str, tuple[str, Path, float]]] = {}
    rows = zip(
        ids, seeds, columns["policy"], columns["prompt"], columns["image"], columns[scorer],
        strict=True,
    )  # fmt: skip
    for prompt_id, seed, policy, prompt, image, score in rows:
        if score is not None and math.isfinite(score):
            found.setdefault((prompt_id, seed), {})[policy] = (prompt, Path(image), score)
    shared = [one for one in found.values() if len(one) == len(policies)]
    ordered = sorted(shared, key=lambda one: -spread(score for *_, score in one.values()))
    half = min(ABREAST, len(ordered) // 2)
    chosen = {"most": ordered[:half], "least": ordered[len(ordered) - half :][::-1]}
    return {
        name: encode_small(draw_grid(policies, grid_columns(some, policies), ABREAST_SIDE), None)
        for name, some in chosen.items()
        if some
    }


def spread(values: Any) -> float:
    """Highest less lowest."""
    known = list(values)
    return max(known) - min(known)


def grid_columns(
    chosen: Sequence[Mapping[str, tuple[str, Path, float]]], policies: Sequence[str]
) -> list[Column]:
    """A column of a grid for each prompt, in the policies' order, the scores under the images."""
    return [
        Column(
            next(iter(one.values()))[0],
            [one[policy][1] for policy in policies],
            [f"{one[policy][2]:.3g}" for policy in policies],
        )
        for one in chosen
    ]


def failures(scores: Any) -> list[Failure]:
    """Every image that lacks a score, in the table's order."""
    columns, scorers = columns_of(scores), scorers_of(scores)
    found = []
    for row, (policy, prompt, image) in enumerate(
        zip(columns["policy"], columns["prompt"], columns["image"], strict=True)
    ):
        values = {name: columns[name][row] for name in scorers}
        lacking = tuple(n for n, v in values.items() if v is None or not math.isfinite(v))
        if lacking:
            found.append(Failure(policy, prompt, image, lacking, readable(Path(image))))
    return found
