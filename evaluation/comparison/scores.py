"""One table of scores: images in rows, policies in columns, a number from each scorer.

Everything that compares policies is a few lines over `Scores`: it says once which images are pairs,
which columns are scores, and what is missing.

    An image of a policy is known by its prompt and its number. The prompt is its prompt_id; where a
    row has none, the id that other rows give the same text, else the text. The number is the
    column `seed`; rows without one are numbered as they come. Images of equal prompt and number are
    pairs.

    Scores are the columns that the parquet's metadata names (`score` writes it), or that the caller
    names, or those called as a known scorer is. Nothing is guessed from the values.
"""

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from evaluation.errors import EvaluationError
from evaluation.scorers.naming import DESCRIPTIVE, known_names

MEASURES = ("brightness", "saturation")


@dataclass(frozen=True)
class Scores:
    """n images of P policies.

    policies : name -> column, in the table's order. prompts : (n,) texts. prompt_of : (n,) number
    of the prompt, from 0. categories : (n,) names or None. paths : (n, P), None where a policy has
    no such image.
    values : scorer, a scorer's further number ("hps_v3.sigma") or measure -> (n, P) float64, NaN
    where there is none. further : names of the further numbers.
    embeddings : (n, P, d) or None. weights : of the scorers, as far as the table says.
    """

    policies: dict[str, int]
    scorers: list[str]
    prompts: list[str]
    prompt_of: np.ndarray
    categories: list[str | None]
    paths: np.ndarray
    values: dict[str, np.ndarray]
    further: list[str]
    embeddings: np.ndarray | None
    weights: dict[str, str | None]

    def beside(self, values: np.ndarray, baseline: str) -> tuple[np.ndarray, np.ndarray]:
        """Every policy beside the baseline, prompt by prompt, by the images that both have.

        values : (n, P), NaN where an image has none.

        Returns (prompts, P, 3), means over a prompt's images of the policy's value, of its
        difference from the baseline's and of its wins (1 above the baseline, 1/2 equal), NaN where
        no image can be compared; and (prompts, P), how many images can.
        """
        old = values[:, [self.policies[baseline]]]
        both = np.isfinite(values) & np.isfinite(old)
        with np.errstate(invalid="ignore"):
            wins = (values > old) + 0.5 * (values == old)
            each = np.stack([values, values - old, wins], axis=2)
        prompts = self.prompt_of.max(initial=-1) + 1
        totals, images = np.zeros((prompts, *each.shape[1:])), np.zeros((prompts, both.shape[1]))
        np.add.at(totals, self.prompt_of, np.where(both[:, :, None], each, 0))
        np.add.at(images, self.prompt_of, both)
        with np.errstate(invalid="ignore"):
            return totals / images[:, :, None], images

    def failures(self) -> list[tuple[str, str, Path, list[str]]]:
        """(policy, prompt, image, scorers) where an image lacks a score by scorers that gave some.

        A prompt that a scorer gives nobody a number for is none that it was asked.
        """
        lost: dict[tuple[int, int], list[str]] = {}
        for scorer in self.scorers:
            there = np.isfinite(self.values[scorer])
            gaps = (self.paths != None) & ~there & there.any(axis=1)[:, None]  # noqa: E711
            for row, column in np.argwhere(gaps).tolist():
                lost.setdefault((row, column), []).append(scorer)
        names = list(self.policies)
        return [
            (names[column], self.prompts[row], self.paths[row, column], by)
            for (row, column), by in sorted(lost.items())
        ]


def scorers_of(
    table: pa.Table, wanted: Sequence[str] | None
) -> tuple[list[str], dict[str, str | None]]:
    """Names of the columns of scores (the caller's word, else what the table's metadata says, else
    those called as a known scorer is), and the scorers' weights as far as the metadata says.

    Raises EvaluationError where nobody says which they are.
    """
    columns, said = table.column_names, {"scorers": None, "weights": None}
    for key in said:
        with suppress(ValueError, RecursionError):
            said[key] = json.loads((table.schema.metadata or {}).get(key.encode(), b"null"))
    named: Any = list(wanted) if wanted else said["scorers"]
    weights: Any = said["weights"]
    if not isinstance(named, list):
        named = [name for name in columns if name in known_names()]
    for name in named:
        if name not in columns:
            raise EvaluationError(f"the scores have no column {name!r} (only {', '.join(columns)})")
    if not named:
        others = [name for name in columns if name not in DESCRIPTIVE]
        raise EvaluationError(
            "which column is a score? the table does not say; name it with --scorer"
            + (f" (it has {', '.join(others)})" if others else "; run `score` first")
        )
    return named, weights if isinstance(weights, dict) else {}


