"""The page says what the stored runs say, and every table has its place."""

import shutil
from pathlib import Path

import polars as pl
import pytest

from replication.report import TABLES, write_report

DOCS = Path(__file__).parents[2] / "docs" / "evidence" / "replication"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    docs = tmp_path_factory.mktemp("page") / "replication"
    shutil.copytree(DOCS, docs)
    shutil.copy(DOCS.with_suffix(".md"), docs.with_suffix(".md"))
    for path in write_report(docs):
        assert path.stat().st_size > 0
    return docs


def test_the_committed_pages_are_those_that_the_runs_give(written: Path) -> None:
    for page in ("../replication.md", "tables.md"):
        assert (written / page).read_text() == (DOCS / page).read_text()


def test_the_headline_has_both_outcomes(written: Path) -> None:
    """The win rate of joint minus pairwise was found by another program: -1.1 (-1.7 to -0.6)."""
    close = TABLES["close worlds"](pl.read_parquet(DOCS / "results.parquet"))
    row = next(
        line for line in close.split("All at one setting:")[1].splitlines()
        if "| joint - pairwise |" in line
    )  # fmt: skip
    assert "| -1.1 (-1.7 to -0." in row


def test_readme_claims_what_the_table_says(written: Path) -> None:
    """The first claim of the README is the study's, whichever way it went."""
    claim = (DOCS.parents[2] / "README.md").read_text().split("Does the gap help?")[1][:500]
    table = TABLES["own rates"](pl.read_parquet(written / "results.parquet"))
    own = {line.split(" | ")[1]: line for line in table.split("All at")[0].splitlines()[4:] if line}
    assert "0.070 of mean quality" in claim
    assert "2.7 points" in claim
    assert "| +0.070 (" in own["pairwise - fixed_margin"]
    assert "| +2.7 (" in own["pairwise - fixed_margin"]
    assert "0.019 (-0.011 to +0.048)" in claim
    assert "| +0.019 (-0.011 to +0.048) |" in own["pairwise - dpo"]
    assert "1.7\npoints less" in claim
    assert "| -1.7 (" in own["pairwise - dpo"]


@pytest.mark.parametrize(("other", "wrong"), [("", "no place"), (None, "two places")])
def test_a_table_without_a_place_or_with_two_is_an_error(
    tmp_path: Path, other: str | None, wrong: str
) -> None:
    docs = tmp_path / "replication"
    shutil.copytree(DOCS, docs)
    page = DOCS.with_suffix(".md").read_text()
    docs.with_suffix(".md").write_text("" if other == "" else page)
    if other is None:
        (docs / "tables.md").write_text(page)
    with pytest.raises(ValueError, match=f"{wrong} for a table in .*: <!-- headline -->"):
        write_report(docs)
