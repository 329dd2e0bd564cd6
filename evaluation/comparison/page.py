"""The comparison as one page that a person reads, and the files beside it.

`write_comparison` computes everything from a table of scores and writes comparison.json (every
number), comparison.html (one file, images inside, nothing loaded from elsewhere; how it looks is
page.html.jinja) and charts. How the numbers come about is in `statistics` and `drift`.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np
import pyarrow as pa

from arena.escape import printable
from arena.votes.images import ImageFault
from evaluation.comparison import figures
from evaluation.comparison.drift import distances, drifts
from evaluation.comparison.intervals import detectable_rate
from evaluation.comparison.scores import Scores, scores_of
from evaluation.comparison.statistics import compare_all, scorer_agreement, win_matrix
from evaluation.pictures import FILES
from evaluation.prompts import overlap
from evaluation.tables import as_json, provenance, write

SHOWN = 8  # pairs of images of each kind on the page; half as many where policies are many
MANY = 6  # policies
ABREAST = 6  # prompts of which the images of all policies are shown
SIDE = 256  # larger images are reduced to this side on the page
PIXELATED = 96  # smaller images are shown exactly, pixel by pixel
MOST_FAILURES = 20  # that are named on the page; all of them are counted

Row = Mapping[str, Any]  # a Comparison, as comparison.json has it


def pairs_of(scores: Scores, baseline: str, policy: str, scorer: str) -> dict[str, list[Row]]:
    """Where a policy's images gain most, lose most and change least; no pair in two of them."""
    columns = [scores.policies[baseline], scores.policies[policy]]
    values = scores.values[scorer][:, columns]
    rows = np.flatnonzero(np.isfinite(values).all(axis=1))
    values = values[rows]
    gain = values[:, 1] - values[:, 0]
    count = SHOWN if len(scores.policies) <= MANY + 1 else SHOWN // 2
    order = np.argsort(-gain, kind="stable").tolist()
    gains = [i for i in order if gain[i] > 0][:count]
    losses = [i for i in reversed(order) if gain[i] < 0][:count]
    rest = sorted({*order} - {*gains, *losses}, key=lambda i: (abs(gain[i]), i))[:count]
    return {
        kind: [
            {
                "prompt": scores.prompts[rows[i]],
                "images": scores.paths[rows[i], columns],
                "scores": values[i].tolist(),
            }
            for i in chosen
        ]
        for kind, chosen in (("gains", gains), ("losses", losses), ("same", rest))
    }


