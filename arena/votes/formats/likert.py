"""Tables of scores (Likert points): what one rater gave the images of one prompt is one ranking.

Only the order of a rater's own scores is kept: raters use a scale differently. Each score is a row
of the file; a ranking tells how many rows it was gathered from. Layouts: TIFA160
(tifa160-likert-anns.csv, Hu et al., 2023) and GenAI-Bench (genai_image.json, Li et al., 2024: an
object of prompts, each with its models' lists of scores, one per rater).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from arena.votes.faults import shown
from arena.votes.formats.tables import COLUMNS as TABLE
from arena.votes.layout import Format, Found, Record, told
from arena.votes.limits import MOST_RANKED
from arena.votes.rankings import fault_of_name, ranks_of_scores

# The schema's names, and those of TIFA160 and its kin.
COLUMNS = {
    "model": ("model", "t2i_model", "model_name"),
    "prompt_id": ("prompt_id", "item_id"),
    "prompt": TABLE["prompt"],
    "rater": TABLE["rater"],
    "score": ("score", "answer", "rating"),
    "rank": ("rank",),
    "image": ("image", "image_path"),
}
ANY = {name: "|".join(names) for name, names in COLUMNS.items()}


@dataclass(frozen=True)
class _Score:
    """One rater's points for one model's image of one prompt; row: where the file has it."""

    row: int
    model: str | None
    prompt_id: str | None
    prompt: str | None
    rater: str | None
    image: str | None
    score: Any


def _scores(records: Iterator[Record], found: Found) -> Iterator[_Score]:
    row = 0
    for at, record in records:
        if "models" in record:
            for score in _of_prompt(record, row, found):
                row = score.row
                yield score
            continue
        said = told(record, COLUMNS)
        name = {ours: None if v is None else str(v) for ours, v in said.items() if ours != "score"}
        rank = name.pop("rank")
        if said["score"] is None and rank is not None:
            points = _number(rank)
            said["score"] = rank if points is None else -points  # rank 1 is the best
        yield _Score(at, score=said["score"], **name)


def _of_prompt(record: dict[str, Any], row: int, found: Found) -> Iterator[_Score]:
    models = record["models"]
    if not isinstance(models, dict):
        found.fault(row + 1, "models", "not an object of scores", shown(models))
        return
    prompt = record.get("prompt")
    for model, scores in models.items():
        for rater, score in enumerate(scores if isinstance(scores, list) else [scores], start=1):
            row += 1
            key = str(record.get("prompt_id"))
            yield _Score(row, model, key, prompt and str(prompt), str(rater), None, score)


def _rankings(records: Iterator[Record], found: Found) -> Iterator[Record]:
    """Gather each rater's scores of a prompt, in the order of the file."""
    groups: dict[tuple[str, str], dict[str, tuple[_Score, float]]] = {}
    for one in _scores(records, found):
        prompt, points = one.prompt_id or one.prompt, _number(one.score)
        if points is None:
            found.fault(one.row, "score", "not a number", shown(one.score))
        elif not one.model or not prompt or not one.rater:
            lacks = "model" if not one.model else "prompt" if not prompt else "rater"
            found.fault(one.row, lacks, "empty")
        elif fault := fault_of_name(one.model):
            found.fault(one.row, "model", fault, shown(one.model))
        else:
            group = groups.setdefault((prompt, one.rater), {})
            before = group.setdefault(one.model, (one, points))
            if before[0] is not one and before[1] == points:
                found.repeated += 1
            elif before[0] is not one:
                reason = f"scored before by this rater, in row {before[0].row}"
                found.fault(one.row, "score", reason, shown(one.score))
    for (prompt, rater), group in groups.items():
        scored = next(iter(group.values()))[0]
        if not 2 <= len(group) <= MOST_RANKED:
            scores = f"this rater scored {len(group)} images of this prompt"
            reason = f"{scores}; 2 to {MOST_RANKED} are ranked"
            for one, _ in group.values():
                found.fault(one.row, "score", reason, shown(one.score))
            continue
        yield (
            scored.row,
            {
                "prompt_id": scored.prompt_id,
                "prompt": scored.prompt,
                "rater": rater,
                "models": list(group),
                # Raters of one prompt look at the same picture of a model.
                "images": [one.image or f"{prompt}/{model}" for model, (one, _) in group.items()],
                "ranks": ranks_of_scores([points for _, points in group.values()]),
                "rows": len(group),
            },
        )


def _number(value: Any) -> float | None:
    try:
        number = float(value) if isinstance(value, str | int | float) else float("nan")
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < float("inf") else None


LIKERT = Format(
    "likert",
    "TIFA160's tifa160-likert-anns.csv and GenAI-Bench's genai_image.json",
    [
        f"{ANY['model']} {ANY['rater']} {ANY['score']}|rank {ANY['prompt_id']}|{ANY['prompt']}",
        "prompt_id models",
    ],
    lacks=["outcome"],
    records=_rankings,
)
