"""Figures, tables and foreign words as Dagster's and MLflow's pages can show them.

Models, prompts, raters, sources and file names come from strangers, and Dagster renders markdown:
an image in it is fetched by whoever opens the page. So each foreign text goes through one function
for its place: `in_markdown` for what Dagster renders, `in_plain_text` for what is shown as it is.
"""

import base64
import re
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from arena.escape import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Above this the event log and the page it is shown on grow slow.
MOST_BYTES = 48_000


def embedded(png: bytes, alternative: str) -> dg.MarkdownMetadataValue:
    """Return a PNG as metadata, or a sentence when it is too large for the event log."""
    called = in_markdown(alternative)
    if len(png) > MOST_BYTES:
        return dg.MetadataValue.md(f"{called}: {len(png) // 1000} kB, see the MLflow run")
    return dg.MetadataValue.md(
        f"![{called}](data:image/png;base64,{base64.b64encode(png).decode()})"
    )


def small(figure: "Figure", alternative: str) -> dg.MarkdownMetadataValue:
    """Embed a figure at the resolution that the event log can carry."""
    from arena.report.figures import png  # matplotlib, which nobody waits for at import

    return embedded(png(figure, limit=MOST_BYTES), alternative)


def markdown(table: pl.DataFrame) -> str:
    """Return a frame as a markdown table, as Dagster's pages show it; null is a dash."""

    def shown(cell: object) -> str:
        return f"{cell:.3f}" if isinstance(cell, float) else in_markdown(str(cell))

    rows = [
        ["-" if cell is None else shown(cell) for cell in row]
        for row in [table.columns, *table.iter_rows()]
    ]
    head, *lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + " --- |" * table.width, *lines])


def in_markdown(text: str) -> str:
    r"""Return markdown that shows a foreign text as it is: none of it is an image, a link or HTML.

    `in_markdown("![x](/y)")` is `\!\[x\]\(/y\)`.
    """
    return re.sub(r"([\\`*_{}\[\]<>()#!|~&$])", r"\\\1", printable(text))


def in_plain_text(text: str) -> str:
    """Return text for pages and terminals: its own lines, with controls spelled out."""
    return "\n".join(printable(line) for line in text.split("\n"))
