"""The HTML of the comparison's page: one file, images inside, nothing loaded from elsewhere.

Only how it looks is decided here; `evaluation.page` computes what is shown.
"""

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from evaluation import figures
from evaluation.statistics import Comparison

SIDE = 256  # larger images are reduced to this side on the page

STYLE = """
:root { --ink: #22303c; --faint: #d8dee4; --grey: #66727d; --better: #2a6f97; --worse: #c8553d; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 32px 24px 64px; color: var(--ink);
  background: #fff; font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 26px; margin: 0 0 4px; }
h2 { font-size: 18px; margin: 44px 0 10px; padding-top: 14px; border-top: 1px solid var(--faint); }
h3 { font-size: 15px; margin: 24px 0 8px; }
p { max-width: 760px; margin: 6px 0; }
.lead { font-size: 17px; }
.note { color: var(--grey); font-size: 13px; }
table { border-collapse: collapse; width: 100%; margin: 10px 0;
  font-variant-numeric: tabular-nums; }
th { text-align: left; font-size: 12.5px; color: var(--grey); font-weight: 600; }
th, td { padding: 7px 14px 7px 0; border-bottom: 1px solid var(--faint); vertical-align: middle; }
td small { color: var(--grey); display: block; font-size: 12px; }
td.policy { font-weight: 600; }
.better { color: var(--better); } .worse { color: var(--worse); }
.bar { position: relative; width: 220px; height: 22px; }
.bar i { position: absolute; }
.bar .axis { left: 0; right: 0; top: 10px; height: 2px; background: #eef1f4; }
.bar .half { left: 50%; top: 1px; width: 1px; height: 20px; background: var(--grey); }
.bar .range { top: 7px; height: 8px; border-radius: 4px; background: #8a939c; opacity: .4; }
.bar .dot { top: 6px; width: 10px; height: 10px; margin-left: -5px; border-radius: 50%;
  background: #8a939c; }
.bar.better .range, .bar.better .dot { background: var(--better); }
.bar.worse .range, .bar.worse .dot { background: var(--worse); }
.matrix { width: auto; }
.matrix td, .matrix th { padding: 8px 14px; text-align: center; border: 0; }
.matrix th:first-child { text-align: right; }
.charts { display: flex; flex-wrap: wrap; gap: 16px; }
.charts img { width: 508px; max-width: 100%; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(236px, 1fr)); gap: 14px; }
.card { border: 1px solid var(--faint); border-radius: 8px; padding: 10px; font-size: 12.5px; }
.card .pair { display: flex; gap: 8px; } .card figure { margin: 0; flex: 1; min-width: 0; }
.card img { width: 100%; aspect-ratio: 1; object-fit: contain; image-rendering: pixelated;
  background: #f4f6f8; border-radius: 4px; display: block; }
.card figcaption { color: var(--grey); white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis; }
.card p { margin: 6px 0 0; min-height: 2.6em; line-height: 1.3; }
details { margin: 14px 0; } summary { cursor: pointer; font-weight: 600; }
"""


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


def verdict(row: Comparison) -> str:
    """One sentence about a policy."""
    share = f"{row.win_rate:.0%} of images (95% interval {row.win_rate_low:.0%} to "
    share += f"{row.win_rate_high:.0%})"
    if row.win_rate_low > 0.5:
        return f"beats {row.baseline}: it scores higher on {share}"
    if row.win_rate_high < 0.5:
        return f"falls behind {row.baseline}: it scores higher on only {share}"
    needed = f"; about {row.prompts_needed:,} prompts would settle it" if row.prompts_needed else ""
    return f"is not told apart from {row.baseline}: it scores higher on {share}{needed}"


