"""Everything about an arena on one page: ratings, predictions, gaps and who met whom.

`write_report` fills a folder with report.html (one file, images inside, nothing loaded from
elsewhere), the same figures as PNGs, and held_out.csv, the scores of every method by block of time.
How the page looks is in `html`.
"""

from pathlib import Path

import numpy as np
import polars as pl

from arena.atomic import replacing
from arena.gaps.joint import joint_gaps
from arena.gaps.pairwise import pairwise_gaps
from arena.prediction.held_out import Evaluation, evaluate
from arena.ratings.comparisons import Comparisons
from arena.ratings.table import ESTIMATORS, Ratings, estimator
from arena.report import figures, page_figures
from arena.report.html import Section, gap_rows, held_out_rows, html_page, ratings_rows
from arena.report.text import held_out_table

GAPS_TEXT = (
    "Pairwise: by the two models and the outcome alone. Joint: by every vote that the two images "
    "received; below 0 where the others say that this vote was a slip. An upset is a win of the "
    "model with the lower mu (pairwise), or a vote that the others made less likely than not "
    "(joint)."
)
HELD_OUT_TEXT = (
    "The votes are split in time: each block of later votes is predicted from everything before it "
    "(frozen), or each vote from everything before it (online, where a method can follow along). "
    "Log-loss counts, in nats a vote, how surprising the outcomes were: win, loss or tie. "
    "Calibration error is the mean distance between predicted and observed win rates. A baseline "
    "that knows only how often sides win and tie, and Elo with K = 24, are in italics; ± is a 95% "
    "interval of the difference from the better of them."
)


def write_report(votes: pl.DataFrame, ratings: Ratings, out: Path) -> str:
    """Write the report of votes (columns `schema.VOTES`) and their ratings into a folder.

    Returns what a terminal should say. Raises UnratedModelError for a model without a rating, and
    ValueError where no votes are left to report on.
    """
    if votes.is_empty():
        raise ValueError("no usable votes, so there is nothing to report")
    gaps, gap_note = _gaps(votes, ratings)
    comparisons = Comparisons.of(votes)
    name = f"{ratings.estimator}, as fitted"
    evaluation, refusal = _evaluation(comparisons, ratings, name)
    pictures = {
        "leaderboard": figures.leaderboard(ratings),
        "win_rates": figures.win_rates(comparisons, ratings),
        "win_matrix": page_figures.win_matrix(comparisons, ratings),
        "gaps": figures.gap_histogram(gaps),
        "comparisons": page_figures.comparison_graph(comparisons, ratings),
    }
    if evaluation is not None:
        pictures["held_out"] = page_figures.held_out(evaluation)
        pictures["calibration"] = page_figures.calibration(evaluation, name)
    images = {name: figures.png(figure) for name, figure in pictures.items()}
    parameters = ", ".join(f"{key} {value:.4g}" for key, value in ratings.parameters.items())
    sections = [
        Section(
            "Ratings",
            f"By {ratings.estimator} ({parameters}). The bar is a 95% interval.",
            [("Best at the top.", images["leaderboard"])],
            ratings_rows(ratings),
        ),
        Section(
            "Win rates",
            "Ratings are right when the pairs lie along the diagonal: a pair far from it, beyond "
            "its interval, is one that a single number a model cannot explain.",
            [
                ("Each point is a pair of models; area is votes.", images["win_rates"]),
                ("What the votes say, without any model of them.", images["win_matrix"]),
            ],
        ),
        _held_out_section(evaluation, refusal, images),
        Section(
            "Gaps",
            f"How much better the winner is: what training uses. {GAPS_TEXT} {gap_note}".strip(),
            [("Dashed: the mean.", images["gaps"])],
            gap_rows(_gap_summary(gaps)),
        ),
        Section(
            "Who was compared with whom",
            "Ratings are comparable along chains of votes; thin chains make wide intervals.",
            [("", images["comparisons"])],
        ),
    ]
    page = html_page("Arena report", _facts(votes, ratings), _warnings(ratings), sections)
    files = {f"{name}.png": content for name, content in images.items()}
    files["report.html"] = page.encode()
    if evaluation is not None:
        files["held_out.csv"] = evaluation.table.write_csv().encode()
    for file, content in files.items():
        with replacing(out / file) as aside:
            aside.write_bytes(content)
    said = held_out_table(evaluation) if evaluation is not None else refusal
    return f"{said}\nreport: {out / 'report.html'}"


