"""How `run` ends: what was found, who serves, where it lies, and how to go on."""

import os
from pathlib import Path

import dagster as dg

from assets.lake import Lake
from assets.lineage import told
from assets.study import Study
from assets.summary import against, head_to_head
from assets.verdict import ITSELF, NOT_TOLD_APART, TOO_FEW


def outcome(study: Study, instance: dg.DagsterInstance) -> str:
    """Return the closing page: the table of policies, the verdict, the champion and the ways on."""
    lake = Lake(study.lake)
    rows = list(lake.read("report").iter_rows(named=True))
    champion = told(instance, study, "champion", None)
    lines = [
        "",
        f"{study.name}: mean score and win rate by `{study.scorecard.headline}`"
        + (f", K-Sort rating by `{study.ksort.judge}`" if study.ksort else ""),
        "",
        *table(rows, study),
        "",
        verdicts(rows, study),
        *(against(row) for row in head_to_head(study, lake, [row["policy"] for row in rows])),
        f"champion: {champion.get('champion', 'none')} "
        f"({champion.get('decision', 'never decided')})",
        "",
        "where it lies",
    ]
    for row in rows:
        version = lake.current_version("policies", row["policy"])
        if version is not None:
            lies = where(lake, f"policies/{row['policy']}/{version}/policy")
            lines.append(f"  {row['policy']:<16} {lies}")
    lines += [
        f"  {'comparison':<16} {where(lake, 'reports/comparison.html')}",
        f"  {'summary':<16} {where(lake, 'reports/summary.md')}",
        f"  {'served as':<16} models:/{study.name}@champion",
        "",
        "go on with",
        f"  .venv/bin/python -m pipelines ui {relative(study.path)}",
        "      look at the assets, runs and figures, and vote on the policies' images",
        f"  .venv/bin/python -m training {relative(study.path)} --policy "
        f"{next(reversed(study.policies))} --out /tmp/policy --set train.gamma=3",
    ]
    return "\n".join(lines)


def table(rows: list[dict[str, object]], study: Study) -> list[str]:
    """Return the policies, best first, as lines of a table."""
    ksort, voted = study.ksort is not None, any(row["votes"] for row in rows)
    lines = [
        f"{'policy':<16} {'mean score':>10} {'win rate over ' + study.baseline:>22} "
        f"{'95% interval':>16}"
        + (f" {'votes':>6} {'their mu':>8} {'sigma':>6}" if voted else "")
        + (f" {'K-Sort mu':>10} {'sigma':>6} {'score':>7}" if ksort else "")
    ]
    for row in rows:
        rate, interval = "-", ITSELF
        if row["win_rate"] is not None:
            rate = f"{row['win_rate']:.1%}"
            interval = f"{row['win_rate_low']:.1%} - {row['win_rate_high']:.1%}"
        line = f"{row['policy']:<16} {row['mean_score']:>10.4f} {rate:>22} {interval:>16}"
        if row["votes"]:
            line += f" {row['votes']:>6} {row['votes_mu']:>8.2f} {row['votes_sigma']:>6.2f}"
        elif voted:
            line += f" {0:>6} {'-':>8} {'-':>6}"
        if ksort:
            line += (
                f" {row['ksort_mu']:>10.2f} {row['ksort_sigma']:>6.2f} {row['ksort_score']:>7.2f}"
            )
        lines.append(line)
    return lines


def verdicts(rows: list[dict[str, object]], study: Study) -> str:
    """Return in words how each policy stands to the baseline, as the report's table says it."""
    said: dict[str, list[str]] = {}
    for row in rows:
        if row["verdict"] != ITSELF:
            said.setdefault(str(row["verdict"]), []).append(str(row["policy"]))
    words = {NOT_TOLD_APART: f"not told apart from {study.baseline}", TOO_FEW: TOO_FEW}
    parts = [
        f"{', '.join(names)}: {words.get(each, f'{each} than {study.baseline}')}"
        for each, names in said.items()
    ]
    by = "" if study.champion.by == "scores" else "by people's votes, "
    found = f"{'; '.join(parts)} ({by}Holm-corrected p below 0.05)."
    return found if parts else "nothing to compare."


def where(lake: Lake, name: str) -> str:
    """Return where a person finds a file of the lake."""
    return lake.where(name) if lake.remote else relative(lake.path(name))


def relative(path: Path) -> str:
    """Return a path as a person in the folder where the command was typed would write it."""
    here = Path(os.environ.get("PWD", Path.cwd()))
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
