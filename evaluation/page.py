"""The comparison as one page that a person reads, and the files beside it.

`write_comparison` computes everything from a table of scores and writes comparison.json (every
number), comparison.html (one file, images inside, nothing loaded from elsewhere; how it looks is
page.html.jinja) and charts. How the numbers come about is in `statistics` and `drift`.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np
import pyarrow as pa

from evaluation import figures, pictures
from evaluation.drift import distances, drifts
from evaluation.errors import EvaluationError
from evaluation.intervals import detectable_rate
from evaluation.prompts import overlap
from evaluation.provenance import provenance
from evaluation.scores import Scores, scores_of
from evaluation.statistics import (
    Comparison,
    compare_all,
    compare_categories,
    scorer_agreement,
    win_matrix,
)
from evaluation.tables import finite, write_bytes

SHOWN = 8  # pairs of images of each kind on the page; half as many where policies are many
MANY = 6  # policies
ABREAST = 6  # prompts of which the images of all policies are shown
SIDE = 256  # larger images are reduced to this side on the page
PIXELATED = 96  # smaller images are shown exactly, pixel by pixel
MOST_FAILURES = 20  # that are named on the page; all of them are counted


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


def pairs_of(scores: Scores, baseline: str, policy: str, scorer: str) -> list[Pair]:
    """Pairs of images of the same prompt and noise, largest gain of the policy first."""
    columns = [scores.column(baseline), scores.column(policy)]
    rows, pair = scores.paired(scorer, baseline, policy)
    found = [
        Pair(scores.prompts[row], (before, after), (float(old), float(new)))
        for row, (old, new) in zip(rows, pair, strict=True)
        for before, after in [scores.paths[row, columns]]
    ]
    return sorted(found, key=lambda one: -one.difference)


def extremes(pairs: Sequence[Pair], count: int = SHOWN) -> dict[str, list[Pair]]:
    """Where a policy gains most, loses most and changes least; no pair in two of them."""
    gains = [i for i in range(len(pairs)) if pairs[i].difference > 0][:count]
    losses = [i for i in reversed(range(len(pairs))) if pairs[i].difference < 0][:count]
    rest = sorted({*range(len(pairs))} - {*gains, *losses}, key=lambda i: abs(pairs[i].difference))
    chosen = {"gains": gains, "losses": losses, "same": rest[:count]}
    return {kind: [pairs[i] for i in some] for kind, some in chosen.items()}


def abreast(scores: Scores, scorer: str) -> dict[str, list[int]]:
    """Rows on which all policies differ "most" and "least": highest score less lowest."""
    values = scores.values[scorer]
    rows = np.flatnonzero(np.isfinite(values).all(axis=1))
    ordered = rows[np.argsort(-np.ptp(values[rows], axis=1), kind="stable")].tolist()
    half = min(ABREAST, len(ordered) // 2)
    return {"most": ordered[:half], "least": ordered[len(ordered) - half :][::-1]}


def ranked(rows: Sequence[Comparison], scorer: str) -> list[Comparison]:
    """The comparisons by one scorer, best win rate first; what nothing is known of comes last."""
    mine = [row for row in rows if row.scorer == scorer]
    return sorted(mine, key=lambda row: (not row.images, -row.win_rate, -row.mean_difference))


def verdict(row: Comparison) -> str:
    """One sentence about a policy: told apart only where the corrected test says so."""
    if not row.images:
        return f"has no image in common with {row.baseline} that {row.scorer} scored"
    share = f"{row.win_rate:.0%} of images (95% interval {row.win_rate_low:.0%} to "
    share += f"{row.win_rate_high:.0%})"
    if row.verdict == "better":
        return f"beats {row.baseline}: it scores higher on {share}"
    if row.verdict == "worse":
        return f"falls behind {row.baseline}: it scores higher on only {share}"
    return f"is not told apart from {row.baseline}: it scores higher on {share}"


def embed(content: bytes, kind: str = "png") -> str:
    """A data URL."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def thumbnail(path: Path) -> str:
    """Data URL of an image, reduced where it is large; empty when it cannot be read."""
    try:
        picture = pictures.read(path)
    except EvaluationError:
        return ""
    sink = io.BytesIO()
    if max(picture.size) <= PIXELATED:
        picture.save(sink, format="PNG", optimize=True)
        return embed(sink.getvalue())
    picture.thumbnail((SIDE, SIDE))
    picture.save(sink, format="JPEG", quality=85)
    return embed(sink.getvalue(), "jpeg")


