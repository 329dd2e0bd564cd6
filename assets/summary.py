"""The summary: one page for others, of the votes, the arena and what the policies came to."""

from typing import Any

import dagster as dg
import polars as pl

from arena.ratings.table import Ratings
from assets.content import combined_hash
from assets.lake import Lake
from assets.lineage import told
from assets.pictures import in_markdown, markdown
from assets.report import all_scores
from assets.stage import Chain
from assets.study import Study
from assets.tracking import tracked
from assets.verdict import RULES, compared, verdict
from evaluation.comparison.statistics import Comparison

LEADERS = 10
PAGE = "reports/summary.md"


def summary_stage(study: Study, chain: Chain) -> list[Any]:
    """Return the asset `summary` and its check."""
    lake, stage = Lake(study.lake), chain["summary"]

    @stage.asset(
        study,
        group_name="evaluation",
        kinds={"markdown"},
        description="One page for others: the votes, the leaderboard, the verdicts.",
    )
    def summary(context: dg.AssetExecutionContext) -> "dg.MaterializeResult[Any]":
        with tracked(study, chain, context, {"headline": study.scorecard.headline}) as run:
            champion = told(context.instance, study, "champion", None)
            page = written(study, lake, str(champion.get("decision", "")))
            with lake.writing(PAGE) as aside:
                aside.write_text(page, encoding="utf-8")
            run.artifact(lake.at(PAGE))
            return run.result(combined_hash(page), {"page": dg.MetadataValue.md(page)})

    @stage.check(study, "summary_names_every_policy")
    def summary_names_every_policy() -> dg.AssetCheckResult:
        """Each policy that the report compares is on the page."""
        page = lake.at(PAGE).read_text(encoding="utf-8")
        named = {name: f"| {in_markdown(name)} |" for name in lake.read("report")["policy"]}
        missing = [name for name, cell in named.items() if cell not in page]
        return dg.AssetCheckResult(
            passed=not missing,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"missing": ", ".join(missing) or "none"},
        )

    return [summary, summary_names_every_policy]


def written(study: Study, lake: Lake, decision: str) -> str:
    """Return the page as markdown; no prompt, rater or path stands in it."""
    votes, ratings = lake.read("votes", "outcome"), Ratings.read(lake.table("ratings")).table
    table, headline = lake.read("report"), study.scorecard.headline
    ties = votes.filter(pl.col("outcome") == "tie").height
    leaders = ratings.sort("mu", descending=True).head(LEADERS)
    shown = table.select(
        *("policy", "objective", "mean_score", "win_rate", "win_rate_low", "win_rate_high"),
        *("votes", "votes_mu", "votes_sigma", "verdict"),
    )
    lines = [
        f"# {study.name}",
        "",
        f"{votes.height:,} votes, {ties / max(votes.height, 1):.0%} of them ties, over "
        f"{ratings.height} models, rated by {study.arena.estimator}.",
        "",
        markdown(leaders.select("model", "mu", "sigma", "votes")),
        "",
        f"Policies by `{headline}`, against {study.baseline} on the same prompts and noise "
        f"(better: {RULES[study.champion.by]}, corrected by Holm):",
        "",
        markdown(shown),
        "",
        *(against(row) for row in head_to_head(study, lake, table["policy"].to_list())),
        "",
        f"Champion: {decision}.",
        "",
    ]
    return "\n".join(lines)


def head_to_head(study: Study, lake: Lake, shown: list[str]) -> list[Comparison]:
    """Return each arenapo policy against the dpo one, where the study has both."""
    objectives = {name: config.objective for name, config in study.policies.items() if config}
    ours = [name for name in shown if objectives.get(name) == "arenapo"]
    plain = next((name for name in shown if objectives.get(name) == "dpo"), None)
    if plain is None or not ours:
        return []
    scores = all_scores(lake, [plain, *ours])
    found = compared(scores, plain, study.scorecard.headline, [study.scorecard.headline])
    return [found[name] for name in ours]


def against(row: Comparison) -> str:
    """Return a head-to-head as a sentence with its interval."""
    return (
        f"{row.policy} against {row.baseline}: wins {row.win_rate:.1%} of {row.prompts} prompts "
        f"(95% interval {row.win_rate_low:.1%} to {row.win_rate_high:.1%}): {verdict(row)}."
    )