def embed(content: bytes, kind: str = "png") -> str:
    """A data URL."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def thumbnail(path: Path) -> str:
    """Data URL of an image, reduced where it is large; empty when it cannot be read."""
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except OSError:
        return ""
    sink = io.BytesIO()
    if max(picture.size) > SIDE:
        figures.fit(picture, SIDE).save(sink, format="JPEG", quality=88)
        return embed(sink.getvalue(), "jpeg")
    picture.save(sink, format="PNG", optimize=True)
    return embed(sink.getvalue())


def html_page(
    baseline: str,
    scorers: Sequence[str],
    rows: Sequence[Comparison],
    matrices: Mapping[str, tuple[list[str], np.ndarray]],
    charts: Mapping[str, bytes],
    pairs: Mapping[str, Mapping[str, Sequence[Pair]]],
    ksort: Mapping[str, Mapping[str, Any]],
) -> str:
    """The whole page."""
    say = html.escape
    headline = sorted((r for r in rows if r.scorer == scorers[0]), key=lambda r: -r.mean)
    best = next((row for row in headline if row.policy != baseline), headline[0])
    count = "1 policy" if len(headline) == 1 else f"{len(headline)} policies"
    parts = [
        f"<h1>Policies compared with {say(baseline)}</h1>",
        f"<p class=note>{count}, {best.prompts} prompts, {best.images} images "
        f"each, scored by {say(', '.join(scorers))} and paired prompt by prompt.</p>",
    ]
    parts += [
        f"<p class=lead><b>{say(row.policy)}</b> {say(verdict(row))}.</p>"
        for row in headline
        if row.policy != baseline
    ]
    for scorer in scorers:
        mine = sorted((r for r in rows if r.scorer == scorer), key=lambda r: -r.mean)
        parts.append(f"<h2>By {say(scorer)}</h2>{scores_table(mine)}")
        pictures = [
            f'<img src="{embed(charts[name])}" alt="{name}">'
            for name in (
                f"scores_{quote(scorer, safe='')}.png",
                f"win_rates_{quote(scorer, safe='')}.png",
            )
        ]
        parts.append(f"<div class=charts>{''.join(pictures)}</div>")
        if len(mine) > 2:
            parts.append("<h3>Who wins against whom</h3>" + matrix_table(*matrices[scorer]))
    if ksort:
        parts.append("<h2>K-Sort Eval</h2>" + ksort_table(ksort))
        parts.append(
            f'<div class=charts><img src="{embed(charts["ksort.png"])}" alt="rounds"></div>'
        )
    for policy, found in pairs.items():
        parts.append(f"<h2>{say(baseline)} and {say(policy)}, side by side</h2>")
        titles = {"gains": "gains most", "losses": "loses most", "same": "changes least"}
        for kind, title in titles.items():
            if found[kind]:
                cards = "".join(card(pair, baseline, policy) for pair in found[kind])
                opened = "" if kind == "same" else " open"
                parts.append(
                    f"<details{opened}><summary>Where {say(policy)} {title}, by {say(scorers[0])}"
                    f"</summary><div class=cards>{cards}</div></details>"
                )
    parts.append(method_notes(rows))
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>Policies compared with {say(baseline)}</title><style>{STYLE}</style>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def tone(low: float, high: float, even: float) -> str:
    """CSS class: better, worse or neither."""
    return "better" if low > even else "worse" if high < even else ""


def scores_table(rows: Sequence[Comparison]) -> str:
    """Mean, difference and win rate of each policy with intervals."""
    lines = [
        f"<table><tr><th>policy<th>mean score<th>difference from {html.escape(rows[0].baseline)}"
        "<th>win rate<th><th>p (Holm)<th>prompts to settle</tr>"
    ]
    for row in rows:
        mean = f"<td>{row.mean:.4g}<small>{row.mean_low:.4g} to {row.mean_high:.4g}</small>"
        cells = "<td>–<td>–<td><td>–<td>–"
        if row.policy != row.baseline:
            low, high = row.mean_difference_low, row.mean_difference_high
            cells = (
                f'<td class="{tone(low, high, 0)}">{row.mean_difference:+.4g}'
                f"<small>{low:+.4g} to {high:+.4g}</small>"
                f"<td>{row.win_rate:.1%}<small>{row.win_rate_low:.1%} to {row.win_rate_high:.1%}"
                f"</small><td>{rate_bar(row)}<td>{row.p_holm:.2g}<td>{row.prompts_needed or '–'}"
            )
        lines.append(f"<tr><td class=policy>{html.escape(row.policy)}{mean}{cells}</tr>")
    return "".join([*lines, "</table>"])


def rate_bar(row: Comparison) -> str:
    """A win rate's interval drawn from 0 to 100%, the middle marked."""
    low, high = max(0.0, row.win_rate_low), min(1.0, row.win_rate_high)
    return (
        f'<div class="bar {tone(low, high, 0.5)}"><i class=axis></i><i class=half></i>'
        f'<i class=range style="left:{low:.1%};width:{high - low:.1%}"></i>'
        f'<i class=dot style="left:{row.win_rate:.1%}"></i></div>'
    )