def record(row: Comparison) -> dict[str, Any]:
    """A comparison with its verdict, as comparison.json has it."""
    return {**asdict(row), "verdict": row.verdict}


def as_json(value: Any) -> Any:
    """A value of which JSON has every part: NaN is null, a record an object."""
    if isinstance(value, dict):
        return {key: as_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [as_json(one) for one in value]
    if isinstance(value, float):
        return finite(value)
    return as_json(asdict(value)) if hasattr(value, "__dataclass_fields__") else value


def write_comparison(
    table: Any,
    baseline: str,
    folder: Path,
    ksort: Mapping[str, Mapping[str, Any]] | None = None,
    training: Sequence[str] | None = None,
    scorers: Sequence[str] | None = None,
) -> list[Path]:
    """Compare every policy with the baseline and write the page, the numbers and the figures.

    Parameters
    ----------
    table : pyarrow table or polars frame, see `scores_of`.
    ksort : policy -> content of its K-Sort Eval result.json, shown beside the scores.
    training : the policies' training prompts; those among the compared ones are reported.
    scorers : columns of scores, where the table does not say; the first leads the page.

    Returns the paths written. Raises EvaluationError when a column or the baseline is missing.
    """
    scores = scores_of(table, scorers)
    rows, headline = compare_all(scores, baseline), scores.scorers[0]
    categories = compare_categories(scores, baseline, headline)
    prompts = len({*scores.prompt_of.tolist()})
    seen = None if training is None else overlap(dict.fromkeys(scores.prompts), training)
    numbers: dict[str, Any] = {
        "baseline": baseline,
        "scorers": scores.scorers,
        "policies": scores.policies,
        "comparisons": [record(row) for row in rows],
        "win_rate_of_row_over_column": {
            scorer: {"policies": scores.policies, "matrix": win_matrix(scores, scorer)}
            for scorer in scores.scorers
        },
        "scorers_name_the_same_winner": {
            "scorers": scores.scorers,
            "matrix": scorer_agreement(scores, baseline),
        },
        "categories": [record(row) for row in categories],
        "drift": drifts(scores, baseline),
        "frechet_distance": distances(scores, baseline),
        "further": further_means(scores),
        "detectable_win_rate": detectable_rate(prompts),
        "prompts_in_training": seen,
        "ksort": {name: dict(result) for name, result in (ksort or {}).items()},
    }
    charts = {}
    for scorer in scores.scorers:
        mine = pa.Table.from_pylist([record(row) for row in rows if row.scorer == scorer])
        name = f"win_rates_{quote(scorer, safe='')}.png"
        charts[name] = figures.win_rate_chart(mine, baseline, limit=None)
    if ksort:
        charts["ksort.png"] = figures.ksort_chart(ksort, limit=None)
    content = {**as_json(numbers), "made_by": provenance(weights_of(table))}
    files = {
        "comparison.json": json.dumps(content, ensure_ascii=False, indent=1).encode(),
        "comparison.html": html_page(
            scores,
            {**numbers, "comparisons": rows, "categories": categories},
            charts.get("ksort.png"),
        ).encode(),
        **charts,
    }
    for name, data in files.items():
        write_bytes(folder / name, data)
    return [folder / name for name in files]


def weights_of(table: Any) -> dict[str, str]:
    """Scorer -> hash of its weights, as far as the table says."""
    metadata = getattr(getattr(table, "schema", None), "metadata", None) or {}
    return json.loads(metadata.get(b"weights", b"{}"))


def further_means(scores: Scores) -> dict[str, dict[str, float]]:
    """A scorer's further number ("vqa.count") -> policy -> its mean over the policy's images."""
    means = {}
    own = tuple(f"{scorer}." for scorer in scores.scorers)
    for name in scores.values:
        if name.startswith(own) and name not in scores.scorers:  # hps_v2.1 is no number of hps_v2
            columns = zip(scores.policies, scores.values[name].T, strict=True)
            known = {policy: one[np.isfinite(one)] for policy, one in columns}
            means[name] = {policy: float(one.mean()) for policy, one in known.items() if len(one)}
    return means


def html_page(scores: Scores, numbers: Mapping[str, Any], ksort_chart: bytes | None) -> str:
    """The whole page, from the numbers of `write_comparison`."""
    baseline, headline, rows = numbers["baseline"], scores.scorers[0], numbers["comparisons"]
    others = [row.policy for row in ranked(rows, headline) if row.policy != baseline]
    count = SHOWN if len(others) <= MANY else SHOWN // 2
    failed = [
        {
            "policy": policy,
            "prompt": scores.prompts[row],
            "image": scores.paths[row, scores.column(policy)],
            "scorers": names,
        }
        for row, policy, names in scores.failures()
    ]
    for one in failed[:MOST_FAILURES]:
        one["readable"] = bool(thumbnail(one["image"]))
    silent = [name for name in scores.scorers if not np.isfinite(scores.values[name]).any()]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"thumbnail": thumbnail, "verdict": verdict}
    return environment.get_template("page.html.jinja").render(
        numbers,
        scores=scores,
        headline=headline,
        tables={scorer: ranked(rows, scorer) for scorer in scores.scorers},
        matrices=numbers["win_rate_of_row_over_column"],
        agreement=numbers["scorers_name_the_same_winner"]["matrix"],
        categories_of=list(dict.fromkeys(row.category for row in numbers["categories"])),
        pairs={
            policy: extremes(pairs_of(scores, baseline, policy, headline), count)
            for policy in others
        },
        rows_abreast=abreast(scores, headline) if len(others) > 1 else {},
        ksort_ranked=sorted(numbers["ksort"].items(), key=lambda item: -item[1]["score"]),
        ksort_chart=embed(ksort_chart) if ksort_chart else None,
        failed=failed,
        most_failures=MOST_FAILURES,
        silent=silent,
        missing=max(row.missing for row in rows),
        detectable=numbers["detectable_win_rate"],
    )


