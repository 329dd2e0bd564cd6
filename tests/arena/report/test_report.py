"""The report: one self-contained page that escapes what it was given, and readable figures."""

import base64
import io
import re

import numpy as np
import polars as pl
import pytest
from PIL import Image

from arena.gaps.pairwise import UnratedModelError
from arena.ratings.table import estimator
from arena.report.figures import gap_histogram, png
from arena.report.page import write_report
from arena.votes.open import read_votes


@pytest.fixture
def votes(tmp_path):
    """Two groups of models, images, ties, and names that are markup and mathematics."""
    rng = np.random.default_rng(0)
    models = ["<script>x</script>", "a$b$c", "plain & simple", "lone_1", "lone_2"]
    rows = []
    for k in range(400):
        i, j = rng.choice(3, 2, replace=False) if k % 5 else rng.permutation([3, 4])
        outcome = rng.choice(["a", "b", "tie"], p=[0.5, 0.3, 0.2])
        images = [f"{model}-{rng.integers(12)}" for model in (i, j)]
        rows.append((models[i], models[j], outcome, *images))
    columns = ["model_a", "model_b", "outcome", "image_a", "image_b"]
    pl.DataFrame(rows, columns, orient="row").write_csv(tmp_path / "votes.csv")
    return read_votes([tmp_path / "votes.csv"]).votes


@pytest.mark.parametrize("name", ["trueskill", "thurstone", "bradley_terry"])
def test_the_page_is_whole_and_says_what_it_must(votes, tmp_path, name):
    made = estimator(name, **({"draw_probability": "auto"} if name == "trueskill" else {}))
    said = write_report(votes, made.fit(votes), tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;x&lt;/script&gt;" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "2 groups of models were never compared" in page
    assert ("Elo, 95%" in page) == (name == "bradley_terry")
    assert f"{name}, as fitted" in said
    assert "joint" in page
    assert "converge" in page
    inlined = {base64.b64decode(code) for code in re.findall(r"base64,([^\"]+)", page)}
    files = {path.read_bytes() for path in (tmp_path / "out").glob("*.png")}
    assert inlined == files
    assert len(files) == 7
    for content in files:
        picture = np.asarray(Image.open(io.BytesIO(content)).convert("L"))
        assert min(picture.shape) > 300
        assert picture.std() > 5
        assert (picture[0] == 255).all()  # nothing is cut off at the top
        assert (picture[:, 0] == 255).all()
    table = pl.read_csv(tmp_path / "out" / "held_out.csv")
    assert {"constant", "elo, K=24", f"{name}, as fitted"} <= set(table["method"])


def test_few_votes_say_that_nothing_was_measured(votes, tmp_path):
    few = votes.head(4)
    said = write_report(few, estimator("thurstone").fit(few), tmp_path)
    assert "Not measured: 4 votes" in said
    assert "Not measured: 4 votes" in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "held_out.csv").exists()


def test_a_model_without_a_rating_and_no_votes_at_all_are_refused(votes, tmp_path):
    ratings = estimator("thurstone").fit(votes.filter(~pl.col("model_a").str.contains("lone")))
    with pytest.raises(UnratedModelError, match=r"'lone_.' has no rating"):
        write_report(votes, ratings, tmp_path)
    with pytest.raises(ValueError, match="no usable votes"):
        write_report(votes.head(0), ratings, tmp_path)
    assert not list(tmp_path.glob("*.png"))


def test_without_images_only_the_pairwise_gap_is_shown(votes, tmp_path):
    bare = votes.with_columns(image_a=pl.lit(None, pl.String))
    write_report(bare, estimator("thurstone").fit(bare), tmp_path)
    assert "The joint gap needs both images" in (tmp_path / "report.html").read_text()


def test_the_ticks_of_the_gap_histogram_stand_where_they_say():
    gap = np.maximum(np.linspace(-1.5, 8.0, 400), 0.0)  # a sixth at 0: ticks at 2.5%
    gaps = pl.DataFrame({"outcome": "a", "gap": gap})
    figure = gap_histogram({"pairwise": gaps})
    png(figure)  # laid out
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    for place, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True):
        if low <= place <= high:
            assert float(label.get_text().rstrip("%")) / 100 == pytest.approx(place)
