"""Tables of scores (Likert points): what one rater gave the images of one prompt is one ranking.

Only the order of a rater's own scores is kept: raters use a scale differently. Each score is a row
of the file; a ranking tells how many rows it was gathered from.
"""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arena.votes.files import head, json_document, lines, saying, shown_safely
from arena.votes.rankings import MOST, fault_of_name, ranks_of_scores
from arena.votes.raw import Broken, RawRankings, VotesError, as_text, rejections, shown

# The schema's names, and those of TIFA160 and its kin (Hu et al., 2023; Cho et al., 2024).
COLUMNS = {
    "model": ("model", "t2i_model"),
    "prompt_id": ("prompt_id", "item_id"),
    "prompt": ("prompt",),
    "rater": ("rater", "worker_id"),
    "score": ("score", "answer", "rating"),
    "image": ("image",),
}
NEEDED = ("model", "rater", "score")


@dataclass(frozen=True)
class Score:
    """One rater's points for one model's image of one prompt; row: where the file has it."""

    row: int
    model: str | None
    prompt_id: str | None
    prompt: str | None
    rater: str | None
    image: str | None
    score: Any


def read_likert(path: Path) -> Iterator[RawRankings]:
    """Read scores from a csv (one a line) or GenAI-Bench's JSON (raters in a list a model)."""
    broken: Broken = []
    kind = _json_scores if head(path).lstrip(b"\xef\xbb\xbf \r\n\t")[:1] == b"{" else _csv_scores
    yield _gather(kind(path, broken), broken, path)


def likert_columns(header: Iterable[str]) -> dict[str, str]:
    """Return what the header calls each column of `COLUMNS` that it has."""
    there = set(header)
    found = {ours: next((n for n in names if n in there), None) for ours, names in COLUMNS.items()}
    return {ours: name for ours, name in found.items() if name is not None}


def is_likert(header: Iterable[str]) -> bool:
    """Tell whether a csv's header is that of a table of scores."""
    found = likert_columns(header)
    return all(name in found for name in NEEDED) and ("prompt_id" in found or "prompt" in found)


def _csv_scores(path: Path, broken: Broken) -> Iterator[Score]:
    with saying(path):
        records = csv.reader(lines(path))
        header = next(records, [])
        if not is_likert(header):
            raise VotesError(
                f"{path}: a table of scores needs a model, a prompt (or item_id), a rater (or "
                f"worker_id) and a score (or answer); this file has {', '.join(header)[:400]}"
            )
        places = {ours: header.index(name) for ours, name in likert_columns(header).items()}
        for row, fields in enumerate((f for f in records if f), start=1):
            if len(fields) != len(header):
                reason = f"{len(fields)} fields where the header has {len(header)}"
                broken.append((row, "", reason, ",".join(fields)[:200]))
                continue
            value = {ours: fields[place] or None for ours, place in places.items()}
            yield Score(
                row,
                *(
                    value.get(name)
                    for name in ("model", "prompt_id", "prompt", "rater", "image", "score")
                ),
            )


def _json_scores(path: Path, broken: Broken) -> Iterator[Score]:
    document = json_document(path)
    if not isinstance(document, dict):
        raise VotesError(f"{path}: not one JSON object of prompts, each with its models' scores")
    row = 0
    for key, entry in document.items():
        models = entry.get("models") if isinstance(entry, dict) else None
        if not isinstance(models, dict):
            row += 1
            broken.append(
                (row, "models", "not an object of scores", shown_safely(as_text(entry) or ""))
            )
            continue
        for model, scores in models.items():
            for rater, score in enumerate(
                scores if isinstance(scores, list) else [scores], start=1
            ):
                row += 1
                yield Score(row, model, key, as_text(entry.get("prompt")), str(rater), None, score)


def _gather(scores: Iterable[Score], broken: Broken, path: Path) -> RawRankings:
    """Gather each rater's scores of a prompt, in the order of the file."""
    groups: dict[tuple[str, str], dict[str, tuple[Score, float]]] = {}
    duplicates = 0
    for one in scores:
        prompt = one.prompt_id or one.prompt
        points = _number(one.score)
        if points is None:
            broken.append((one.row, "score", "not a number", shown(one.score)))
        elif not one.model or not prompt or not one.rater:
            lacks = "model" if not one.model else "prompt" if not prompt else "rater"
            broken.append((one.row, lacks, "empty", None))
        elif fault := fault_of_name(one.model):
            broken.append((one.row, "model", fault, shown(one.model)))
        else:
            group = groups.setdefault((prompt, one.rater), {})
            before = group.setdefault(one.model, (one, points))
            if before[0] is not one and before[1] == points:
                duplicates += 1
            elif before[0] is not one:
                reason = f"scored before by this rater, in row {before[0].row}"
                broken.append((one.row, "score", reason, shown(one.score)))
    records = []
    for (prompt, rater), group in groups.items():
        first = next(iter(group.values()))[0]
        if not 2 <= len(group) <= MOST:
            reason = f"this rater scored {len(group)} images of this prompt; 2 to {MOST} are ranked"
            broken += [(one.row, "score", reason, shown(one.score)) for one, _ in group.values()]
            continue
        records.append(
            {
                "row": first.row,
                "prompt_id": first.prompt_id,
                "prompt": first.prompt,
                "rater": rater,
                "models": list(group),
                # Raters of one prompt look at the same picture of a model.
                "images": [one.image or f"{prompt}/{model}" for model, (one, _) in group.items()],
                "ranks": ranks_of_scores([points for _, points in group.values()]),
                "rows": len(group),
            }
        )
    return RawRankings(records, rejections(broken, path), duplicates=duplicates)


def _number(value: Any) -> float | None:
    try:
        number = float(value) if isinstance(value, str | int | float) else float("nan")
    except (ValueError, OverflowError):
        return None
    return number if number == number and abs(number) != float("inf") else None