def unknown(key: str, value: Any) -> Any:
    """A value of comparison.json, where a missing number is null."""
    return float("nan") if value is None and key != "category" else value


def as_text(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """The comparisons of comparison.json as a table for a terminal, best first."""
    found = [
        Comparison(**{key: unknown(key, one) for key, one in row.items() if key != "verdict"})
        for row in comparisons
    ]
    lines = []
    width = max([len("policy"), *(len(row.policy) for row in found)])
    for scorer in dict.fromkeys(row.scorer for row in found):
        rows = ranked(found, scorer)
        baseline = rows[0].baseline
        lines.append(f"{scorer}, {max(row.prompts for row in rows)} prompts")
        lines.append(f"{'policy':{width}}  {'mean':>9}  {f'wins over {baseline}':>22}  p (Holm)")
        for row in rows:
            wins, p = f"{'-':>22}", "-"
            if row.policy != baseline and row.images:
                interval = f"[{row.win_rate_low:.1%}, {row.win_rate_high:.1%}]"
                wins, p = f"{row.win_rate:.1%} {interval}".rjust(22), f"{row.p_holm:.2g}"
                p += f"  {row.verdict}" if row.verdict != "open" else ""
            mean = f"{row.mean:9.4g}" if row.images else f"{'-':>9}"
            lines.append(f"{row.policy:{width}}  {mean}  {wins}  {p}")
        lines.append("")
    return "\n".join(lines[:-1])
