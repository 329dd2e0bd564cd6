"""The HTML of the comparison's page: one file, images inside, nothing loaded from elsewhere.

Only how it looks is decided here; `evaluation.page` computes what is shown.
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from evaluation.grids import fit
from evaluation.page_images import Failure, Pair
from evaluation.page_tables import (
    agreement_table,
    failures_table,
    ksort_table,
    matrix_table,
    scores_table,
)
from evaluation.statistics import Comparison

SIDE = 256  # larger images are reduced to this side on the page
PIXELATED = 96  # smaller images are shown exactly, pixel by pixel

STYLE = """
:root { --ink: #22303c; --faint: #d8dee4; --grey: #66727d; --better: #2a6f97; --worse: #c8553d; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 32px 24px 64px; color: var(--ink);
  background: #fff; font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 26px; margin: 0 0 4px; }
h2 { font-size: 18px; margin: 44px 0 10px; padding-top: 14px; border-top: 1px solid var(--faint); }
h3 { font-size: 15px; margin: 24px 0 8px; }
p { max-width: 860px; margin: 6px 0; }
.lead { font-size: 17px; }
.note { color: var(--grey); font-size: 13px; }
table { border-collapse: collapse; width: 100%; margin: 10px 0;
  font-variant-numeric: tabular-nums; }
th { text-align: left; font-size: 12.5px; color: var(--grey); font-weight: 600; }
th, td { padding: 7px 14px 7px 0; border-bottom: 1px solid var(--faint); vertical-align: middle; }
td small { color: var(--grey); display: block; font-size: 12px; white-space: nowrap; }
td.policy { font-weight: 600; min-width: 110px; max-width: 190px; overflow-wrap: anywhere; }
.better { color: var(--better); } .worse { color: var(--worse); }
.bar { position: relative; width: 180px; height: 22px; }
.bar i { position: absolute; }
.bar .axis { left: 0; right: 0; top: 10px; height: 2px; background: #eef1f4; }
.bar .half { left: 50%; top: 1px; width: 1px; height: 20px; background: var(--grey); }
.bar .range { top: 7px; height: 8px; border-radius: 4px; background: #8a939c; opacity: .4; }
.bar .dot { top: 6px; width: 10px; height: 10px; margin-left: -5px; border-radius: 50%;
  background: #8a939c; }
.bar.better .range, .bar.better .dot { background: var(--better); }
.bar.worse .range, .bar.worse .dot { background: var(--worse); }
.matrix { width: auto; display: block; max-width: 100%; overflow-x: auto; }
.matrix td, .matrix th { padding: 8px 10px; text-align: center; border: 0; }
.matrix th { min-width: 66px; max-width: 130px; overflow-wrap: anywhere; }
.matrix th:first-child { text-align: right; }
.charts { display: flex; flex-wrap: wrap; gap: 16px; }
.charts img { width: 508px; max-width: 100%; }
img.grid { max-width: 100%; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(236px, 1fr)); gap: 14px; }
.card { border: 1px solid var(--faint); border-radius: 8px; padding: 10px; font-size: 12.5px; }
.card .pair { display: flex; gap: 8px; } .card figure { margin: 0; flex: 1; min-width: 0; }
.card img { width: 100%; aspect-ratio: 1; object-fit: contain; image-rendering: pixelated;
  background: #f4f6f8; border-radius: 4px; display: block; }
.card figcaption { color: var(--grey); white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis; }
.card p { margin: 6px 0 0; min-height: 2.6em; line-height: 1.3; }
@media (max-width: 760px) { table { display: block; overflow-x: auto; } }
details { margin: 14px 0; } summary { cursor: pointer; font-weight: 600; }
"""


@dataclass(frozen=True)
class Content:
    """Everything that the page shows; how it comes about is in `page`."""

    baseline: str
    scorers: Sequence[str]
    rows: Sequence[Comparison]
    matrices: Mapping[str, tuple[list[str], np.ndarray]]
    charts: Mapping[str, bytes]
    pairs: Mapping[str, Mapping[str, Sequence[Pair]]]
    ksort: Mapping[str, Mapping[str, Any]]
    agreement: tuple[list[str], np.ndarray]
    failures: Sequence[Failure]
    seen: Sequence[str] | None  # compared prompts that were trained on; None: nobody asked


def verdict(row: Comparison) -> str:
    """One sentence about a policy: told apart only where the corrected test says so."""
    share = f"{row.win_rate:.0%} of images (95% interval {row.win_rate_low:.0%} to "
    share += f"{row.win_rate_high:.0%})"
    if row.p_holm < 0.05:
        if row.win_rate > 0.5:
            return f"beats {row.baseline}: it scores higher on {share}"
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
    if max(picture.size) > PIXELATED:
        small = picture if max(picture.size) <= SIDE else fit(picture, SIDE)
        small.save(sink, format="JPEG", quality=88)
        return embed(sink.getvalue(), "jpeg")
    picture.save(sink, format="PNG", optimize=True)
    return embed(sink.getvalue())


def html_page(content: Content) -> str:
    """The whole page."""
    title = f"Policies compared with {html.escape(content.baseline)}"
    parts = [f"<h1>{title}</h1>", *opening(content)]
    for scorer in content.scorers:
        parts += scorer_section(content, scorer)
    if len(content.scorers) > 1:
        parts.append(
            "<h2>Do the scorers agree?</h2><p class=note>Share of images for which two scorers "
            "name the same winner, policy or baseline; 50% is chance.</p>"
            + agreement_table(*content.agreement)
        )
    if content.ksort:
        chart = embed(content.charts["ksort.png"])
        parts.append("<h2>K-Sort Eval</h2>" + ksort_table(content.ksort))
        parts.append(f'<div class=charts><img src="{chart}" alt="rounds"></div>')
    parts += images_section(content)
    if content.failures:
        count = "1 image" if len(content.failures) == 1 else f"{len(content.failures):,} images"
        parts.append(
            f"<h2>What failed</h2><p>{count} without a score; their pairs are left out.</p>"
        )
        parts.append(failures_table(content.failures))
    parts.append(method_notes(content.rows))
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def opening(content: Content) -> list[str]:
    """What was compared, and one sentence a policy, best first."""
    say = html.escape
    headline = ranked(content, content.scorers[0])
    best = next((row for row in headline if row.policy != content.baseline), headline[0])
    count = "1 policy" if len(headline) == 1 else f"{len(headline)} policies"
    parts = [
        f"<p class=note>{count}, {best.prompts} prompts, {best.images} images "
        f"each, scored by {say(', '.join(content.scorers))} and paired prompt by prompt.</p>"
    ]
    if content.seen is not None:
        shown = "".join(f"<br>{say(text[:120])}" for text in content.seen[:3])
        known = f"{len(content.seen)} of the prompts" if content.seen else "None of the prompts"
        parts.append(f"<p class=note>{known} occur among the training prompts.{shown}</p>")
    parts += [
        f"<p class=lead><b>{say(row.policy)}</b> {say(verdict(row))}.</p>"
        for row in headline
        if row.policy != content.baseline
    ]
    return parts


def ranked(content: Content, scorer: str) -> list[Comparison]:
    """The comparisons by one scorer, best mean first."""
    return sorted((row for row in content.rows if row.scorer == scorer), key=lambda row: -row.mean)


def scorer_section(content: Content, scorer: str) -> list[str]:
    """Scores, win rates and who wins against whom, by one scorer."""
    mine = ranked(content, scorer)
    parts = [f"<h2>By {html.escape(scorer)}</h2>{scores_table(mine)}"]
    names = [f"{kind}_{quote(scorer, safe='')}.png" for kind in ("scores", "win_rates")]
    pictures = [f'<img src="{embed(content.charts[name])}" alt="{name}">' for name in names]
    parts.append(f"<div class=charts>{''.join(pictures)}</div>")
    if len(mine) > 2:
        policies, matrix = content.matrices[scorer]
        best_first = [policies.index(row.policy) for row in mine]
        ordered = matrix[np.ix_(best_first, best_first)]
        parts.append("<h3>Who wins against whom</h3>")
        parts.append(matrix_table([row.policy for row in mine], ordered))
    return parts


def images_section(content: Content) -> list[str]:
    """All policies where they differ most and least, then each beside the baseline."""
    say = html.escape
    parts = []
    for kind in ("most", "least"):
        chart = content.charts.get(f"images_{kind}_different.png")
        if chart is not None:
            parts.append(
                f"<h2>Where the policies differ {kind}</h2><p class=note>By "
                f"{say(content.scorers[0])}, the same noise in each column.</p>"
                f'<img class=grid src="{embed(chart)}" alt="{kind} different">'
            )
    titles = {"gains": "gains most", "losses": "loses most", "same": "changes least"}
    for policy, found in content.pairs.items():
        parts.append(f"<h2>{say(content.baseline)} and {say(policy)}, side by side</h2>")
        for kind, title in titles.items():
            if found[kind]:
                cards = "".join(card(pair, content.baseline, policy) for pair in found[kind])
                opened = "" if kind == "same" else " open"
                parts.append(
                    f"<details{opened}><summary>Where {say(policy)} {title}, by "
                    f"{say(content.scorers[0])}</summary><div class=cards>{cards}</div></details>"
                )
    return parts


def card(pair: Pair, baseline: str, policy: str) -> str:
    """Two images of one prompt with their scores."""
    shown = ""
    for name, path, score in zip((baseline, policy), pair.images, pair.scores, strict=True):
        source = thumbnail(path)
        picture = f'<img src="{source}" alt="">' if source else "<p>not readable</p>"
        text = f"<b>{score:.3g}</b> {html.escape(name)}"
        title = html.escape(name)
        shown += f'<figure>{picture}<figcaption title="{title}">{text}</figcaption></figure>'
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
        "<p>Intervals are at 95%, over prompts: a studentised bootstrap for scores, Wilson's for "
        "win rates. p is of a sign-flip test of the win rate, corrected by Holm's method over all "
        "policies and scorers of this page. "
        "Prompts to settle: how many would show a win rate like this one to differ from 50%, "
        f"four times in five.</p>{left_out}</div>"
    )
