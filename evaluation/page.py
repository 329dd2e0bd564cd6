"""The comparison as one page that a person reads, and the files beside it.

`write_comparison` computes everything from a table of scores and writes comparison.json (every
number), comparison.html (one file, images inside, nothing loaded from elsewhere) and PNGs. How
the numbers come about is in `evaluation.statistics`; the charts are in `evaluation.figures`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from evaluation import figures
from evaluation.page_html import Content, html_page
from evaluation.page_images import Pair, extremes, failures, grid_of, pairs_of, spreads
from evaluation.prompts import overlap
from evaluation.statistics import (
    Comparison,
    compare_all,
    scorer_agreement,
    scorers_of,
    win_matrix,
)
from evaluation.tables import columns_of, finite, read_table, write_bytes


def read_scores(path: Path) -> pa.Table:
    """Read what `score` wrote; image paths relative to the file become absolute."""
    table = read_table(path, ("policy", "prompt", "image"))
    images = [str((path.parent / image).absolute()) for image in table["image"].to_pylist()]
    index = table.column_names.index("image")
    return table.set_column(index, "image", pa.array(images, pa.string()))


def write_comparison(
    scores: Any,
    baseline: str,
    folder: Path,
    ksort: Mapping[str, Mapping[str, Any]] | None = None,
    training: Sequence[str] | None = None,
) -> list[Path]:
    """Compare every policy with the baseline and write the page, the numbers and the figures.

    Parameters
    ----------
    scores : pyarrow table or polars frame: policy, prompt, image (path), one float column a
        scorer, and where there are, prompt_id and seed.
    ksort : policy -> content of its K-Sort Eval result.json, shown beside the scores.
    training : the policies' training prompts; those among the compared ones are reported.

    Returns the paths written. Raises EvaluationError when a column or the baseline is missing.
    """
    rows = compare_all(scores, baseline)
    scorers = scorers_of(scores)
    matrices = {scorer: win_matrix(scores, scorer) for scorer in scorers}
    files: dict[str, bytes] = {}
    for scorer in scorers:
        mine = [row for row in rows if row.scorer == scorer]
        files[f"scores_{quote(scorer, safe='')}.png"] = figures.score_chart(mine, limit=None)
        chart = figures.win_rate_chart(pa.Table.from_pylist([asdict(r) for r in mine]), baseline)
        files[f"win_rates_{quote(scorer, safe='')}.png"] = chart
    if ksort:
        files["ksort.png"] = figures.ksort_chart(ksort, limit=None)
    charts = dict(files)
    pairs: dict[str, dict[str, list[Pair]]] = {}
    for policy in matrices[scorers[0]][0]:
        if policy != baseline:
            pairs[policy] = extremes(pairs_of(scores, baseline, policy, scorers[0]))
            grid = grid_of(baseline, policy, pairs[policy])
            files[f"images_{quote(policy, safe='')}.png"] = grid
    for name, grid in (spreads(scores, scorers[0]) if len(pairs) > 1 else {}).items():
        files[f"images_{name}_different.png"] = charts[f"images_{name}_different.png"] = grid
    agreement = scorer_agreement(scores, baseline)
    prompts = list(dict.fromkeys(columns_of(scores)["prompt"]))
    seen = None if training is None else overlap(prompts, training)
    numbers = {
        "baseline": baseline,
        "scorers": scorers,
        "policies": matrices[scorers[0]][0],
        "comparisons": [as_json(row) for row in rows],
        "win_rate_of_row_over_column": {
            scorer: {"policies": names, "matrix": [[finite(x) for x in line] for line in matrix]}
            for scorer, (names, matrix) in matrices.items()
        },
        "scorers_name_the_same_winner": {
            "scorers": agreement[0],
            "matrix": [[finite(x) for x in line] for line in agreement[1]],
        },
        "prompts_in_training": seen,
        "ksort": {name: dict(result) for name, result in (ksort or {}).items()},
    }
    files["comparison.json"] = json.dumps(
        numbers, ensure_ascii=False, indent=1, allow_nan=False
    ).encode()
    shown = Content(
        baseline, scorers, rows, matrices, charts, pairs, ksort or {}, agreement,
        failures(scores), seen,
    )  # fmt: skip
    files["comparison.html"] = html_page(shown).encode()
    for name, content in files.items():
        write_bytes(folder / name, content)
    return [folder / name for name in files]


def as_json(row: Comparison) -> dict[str, Any]:
    """A comparison as a JSON object."""
    return {
        key: finite(value) if isinstance(value, float) else value
        for key, value in asdict(row).items()
    }


def as_text(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """The comparisons of comparison.json as a table for a terminal, best first."""
    lines = []
    width = max([len("policy"), *(len(row["policy"]) for row in comparisons)])
    for scorer in dict.fromkeys(row["scorer"] for row in comparisons):
        rows = [row for row in comparisons if row["scorer"] == scorer]
        baseline = rows[0]["baseline"]
        lines.append(f"{scorer}, {rows[0]['prompts']} prompts")
        lines.append(f"{'policy':{width}}  {'mean':>9}  {f'wins over {baseline}':>22}  p (Holm)")
        for row in sorted(rows, key=lambda row: -row["mean"]):
            wins, p = f"{'-':>22}", "-"
            if row["policy"] != baseline:
                low, high = (row[f"win_rate_{end}"] for end in ("low", "high"))
                interval = "" if low is None or high is None else f" [{low:.1%}, {high:.1%}]"
                wins, p = f"{row['win_rate']:.1%}{interval}".rjust(22), f"{row['p_holm']:.2g}"
            lines.append(f"{row['policy']:{width}}  {row['mean']:9.4g}  {wins}  {p}")
        lines.append("")
    return "\n".join(lines[:-1])
