"""Contrasts and other rows as markdown tables."""

from collections.abc import Callable, Iterable, Sequence

import polars as pl

from replication.contrasts import OUTCOMES, Contrast, Pair
from replication.matrix import Policy

Asked = Callable[[pl.DataFrame, str, Sequence[Pair]], list[Contrast]]


def both(ask: Asked, runs: pl.DataFrame, questions: Sequence[Pair]) -> str:
    """Tabulate what `ask` answers by each outcome, side by side."""
    return two([ask(runs, outcome, questions) for outcome in OUTCOMES])


def two(found: Sequence[Sequence[Contrast]]) -> str:
    """Tabulate the same contrasts by each outcome, side by side."""
    rows = []
    for each in zip(*found, strict=True):
        first = each[0]
        same = first.policy == first.other
        name = first.policy.name if same else pair_name((first.policy, first.other))
        cells = [
            cell
            for outcome, c in zip(OUTCOMES, each, strict=True)
            for cell in (with_interval(outcome, c.mean, c.low, c.high), f"{c.p_holm:.4f}")
        ]
        rows.append((first.over, name, first.seeds, *cells))
    head = [text for outcome in OUTCOMES for text in (outcome_name(outcome), "p (Holm)")]
    return table(("world", "difference", "seeds", *head), rows)


def outcome_name(outcome: str) -> str:
    """Name an outcome with its unit."""
    return "win rate, points" if outcome == "win_rate" else outcome


def number(outcome: str, value: float) -> str:
    """Write a value: win rates in points."""
    return f"{100 * value:+.1f}" if outcome == "win_rate" else f"{value:+.3f}"


def span(outcome: str, low: float, high: float) -> str:
    """Write two bounds."""
    return f"{number(outcome, low)} to {number(outcome, high)}"


def with_interval(outcome: str, mean: float, low: float, high: float) -> str:
    """Write a mean with its interval."""
    return f"{number(outcome, mean)} ({span(outcome, low, high)})"


def pair_name(pair: Pair) -> str:
    """Name two policies, the second taken from the first."""
    return " - ".join(policy.name.removeprefix("arenapo ") for policy in pair)


def cell_name(row: dict) -> str:
    """Name the policy of a row, with its spread if it has one."""
    spread = f", spread {row['spread']:g}" if row.get("spread") else ""
    return Policy(row["objective"], row["gap"]).name + spread


def table(head: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a markdown table."""
    lines: list[Iterable[object]] = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
