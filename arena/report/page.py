"""Everything about an arena on one page: ratings, predictions, gaps and who met whom.

`write_report` fills a folder with report.html (one file, images inside, nothing loaded from
elsewhere), the same figures as PNGs, and held_out.csv, the scores of every method by block of time.
How the page looks and what it says is in report.html; here is what fills it.
"""

import base64
from pathlib import Path

import jinja2
import polars as pl

from arena.atomic import replacing
from arena.escape import printable
from arena.gaps.joint import joint_gaps
from arena.gaps.pairwise import pairwise_gaps
from arena.prediction.held_out import BASELINES, Evaluation, evaluate
from arena.ratings.comparisons import Comparisons
from arena.ratings.table import ESTIMATORS, Ratings, estimator
from arena.report import figures, tables

TEMPLATE = Path(__file__).with_name("report.html")


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
    drawn = {
        "leaderboard": figures.leaderboard(ratings),
        "win_rates": figures.win_rates(comparisons, ratings),
        "win_matrix": figures.win_matrix(comparisons, ratings),
        "gaps": figures.gap_histogram(gaps),
    }
    if evaluation is not None:
        drawn["held_out"] = figures.held_out(evaluation)
        drawn["calibration"] = figures.calibration(evaluation, name)
    pngs = {name: figures.png(figure) for name, figure in drawn.items()}
    boards = tables.leaderboard_tables(ratings)
    several = len(boards) > 1
    page = _template().render(
        facts=_facts(votes),
        groups=[table["model"].to_list() for _, _, table in boards] if several else [],
        fit=tables.fit(ratings),
        boards=[(f"group {group}" if several else "", table) for group, _, table in boards],
        refusal=refusal,
        scores=tables.held_out_table(evaluation) if evaluation else None,
        gaps=tables.gap_table(gaps),
        gap_note=gap_note,
        pngs={name: base64.b64encode(content).decode() for name, content in pngs.items()},
    )
    files = {f"{name}.png": content for name, content in pngs.items()}
    files["report.html"] = page.encode()
    if evaluation is not None:
        files["held_out.csv"] = evaluation.table.write_csv().encode()
    for file, content in files.items():
        with replacing(out / file) as aside:
            aside.write_bytes(content)
    said = tables.held_out(evaluation) if evaluation is not None else refusal
    return f"{said}\nreport: {out / 'report.html'}"


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {
        "words": tables.WORDS,
        "gain": tables.GAIN,
        "baselines": BASELINES,
        "tone": _tone,
    }
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def _tone(gain: str) -> str:
    """Return the class of a printed gain: better or worse where its interval leaves 0 out."""
    value, _, half = gain.partition(" ± ")
    if not half or abs(float(value)) <= float(half):
        return "even"
    return "better" if float(value) > 0.0 else "worse"


def _facts(votes: pl.DataFrame) -> str:
    models = pl.concat([votes["model_a"], votes["model_b"]]).n_unique()
    said = [f"{votes.height:,} votes over {models:,} models"]
    said.append(f"{(votes['outcome'] == 'tie').sum() / votes.height:.1%} ties")
    images = pl.concat([votes["image_a"], votes["image_b"]])
    for what, column in {"rater": votes["rater"], "image": images}.items():
        if n := column.drop_nulls().n_unique():
            said.append(f"{n:,} {what}{'s' * (n != 1)}")
    days = votes["created_at"].drop_nulls().sort().dt.strftime("%Y-%m-%d")
    said += [f"{days[0]} to {days[-1]}"] if len(days) else []
    sources = [printable(source) for source in votes["source"].unique().sort()]
    said.append("from " + ", ".join(sources[:5]) + (", …" if len(sources) > 5 else ""))
    return "; ".join(said) + "."


def _evaluation(
    comparisons: Comparisons, ratings: Ratings, name: str
) -> tuple[Evaluation | None, str]:
    """Return the estimators' scores, or None and why there are none."""
    others = {other: estimator(other) for other in ESTIMATORS if other != ratings.estimator}
    try:
        return evaluate(comparisons, {name: ratings.estimate_as(), **others}), ""
    except ValueError as error:
        return None, printable(f"Not measured: {error}.")


def _gaps(votes: pl.DataFrame, ratings: Ratings) -> tuple[dict[str, pl.DataFrame], str]:
    """Return the gaps by estimator, and a remark on the joint one."""
    gaps = {"pairwise": pairwise_gaps(votes, ratings)}
    try:
        gaps["joint"], found = joint_gaps(votes, ratings, signed=True)
    except ValueError as error:
        return gaps, printable(f"No joint gap: {error}.")
    return gaps, printable(f"{found}.")