def _facts(votes: pl.DataFrame, ratings: Ratings) -> str:
    models = pl.concat([votes["model_a"], votes["model_b"]]).n_unique()
    said = [f"{votes.height:,} votes over {models:,} models"]
    said.append(f"{(votes['outcome'] == 'tie').sum() / votes.height:.1%} ties")
    if raters := votes["rater"].drop_nulls().n_unique():
        said.append(f"{raters:,} rater" + "s" * (raters != 1))
    images = pl.concat([votes["image_a"], votes["image_b"]]).drop_nulls()
    if len(images):
        said.append(f"{images.n_unique():,} images")
    days = votes["created_at"].drop_nulls().sort().dt.strftime("%Y-%m-%d")
    if len(days):
        said.append(f"{days[0]} to {days[-1]}")
    sources = votes["source"].unique().sort().to_list()
    said.append("from " + ", ".join(sources[:5]) + (", …" if len(sources) > 5 else ""))
    return "; ".join(said) + "."


def _warnings(ratings: Ratings) -> list[str]:
    groups = ratings.table.group_by("group").agg(pl.col("model").sort()).sort("group")
    if groups.height == 1:
        return []
    lines = [
        f"{groups.height} groups of models were never compared with each other: a rating says "
        "nothing about a model of another group."
    ]
    for group, members in groups.head(8).iter_rows():
        lines.append(f"{group}: {', '.join(members[:12])}" + (", …" if len(members) > 12 else ""))
    if groups.height > 8:
        lines.append(f"and {groups.height - 8} more")
    return ["\n".join(lines)]


def _evaluation(
    comparisons: Comparisons, ratings: Ratings, name: str
) -> tuple[Evaluation | None, str]:
    """Return the estimators' scores, or None and why there are none."""
    others = {other: estimator(other) for other in ESTIMATORS if other != ratings.estimator}
    try:
        return evaluate(comparisons, {name: ratings.estimate_as(), **others}), ""
    except ValueError as error:
        return None, f"Not measured: {error}."


def _held_out_section(
    evaluation: Evaluation | None, refusal: str, images: dict[str, bytes]
) -> Section:
    title = "Does the arena predict votes that it has not seen?"
    if evaluation is None:
        return Section(title, refusal)
    shown = [
        ("Every method on the same votes.", images["held_out"]),
        ("On the dashed line predictions are as sure as they should be.", images["calibration"]),
    ]
    return Section(title, HELD_OUT_TEXT, shown, held_out_rows(evaluation))


def _gaps(votes: pl.DataFrame, ratings: Ratings) -> tuple[dict[str, pl.DataFrame], str]:
    """Return the gaps by estimator, and a remark on the joint one."""
    gaps = {"pairwise": pairwise_gaps(votes, ratings)}
    if votes["image_a"].null_count() or votes["image_b"].null_count():
        return gaps, "The joint gap needs both images of every vote, which these votes lack."
    try:
        gaps["joint"], found = joint_gaps(votes, ratings, signed=True)
    except ValueError as error:
        return gaps, f"No joint gap: {error}."
    arrived = (
        "converged" if found.converged else f"did NOT converge (last change {found.change:.2g})"
    )
    return gaps, (
        f"The joint inference {arrived} in {found.sweeps} sweeps; an image's own spread is "
        f"{found.settings.rho:.0%} of the variance of one performance."
    )


def _gap_summary(gaps: dict[str, pl.DataFrame]) -> pl.DataFrame:
    rows = []
    for name, table in gaps.items():
        strict = table.filter(pl.col("outcome") != "tie")
        gap = strict["gap"].to_numpy()
        if len(gap):
            upsets = float((strict["probability"] < 0.5).mean())  # type: ignore[arg-type]
            below = float(np.mean(gap < 0.0))
            rows.append((name, len(gap), float(gap.mean()), float(gap.std()), upsets, below))
    columns = ["gap", "strict", "mean", "sd", "upsets", "below_zero"]
    return pl.DataFrame(rows, columns, orient="row")