def matrix_table(policies: Sequence[str], matrix: np.ndarray) -> str:
    """Win rates of the row's policy over the column's, as colours."""
    head = "".join(f"<th>{html.escape(name)}" for name in policies)
    lines = [f"<table class=matrix><tr><th>wins of \\ over{head}</tr>"]
    for name, line in zip(policies, matrix, strict=True):
        cells = ""
        for value in line:
            if math.isnan(value):
                cells += "<td>"
                continue
            colour = "42,111,151" if value >= 0.5 else "224,122,95"
            strength = min(0.75, abs(value - 0.5) * 2.2)
            cells += f'<td style="background:rgba({colour},{strength:.2f})">{value:.0%}'
        lines.append(f"<tr><th>{html.escape(name)}{cells}</tr>")
    return "".join([*lines, "</table>"])


def ksort_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Rating of each policy among the arena's models, best first."""
    lines = ["<table><tr><th>policy<th>score<th>mu<th>sigma<th>rounds</tr>"]
    for policy, result in sorted(results.items(), key=lambda item: -item[1]["score"]):
        lines.append(
            f"<tr><td class=policy>{html.escape(policy)}<td>{result['score']:.2f}"
            f"<td>{result['mu']:.2f}<td>{result['sigma']:.2f}<td>{len(result['rounds'])}</tr>"
        )
    return "".join([*lines, "</table>"])


def card(pair: Pair, baseline: str, policy: str) -> str:
    """Two images of one prompt with their scores."""
    shown = ""
    for name, path, score in zip((baseline, policy), pair.images, pair.scores, strict=True):
        source = thumbnail(path)
        picture = f'<img src="{source}" alt="">' if source else "<p>not readable</p>"
        text = f"{html.escape(name)} {score:.3g}"
        shown += f'<figure>{picture}<figcaption title="{text}">{text}</figcaption></figure>'
    return f"<div class=card><div class=pair>{shown}</div><p>{html.escape(pair.prompt)}</p></div>"


def method_notes(rows: Sequence[Comparison]) -> str:
    """How to read the numbers, and what is missing from them."""
    missing = max(row.missing for row in rows)
    left_out = (
        f"<p>Up to {missing} images of a policy had no score or no partner and are left out.</p>"
        if missing
        else ""
    )
    return (
        "<h2>How to read this</h2><div class=note>"
        "<p>Policies are compared image by image on the same prompt (and the same noise, where "
        "this project drew them); several images of a prompt are averaged first. A win rate is "
        "the share of images that score higher than the baseline's, equal scores counted half; "
        "50% is no difference.</p>"
        "<p>Intervals are 95% bootstrap intervals over prompts. p is of a sign-flip test of the "
        "win rate, corrected by Holm's method over all policies and scorers of this page. "
        "Prompts to settle: how many would show a win rate like this one to differ from 50%, "
        f"four times in five.</p>{left_out}</div>"
    )
