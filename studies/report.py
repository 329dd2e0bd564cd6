"""study.md from the parquet files: every number in it is written here, between markers.

`<!-- NAME -->` ... `<!-- /NAME -->` in the text encloses what `tables.TABLES[NAME]` returns, and
the answer in words; the prose around them is a person's. A table whose marker is missing is an
error, so none is lost unseen.
"""

import re
from pathlib import Path

import polars as pl

from arena.figures import png
from studies import figures, tables
from studies.comparisons import (
    CAPABILITY,
    FIXED,
    JOINT,
    ORACLE,
    PAIRWISE,
    Difference,
    at_equal_settings,
    at_one_spread,
    captured,
    curve_steps,
    gains_of,
    pooled,
    rewards,
    spread_trials,
    worlds_of,
)
from studies.tables import TABLES, share_captured


def write_report(docs: Path) -> list[Path]:
    """Rewrite the tables of `docs`.md and the figures in `docs`; return what was written.

    Raises FileNotFoundError for a missing parquet, ValueError for a missing marker.
    """
    results = pl.read_parquet(docs / "results.parquet")
    gaps = pl.read_parquet(docs / "gaps.parquet")
    first = pl.read_parquet(docs / "first_round.parquet")
    page = docs.with_suffix(".md")
    text = page.read_text()
    for name, table in ({"answer": answer} | TABLES).items():
        text = _between(text, name, table(results, gaps), page)
    text = _between(text, "first round", tables.questions(first, gaps), page)
    text = _between(text, "graph", tables.graph(pl.read_parquet(docs / "graph.parquet")), page)
    text = _between(text, "cost", tables.cost(pl.read_parquet(docs / "cost.parquet")), page)
    page.write_text(text)
    written = [page]
    for name, figure in (
        (
            "head_room.png",
            figures.head_room(
                [
                    ("each gap at its own best setting", results),
                    ("all at one setting", at_equal_settings(results)),
                ]
            ),
        ),
        ("gaps.png", figures.truth(gaps)),
        ("response.png", figures.response(results)),
        *([("spread.png", figures.spread(results))] if len(spread_trials(results)) else []),
        *([("curve.png", figures.curve(results))] if curve_steps(results) else []),
    ):
        (docs / name).write_bytes(png(figure, dpi=130))
        written.append(docs / name)
    return written


def answer(results: pl.DataFrame, gaps: pl.DataFrame) -> str:
    """State the main comparison over the close worlds, then in one sentence a world."""
    lines = []
    same = at_equal_settings(results)
    asked = ((PAIRWISE, FIXED), (JOINT, FIXED), (JOINT, PAIRWISE), (CAPABILITY, PAIRWISE))
    wide = at_one_spread(results)
    for how, runs in (
        ("each at its own best setting", results),
        ("all at one setting", same),
        ("all at one setting and with one spread of margins", wide),
    ):
        found = [_in_words(difference) for difference in pooled(runs, questions=asked)]
        if found:
            count = sum(world.startswith("close-") for world in worlds_of(runs))
            lines.append(f"- Over {count} worlds of close models, {how}: {'; '.join(found)}.")
    gains = [f"{gain.world} {_in_words(gain)}" for gain in gains_of(wide, same, [PAIRWISE])]
    if gains:
        lines.append(
            f"- The pairwise gap with that spread, minus with its own: {'; '.join(gains)}."
        )
    for world in worlds_of(results):
        values = rewards(results, world, [FIXED, ORACLE])
        if len(values) < 2:
            continue
        gain = (values[:, 1] - values[:, 0]).mean()
        if captured(results, world, ORACLE) is None:
            lines.append(
                f"- {world} ({len(values)} seeds): the oracle gains {gain:+.3f} over a fixed "
                "margin, which is not told from nothing: there is no head-room to have a share of."
            )
            continue
        shares = {
            name: share_captured(results, world, policy)
            for name, policy in (
                ("pairwise", PAIRWISE),
                ("joint", JOINT),
                ("capability", CAPABILITY),
            )
        }
        lines.append(
            f"- {world} ({len(values)} seeds): the oracle gains {gain:+.3f} over a fixed margin; "
            f"of that the pairwise gap captures {shares['pairwise']}, the joint gap "
            f"{shares['joint']}, the capability gap {shares['capability']}."
        )
    return "\n".join(lines)


def _in_words(found: Difference) -> str:
    names = [name.removeprefix("arenapo ") for name in (found.policy, found.other)]
    what = " - ".join(names) + " " if names[0] != names[1] else ""
    return f"{what}{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def _between(text: str, name: str, content: str, page: Path) -> str:
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{page}: no place for a table: <!-- {name} --> and <!-- /{name} -->")
    return pattern.sub(lambda found: f"{found[1]}{content}\n{found[2]}", text)
