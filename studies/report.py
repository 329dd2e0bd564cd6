"""study.md and study/tables.md from the parquet files: every number in them is written here.

`<!-- NAME -->` ... `<!-- /NAME -->` in either page encloses what `tables.TABLES[NAME]` or the
function NAME of `gap_tables` returns, and the answer in words; the prose around them is a person's.
A table without a place, or with two, is an error, so none is lost unseen.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from arena.report.figures import png
from studies import figures, gap_tables, tables
from studies.comparisons import (
    CAPABILITY,
    EQUAL_QUESTIONS,
    FIXED,
    JOINT,
    ORACLE,
    PAIRWISE,
    SPREAD_QUESTIONS,
    Difference,
    at_equal_settings,
    at_one_spread,
    captured,
    curve_steps,
    differences,
    gains_of,
    pooled,
    rewards,
    spread_trials,
    worlds_of,
)
from studies.tables import TABLES, share_captured, spread_of


def write_report(docs: Path) -> list[Path]:
    """Rewrite the tables of `docs`.md and `docs`/tables.md, and the figures in `docs`.

    Returns what was written. Raises FileNotFoundError for a missing page or parquet, ValueError for
    a marker that neither page has or both have.
    """
    results = pl.read_parquet(docs / "results.parquet")
    gaps = pl.read_parquet(docs / "gaps.parquet")
    first = pl.read_parquet(docs / "first_round.parquet")
    wide = at_one_spread(results)
    pages = {page: page.read_text() for page in (docs.with_suffix(".md"), docs / "tables.md")}
    content = {name: table(results, gaps) for name, table in ({"answer": answer} | TABLES).items()}
    content["first round"] = tables.questions(first, gaps)
    content["truth"], content["spreads"] = gap_tables.truth(gaps), gap_tables.spreads(gaps)
    content["graph"] = gap_tables.graph(pl.read_parquet(docs / "graph.parquet"))
    content["cost"] = gap_tables.cost(pl.read_parquet(docs / "cost.parquet"))
    for name, table in content.items():
        _put(pages, name, table)
    for page, text in pages.items():
        page.write_text(text)
    paths = list(pages)
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
        (
            "worlds.png",
            figures.worlds(
                [
                    ("each gap's own spread of margins", at_equal_settings(results)),
                    (f"one spread of margins, {spread_of(wide)}", wide),
                ]
            ),
        ),
        ("gaps.png", figures.truth(gaps)),
        ("response.png", figures.response(results)),
        *([("spread.png", figures.spread(results))] if len(spread_trials(results)) else []),
        *([("curve.png", figures.curve(results))] if curve_steps(results) else []),
    ):
        (docs / name).write_bytes(png(figure, dpi=130))
        paths.append(docs / name)
    return paths


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
    for how, runs, table in (
        ("each gap's own spread", same, EQUAL_QUESTIONS),
        (f"a spread of {spread_of(wide)}", wide, SPREAD_QUESTIONS),
    ):
        rows = differences(runs, table)
        each = [[d for d in rows if (d.policy, d.other) == (p.name, o.name)] for p, o in asked]
        told = [_in_worlds(answers) for answers in each if answers]
        if told:
            lines.append(f"- World by world, all at one setting and {how}: {'; '.join(told)}.")
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


def _in_worlds(found: Sequence[Difference]) -> str:
    """Say in how many worlds one policy is told from the other, by 95% intervals and corrected."""
    policy, other = (name.removeprefix("arenapo ") for name in (found[0].policy, found[0].other))
    above, below = [d for d in found if d.low > 0], [d for d in found if d.high < 0]
    sides = " and ".join(
        f"{name} it in {len(side)} of {len(found)}" + (f" ({_kept(side)})" if side else "")
        for name, side in (("above", above), ("below", below))
    )
    return f"{policy} against {other}: {sides}"


def _kept(found: Sequence[Difference]) -> str:
    return f"{sum(d.p_holm < 0.05 for d in found)} by Holm's p"


def _in_words(found: Difference) -> str:
    names = [name.removeprefix("arenapo ") for name in (found.policy, found.other)]
    what = " - ".join(names) + " " if names[0] != names[1] else ""
    return f"{what}{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def _put(pages: dict[Path, str], name: str, content: str) -> None:
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    places = [page for page, text in pages.items() if pattern.search(text)]
    if len(places) != 1:
        count = "two places" if places else "no place"
        names = " and ".join(str(page) for page in pages)
        raise ValueError(f"{count} for a table in {names}: <!-- {name} --> and <!-- /{name} -->")
    page = places[0]
    pages[page] = pattern.sub(lambda found: f"{found[1]}{content}\n{found[2]}", pages[page])