def scores_of(table: Any, scorers: Sequence[str] | None = None) -> Scores:
    """Read a pyarrow table or polars frame: policy, prompt, scores; perhaps prompt_id, seed,
    category, image, brightness, saturation, embedding.

    Raises EvaluationError when a column is missing, a score is no number, or a policy has two
    images for one prompt and number.
    """
    if isinstance(table, Scores):
        return table
    table = table if isinstance(table, pa.Table) else table.to_arrow()
    named, weights = scorers_of(table, scorers)
    columns = table.to_pydict()
    for name in ("policy", "prompt"):
        if name not in columns:
            raise EvaluationError(f"the scores have no column {name!r} (only {', '.join(columns)})")
    nothing = [None] * table.num_rows
    ids = prompt_ids(columns["prompt"], columns.get("prompt_id", nothing))
    rows, places = slots(columns["policy"], ids, columns.get("seed", nothing))
    shape = (rows.max(initial=-1) + 1, places.max(initial=-1) + 1)
    own = tuple(f"{name}." for name in named)  # "hps_v3.sigma"; hps_v2.1 is no number of hps_v2
    further = [name for name in columns if name.startswith(own) and name not in named]
    values = {}
    for name in dict.fromkeys([*named, *further, *(one for one in MEASURES if one in columns)]):
        values[name] = np.full(shape, np.nan)
        try:
            values[name][rows, places] = np.array(columns[name], dtype=float)  # None becomes NaN
        except (TypeError, ValueError) as error:
            raise EvaluationError(f"the column {name!r} holds no scores: {error}") from error
    paths = np.full(shape, None, dtype=object)
    images = columns.get("image", [""] * len(ids))
    paths[rows, places] = [None if image is None else Path(image) for image in images]
    seen, embeddings = columns.get("embedding", nothing), None
    there = [i for i, one in enumerate(seen) if isinstance(one, bytes)]
    lengths = {len(seen[i]) for i in there}
    if len(lengths) == 1:  # all of one model
        halves = np.frombuffer(b"".join(seen[i] for i in there), np.float16)
        embeddings = np.full((*shape, lengths.pop() // 2), np.nan, dtype=np.float32)
        embeddings[rows[there], places[there]] = halves.reshape(len(there), -1)
    # A row's prompt: its number, its text as first given, the first category that is given.
    first = [ids[i] for i in np.unique(rows, return_index=True)[1]]
    numbering = {one: number for number, one in enumerate(dict.fromkeys(first))}
    texts = dict(zip(reversed(ids), reversed(columns["prompt"]), strict=True))
    categories: dict[str, str | None] = {}
    for one, category in zip(ids, columns.get("category", nothing), strict=True):
        categories[one] = categories.get(one) or category
    return Scores(
        policies={name: i for i, name in enumerate(dict.fromkeys(columns["policy"]))},
        scorers=named,
        prompts=[texts[one] for one in first],
        prompt_of=np.array([numbering[one] for one in first], dtype=int),
        categories=[categories[one] for one in first],
        paths=paths,
        values=values,
        further=further,
        embeddings=embeddings,
        weights=weights,
    )


def prompt_ids(prompts: Sequence[str], given: Sequence[Any]) -> list[str]:
    """What each row's prompt is known by; see the module's head."""
    texts: dict[str, str] = {}
    known: dict[str, dict[str, None]] = {}
    for prompt, one in zip(prompts, given, strict=True):
        if one is not None:
            if texts.setdefault(str(one), prompt) != prompt:
                raise EvaluationError(
                    f"prompt_id {one!r} stands for two prompts, {texts[str(one)][:60]!r} and "
                    f"{prompt[:60]!r}; give each its own id, or leave the column out"
                )
            known.setdefault(prompt, {})[str(one)] = None
    found = []
    for prompt, one in zip(prompts, given, strict=True):
        others = known.get(prompt, {})
        if one is None and len(others) > 1:
            raise EvaluationError(
                f"the prompt {prompt[:60]!r} has the ids {', '.join(others)} in some rows and none "
                "in others, so it is not known which of them are pairs"
            )
        found.append(str(one) if one is not None else next(iter(others), prompt))
    return found


def slots(
    policies: Sequence[str], ids: Sequence[str], seeds: Sequence[Any]
) -> tuple[np.ndarray, np.ndarray]:
    """(row, column) in the grid of images by policies, for each row of the table."""
    columns = {name: place for place, name in enumerate(dict.fromkeys(policies))}
    numbers: dict[tuple[str, int], int] = {}
    counts: Counter[tuple[str, str]] = Counter()
    taken: dict[tuple[int, int], None] = {}
    for policy, one, given in zip(policies, ids, seeds, strict=True):
        try:
            seed = counts[policy, one] if given is None else int(given)
            if given is not None and float(given) != seed:
                raise ValueError
        except (TypeError, ValueError, OverflowError) as error:
            raise EvaluationError(f"the seed {given!r} is no whole number") from error
        counts[policy, one] += given is None
        place = numbers.setdefault((one, seed), len(numbers)), columns[policy]
        if place in taken:
            raise EvaluationError(
                f"policy {policy!r} has two images for prompt {one!r}, seed {seed}; "
                "give each image once"
            )
        taken[place] = None
    places = np.array([*taken], dtype=int).reshape(-1, 2)
    return places[:, 0], places[:, 1]
