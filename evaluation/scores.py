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
from evaluation.scorers.naming import BUILT_IN, DESCRIPTIVE, offered

MEASURES = ("brightness", "saturation")


@dataclass(frozen=True)
class Scores:
    """n images of P policies.

    policies : P names, as they come. prompts : (n,) texts. prompt_of : (n,) number of the prompt,
    from 0. categories : (n,) names or None. paths : (n, P), None where a policy has no such image.
    values : scorer, a scorer's further number ("hps_v3.sigma") or measure -> (n, P) float64, NaN
    where there is none.
    embeddings : (n, P, d) or None. weights : of the scorers, as far as the table says.
    """

    policies: list[str]
    scorers: list[str]
    prompts: list[str]
    prompt_of: np.ndarray
    categories: list[str | None]
    paths: np.ndarray
    values: dict[str, np.ndarray]
    embeddings: np.ndarray | None
    weights: dict[str, str | None]

    def column(self, policy: str) -> int:
        """A policy's place; raises EvaluationError where there is none of that name."""
        if policy not in self.policies:
            raise EvaluationError(
                f"no image of the policy {policy!r}; the scores hold {', '.join(self.policies)}"
            )
        return self.policies.index(policy)

    def paired(self, scorer: str, *policies: str) -> tuple[np.ndarray, np.ndarray]:
        """Rows where all of some policies have a score, and these scores (m, len(policies))."""
        columns = self.values[scorer][:, [self.column(policy) for policy in policies]]
        rows = np.flatnonzero(np.isfinite(columns).all(axis=1))
        return rows, columns[rows]

    def per_prompt(self, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Mean of values (m, ...) at some rows over the images of each prompt: (prompts, ...)."""
        prompts, index = np.unique(self.prompt_of[rows], return_inverse=True)
        totals = np.zeros((len(prompts), *values.shape[1:]))
        np.add.at(totals, index, values)
        return totals / np.bincount(index).reshape(-1, *[1] * (values.ndim - 1))

    def within(self, category: str) -> "Scores":
        """The images of one category's prompts."""
        rows = [i for i, one in enumerate(self.categories) if one == category]
        return Scores(
            self.policies,
            self.scorers,
            [self.prompts[i] for i in rows],
            self.prompt_of[rows],
            [category] * len(rows),
            self.paths[rows],
            {name: values[rows] for name, values in self.values.items()},
            None if self.embeddings is None else self.embeddings[rows],
            self.weights,
        )

    def failures(self) -> list[tuple[int, str, tuple[str, ...]]]:
        """(row, policy, scorers) of every image that lacks a score by a scorer which gave some."""
        asked = [name for name in self.scorers if np.isfinite(self.values[name]).any()]
        lost = np.stack([np.isnan(self.values[name]) for name in asked], axis=2) if asked else None
        if lost is None:
            return []
        there = self.paths != None  # noqa: E711  (elementwise)
        # A prompt that a scorer gives nobody a number for is none that it was asked.
        answered = np.stack([np.isfinite(self.values[name]).any(axis=1) for name in asked], axis=1)
        lost &= there[:, :, None] & answered[:, None, :]
        return [
            (int(row), self.policies[column], tuple(np.array(asked)[lost[row, column]]))
            for row, column in np.argwhere(lost.any(axis=2))
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
        named = [name for name in columns if name in {*BUILT_IN, *offered()}]
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
    nothing = [None] * len(columns["policy"])
    policies = list(dict.fromkeys(columns["policy"]))
    ids = prompt_ids(columns["prompt"], columns.get("prompt_id", nothing))
    rows, places = slots(columns["policy"], ids, columns.get("seed", nothing))
    shape = (rows.max(initial=-1) + 1, len(policies))
    own = tuple(f"{name}." for name in named)  # "hps_v3.sigma", "vqa.count"
    further = [name for name in columns if name in MEASURES or name.startswith(own)]
    values = {name: np.full(shape, np.nan) for name in dict.fromkeys([*named, *further])}
    for name, grid in values.items():
        try:
            grid[rows, places] = np.array(columns[name], dtype=float)  # None becomes NaN
        except (TypeError, ValueError) as error:
            raise EvaluationError(f"the column {name!r} holds no scores: {error}") from error
    paths = np.full(shape, None, dtype=object)
    for row, place, image in zip(rows, places, columns.get("image", [""] * len(ids)), strict=True):
        paths[row, place] = None if image is None else Path(image)
    # A row's prompt: its number, its text as first given, the first category that is given.
    first = [ids[i] for i in np.unique(rows, return_index=True)[1]]
    numbering = {one: number for number, one in enumerate(dict.fromkeys(first))}
    texts = dict(zip(reversed(ids), reversed(columns["prompt"]), strict=True))
    categories: dict[str, str | None] = {}
    for one, category in zip(ids, columns.get("category", nothing), strict=True):
        categories[one] = categories.get(one) or category
    return Scores(
        policies=policies,
        scorers=named,
        prompts=[texts[one] for one in first],
        prompt_of=np.array([numbering[one] for one in first], dtype=int),
        categories=[categories[one] for one in first],
        paths=paths,
        values=values,
        embeddings=embeddings_of(columns.get("embedding"), rows, places, shape),
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


def embeddings_of(
    column: Sequence[bytes | None] | None, rows: np.ndarray, places: np.ndarray, shape: Any
) -> np.ndarray | None:
    """(n, P, d) float32, NaN where an image has none; None where no two have as many numbers."""
    lengths = {len(one) for one in column or [] if one is not None}
    if len(lengths) != 1:
        return None
    found = np.full((*shape, lengths.pop() // 2), np.nan, dtype=np.float32)
    for row, place, one in zip(rows, places, column or [], strict=True):
        if one is not None:
            found[row, place] = np.frombuffer(one, np.float16)
    return found