def abreast(scores: Scores, scorer: str) -> dict[str, list[int]]:
    """Rows on which all policies differ "most" and "least": highest score less lowest."""
    values = scores.values[scorer]
    rows = np.flatnonzero(np.isfinite(values).all(axis=1))
    ordered = rows[np.argsort(-np.ptp(values[rows], axis=1), kind="stable")].tolist()
    half = min(ABREAST, len(ordered) // 2)
    return {"most": ordered[:half], "least": ordered[len(ordered) - half :][::-1]}


def thumbnail(path: Path) -> str:
    """Data URL of an image, reduced where it is large; empty when it cannot be read."""
    try:
        picture = FILES.read(str(path))
    except ImageFault:
        return ""
    sink, kind = io.BytesIO(), "png"
    if max(picture.size) <= PIXELATED:
        picture.save(sink, format="PNG", optimize=True)
    else:
        kind = "jpeg"
        picture.thumbnail((SIDE, SIDE))
        picture.save(sink, format="JPEG", quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(sink.getvalue()).decode()}"


def write_comparison(
    table: Any,
    baseline: str,
    folder: Path,
    ksort: Mapping[str, Mapping[str, Any]] | None = None,
    training: Sequence[str] | None = None,
    scorers: Sequence[str] | None = None,
) -> tuple[dict[str, Any], list[Path]]:
    """Compare every policy with the baseline and write the page, the numbers and the figures.

    Parameters
    ----------
    table : pyarrow table or polars frame, see `scores_of`.
    ksort : policy -> content of its K-Sort Eval result.json, shown beside the scores.
    training : the policies' training prompts; those among the compared ones are reported.
    scorers : columns of scores, where the table does not say; the first leads the page.

    Returns what comparison.json holds, and the paths written, that one first. Raises
    EvaluationError when a column or the baseline is missing.
    """
    scores = scores_of(table, scorers)
    policies, headline = list(scores.policies), scores.scorers[0]
    rows: list[Row] = [asdict(one) for one in compare_all(scores, baseline, scores.scorers)]
    within = compare_all(scores, baseline, [headline], by_category=True)
    numbers: dict[str, Any] = {
        "baseline": baseline,
        "scorers": scores.scorers,
        "policies": policies,
        "comparisons": rows,
        "win_rate_of_row_over_column": {
            scorer: {"policies": policies, "matrix": win_matrix(scores, scorer)}
            for scorer in scores.scorers
        },
        "scorers_name_the_same_winner": {
            "scorers": scores.scorers,
            "matrix": scorer_agreement(scores, baseline),
        },
        "categories": [asdict(one) for one in within],
        "drift": drifts(scores, baseline),
        "frechet_distance": distances(scores, baseline),
        "further": {
            name: {
                policy: float(known.mean())
                for policy, column in zip(policies, scores.values[name].T, strict=True)
                if len(known := column[np.isfinite(column)])
            }
            for name in scores.further
        },
        "detectable_win_rate": detectable_rate(len({*scores.prompt_of.tolist()})),
        "prompts_in_training": None if training is None else overlap(scores.prompts, training),
        "ksort": dict(ksort or {}),
    }
    charts = {}
    for scorer in scores.scorers:
        mine = pa.Table.from_pylist([row for row in rows if row["scorer"] == scorer])
        chart = figures.win_rate_chart(mine, baseline, limit=None)
        charts[f"win_rates_{quote(scorer, safe='')}.png"] = chart
    if ksort:
        charts["ksort.png"] = figures.ksort_chart(ksort, limit=None)
    content = {**as_json(numbers), "made_by": provenance(scores.weights)}
    files = {
        "comparison.json": json.dumps(content, indent=1).encode(),
        "comparison.html": html_page(scores, numbers, charts.get("ksort.png")).encode(),
        **charts,
    }
    for name, data in files.items():
        write(folder / name, data)
    return content, [folder / name for name in files]


def html_page(scores: Scores, numbers: Mapping[str, Any], ksort_chart: bytes | None) -> str:
    """The whole page, from the numbers of `write_comparison`."""
    baseline, headline, rows = numbers["baseline"], scores.scorers[0], numbers["comparisons"]
    tables = {name: [row for row in rows if row["scorer"] == name] for name in scores.scorers}
    others = [row["policy"] for row in tables[headline] if row["policy"] != baseline]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters["thumbnail"] = thumbnail
    return environment.get_template("page.html.jinja").render(
        numbers,
        scores=scores,
        headline=headline,
        tables=tables,
        categories_of=list(dict.fromkeys(row["category"] for row in numbers["categories"])),
        pairs={policy: pairs_of(scores, baseline, policy, headline) for policy in others},
        rows_abreast=abreast(scores, headline) if len(others) > 1 else {},
        ksort_ranked=sorted(numbers["ksort"].items(), key=lambda item: -item[1]["score"]),
        ksort_chart=base64.b64encode(ksort_chart).decode() if ksort_chart else None,
        failed=scores.failures(),
        most_failures=MOST_FAILURES,
        silent=[name for name in scores.scorers if not np.isfinite(scores.values[name]).any()],
        missing=max(row["missing"] for row in rows),
    )


def as_text(rows: Sequence[Row]) -> str:
    """The comparisons of comparison.json as a table for a terminal, best first."""
    lines = []
    width = max([len("policy"), *(len(printable(row["policy"])) for row in rows)])
    for scorer in dict.fromkeys(row["scorer"] for row in rows):
        mine = [row for row in rows if row["scorer"] == scorer]
        baseline = printable(mine[0]["baseline"])
        lines.append(f"{printable(scorer)}, {max(row['prompts'] for row in mine)} prompts")
        lines.append(f"{'policy':{width}}  {'mean':>9}  {f'wins over {baseline}':>22}  p (Holm)")
        for row in mine:
            mean, wins, p = "-", "-", "-"
            if row["images"]:
                mean = f"{row['mean']:.4g}"
            if row["images"] and row["policy"] != row["baseline"]:
                interval = f"[{row['win_rate_low']:.1%}, {row['win_rate_high']:.1%}]"
                wins, p = f"{row['win_rate']:.1%} {interval}", f"{row['p_holm']:.2g}"
                p += f"  {row['verdict']}" if row["verdict"] != "open" else ""
            lines.append(f"{printable(row['policy']):{width}}  {mean:>9}  {wins:>22}  {p}")
        lines.append("")
    return "\n".join(lines[:-1])
