"""The tables of the comparison's page, as HTML."""

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.page_images import Failure
from evaluation.statistics import Comparison

MOST_FAILURES = 20  # that are named on the page; all of them are counted


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
                f'<td class="{tone(low, high, 0)}">{row.mean_difference:+.3g}'
                f"<small>{low:+.3g} to {high:+.3g}</small>"
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


def agreement_table(scorers: Sequence[str], matrix: np.ndarray) -> str:
    """How often two scorers name the same winner, as shades from chance upward."""
    head = "".join(f"<th>{html.escape(name)}" for name in scorers)
    lines = [f"<table class=matrix><tr><th>{head}</tr>"]
    for name, line in zip(scorers, matrix, strict=True):
        cells = ""
        for value in line:
            shade = 0.0 if math.isnan(value) else min(0.75, max(0.0, 1.5 * (value - 0.5)))
            text = "" if math.isnan(value) else f"{value:.0%}"
            cells += f'<td style="background:rgba(91,142,85,{shade:.2f})">{text}'
        lines.append(f"<tr><th>{html.escape(name)}{cells}</tr>")
    return "".join([*lines, "</table>"])


def failures_table(found: Sequence[Failure]) -> str:
    """Images without a score: whose, for which prompt, and why."""
    lines = ["<table><tr><th>policy<th>prompt<th>image<th>what is missing</tr>"]
    for one in found[:MOST_FAILURES]:
        why = f"no score by {', '.join(one.scorers)}"
        why = why if one.readable else f"not readable, so {why}"
        lines.append(
            f"<tr><td class=policy>{html.escape(one.policy)}<td>{html.escape(one.prompt[:90])}"
            f"<td>{html.escape(Path(one.image).name)}<td class=worse>{html.escape(why)}</tr>"
        )
    rest = len(found) - MOST_FAILURES
    more = f"<p class=note>and {rest} more, in the table of scores.</p>" if rest > 0 else ""
    return "".join([*lines, "</table>", more])
