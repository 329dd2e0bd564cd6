"""Figures and tables as Dagster's pages can show them: markdown."""

import base64
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Above this the event log and the page it is shown on grow slow.
MOST_BYTES = 48_000


def embedded(png: bytes, alternative: str) -> dg.MarkdownMetadataValue:
    """Return a PNG as metadata, or a sentence when it is too large for the event log."""
    if len(png) > MOST_BYTES:
        return dg.MetadataValue.md(f"{alternative}: {len(png) // 1000} kB, see the MLflow run")
    return dg.MetadataValue.md(
        f"![{alternative}](data:image/png;base64,{base64.b64encode(png).decode()})"
    )


def small(figure: "Figure", alternative: str) -> dg.MarkdownMetadataValue:
    """Embed a figure at the resolution that the event log can carry."""
    from arena.report.figures import png  # matplotlib, which nobody waits for at import

    return embedded(png(figure, limit=MOST_BYTES), alternative)


def markdown(table: pl.DataFrame) -> str:
    """Return a frame as a markdown table, as Dagster's pages show it."""
    lines = ["| " + " | ".join(table.columns) + " |", "|" + " --- |" * table.width]
    for row in table.iter_rows():
        cells = (f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)
