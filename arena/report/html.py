"""The HTML of the arena's report: one file, images inside, nothing loaded from elsewhere.

Only how it looks is decided here; `report` computes what is shown.
"""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from arena.prediction.held_out import BASELINES, Evaluation
from arena.ratings.table import Ratings

STYLE = """
:root { color-scheme: light dark; --ink: #22303c; --grey: #66727d; --faint: #d8dee4;
  --page: #ffffff; --accent: #2a6f97; --warn: #fdf1ec; --warned: #b4532f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9ed; --grey: #9aa6b0; --faint: #37424c;
  --page: #171d22; --accent: #7fb8d8; --warn: #3a2a22; --warned: #f0a98c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 28px 20px 64px; color: var(--ink);
  background: var(--page); font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 18px; margin: 44px 0 10px; padding-top: 14px; border-top: 1px solid var(--faint); }
p { max-width: 760px; margin: 6px 0; }
.note, figcaption { color: var(--grey); font-size: 13px; }
.warning { background: var(--warn); border-left: 4px solid var(--warned); padding: 8px 14px;
  margin: 14px 0; max-width: 760px; overflow-wrap: anywhere; white-space: pre-line; }
.figures { display: flex; flex-wrap: wrap; gap: 20px; align-items: flex-start; margin: 14px 0; }
figure { margin: 0; flex: 0 1 500px; min-width: 0; }
figure img { display: block; width: 100%; background: #fff; border-radius: 6px; }
figcaption { margin-top: 6px; }
.scroll { overflow-x: auto; margin: 12px 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
th { color: var(--grey); font-size: 12.5px; font-weight: 600; }
th, td { padding: 5px 12px 5px 0; border-bottom: 1px solid var(--faint); text-align: right;
  white-space: nowrap; }
th.text, td.text { text-align: left; }
td.better { color: var(--accent); font-weight: 600; } td.worse { color: var(--warned); }
tr.group th { text-align: left; color: var(--ink); padding-top: 14px; }
code { overflow-wrap: anywhere; }
"""


@dataclass(frozen=True)
class Section:
    """A heading, one paragraph (plain text), PNGs as (caption, bytes), and a table as HTML."""

    title: str
    text: str
    figures: Sequence[tuple[str, bytes]] = ()
    table: str = ""


def html_page(title: str, facts: str, warnings: Sequence[str], sections: Sequence[Section]) -> str:
    """Return the whole page. title, facts and warnings are plain text."""
    say = html.escape
    parts = [f"<h1>{say(title)}</h1><p class=note>{say(facts)}</p>"]
    parts += [f"<p class=warning>{say(warning)}</p>" for warning in warnings]
    for section in sections:
        parts.append(f"<h2>{say(section.title)}</h2><p>{say(section.text)}</p>")
        shown = "".join(
            f'<figure><img alt="{say(caption)}" src="data:image/png;base64,'
            f'{base64.b64encode(picture).decode()}"><figcaption>{say(caption)}</figcaption></figure>'
            for caption, picture in section.figures
        )
        parts.append(f"<div class=figures>{shown}</div>" if shown else "")
        parts.append(f"<div class=scroll>{section.table}</div>" if section.table else "")
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{say(title)}</title><style>{STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )


def ratings_rows(ratings: Ratings) -> str:
    """Return the leaderboard as a table, group by group."""
    elo = "elo" in ratings.table.columns
    heads = ["", "model", *(["Elo, 95%"] if elo else []), "mu, 95%", "votes", "won", "lost", "tied"]
    lines = [_head(heads, text={1})]
    several = ratings.table["group"].n_unique() > 1
    for (group,), members in sorted(ratings.table.group_by("group", maintain_order=True)):
        if several:
            lines.append(f"<tr class=group><th colspan={len(heads)}>group {group}</tr>")
        for place, row in enumerate(members.iter_rows(named=True), start=1):
            known = f"<td>{row['elo']:.0f} ± {1.96 * row['elo_sd']:.0f}" if elo else ""
            lines.append(
                f"<tr><td>{place}<td class=text>{html.escape(row['model'])}{known}"
                f"<td>{row['mu']:.3f} ± {1.96 * row['sigma']:.3f}"
                + "".join(f"<td>{row[name]:,}" for name in ("votes", "wins", "losses", "ties"))
                + "</tr>"
            )
    return f"<table>{''.join(lines)}</table>"


def held_out_rows(evaluation: Evaluation) -> str:
    """Return every method's scores on later votes as a table, the best first."""
    heads = ["method", "predicts", "log-loss", "Brier", "accuracy", "calibration error"]
    lines = [_head([*heads, "nats over the better baseline", "unrated votes"], text={0, 1})]
    for row in evaluation.overall().iter_rows(named=True):
        low, high = (row["gain"] + side * row["gain_half"] for side in (-1, 1))
        tone = "better" if low > 0 else "worse" if high < 0 else ""
        gain = f"{row['gain']:+.4f} ± {row['gain_half']:.4f}" if row["gain_half"] else "–"
        name = html.escape(row["method"])
        lines.append(
            f"<tr><td class=text>{f'<i>{name}</i>' if row['method'] in BASELINES else name}"
            f"<td class=text>{row['prediction']}<td>{row['log_loss']:.4f}<td>{row['brier']:.4f}"
            f"<td>{row['accuracy']:.1%}<td>{row['calibration_error']:.3f}"
            f'<td class="{tone}">{gain}<td>{row["unrated"]:,}</tr>'
        )
    return f"<table>{''.join(lines)}</table>"


def gap_rows(summary: pl.DataFrame) -> str:
    """Return one row a gap estimator as a table: gaps, mean, spread, upsets, below 0, remark."""
    lines = [_head(["gap", "strict votes", "mean", "sd", "upsets", "below 0"], text={0})]
    for name, strict, mean, sd, upsets, below in summary.iter_rows():
        lines.append(
            f"<tr><td class=text>{html.escape(name)}<td>{strict:,}<td>{mean:.3f}<td>{sd:.3f}"
            f"<td>{upsets:.1%}<td>{below:.1%}</tr>"
        )
    return f"<table>{''.join(lines)}</table>"


def _head(names: Sequence[str], text: set[int]) -> str:
    cells = (f"<th{' class=text' if k in text else ''}>{name}" for k, name in enumerate(names))
    return f"<tr>{''.join(cells)}</tr>"
