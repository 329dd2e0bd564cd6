"""The comparison as one page that a person reads, and the files beside it.

`write_comparison` computes everything from a table of scores and writes comparison.json (every
number), comparison.html (one file, images inside, nothing loaded from elsewhere) and PNGs. How
the numbers come about is in `evaluation.statistics`; the charts are in `evaluation.figures`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from evaluation import figures
from evaluation.page_html import Pair, html_page
from evaluation.statistics import Comparison, compare_all, scorers_of, win_matrix
from evaluation.tables import columns_of, finite, read_table, write_bytes

SHOWN = 8  # pairs of images of each kind on the page


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
        figures.Column(pair.prompt, pair.images, [f"{score:.3g}" for score in pair.scores])
        for pair in chosen
    ]
    return figures.encode_small(figures.draw_grid([baseline, policy], columns), None)


def read_scores(path: Path) -> pa.Table:
    """Read what `score` wrote; image paths relative to the file become absolute."""
    table = read_table(path, ("policy", "prompt", "image"))
    images = [str((path.parent / image).absolute()) for image in table["image"].to_pylist()]
    index = table.column_names.index("image")
    return table.set_column(index, "image", pa.array(images, pa.string()))


def write_comparison(
    scores: Any, baseline: str, folder: Path, ksort: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Path]:
    """Compare every policy with the baseline and write the page, the numbers and the figures.

    Parameters
    ----------
    scores : pyarrow table or polars frame: policy, prompt, image (path), one float column a
        scorer, and where there are, prompt_id and seed.
    ksort : policy -> content of its K-Sort Eval result.json, shown beside the scores.

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
    numbers = {
        "baseline": baseline,
        "scorers": scorers,
        "policies": matrices[scorers[0]][0],
        "comparisons": [as_json(row) for row in rows],
        "win_rate_of_row_over_column": {
            scorer: {"policies": names, "matrix": [[finite(x) for x in line] for line in matrix]}
            for scorer, (names, matrix) in matrices.items()
        },
        "ksort": {name: dict(result) for name, result in (ksort or {}).items()},
    }
    files["comparison.json"] = json.dumps(
        numbers, ensure_ascii=False, indent=1, allow_nan=False
    ).encode()
    page = html_page(baseline, scorers, rows, matrices, charts, pairs, ksort or {})
    files["comparison.html"] = page.encode()
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
