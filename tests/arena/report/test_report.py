"""The report: one self-contained page that escapes what it was given, and readable figures."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from arena.escape import printable, unformatted
from arena.gaps.pairwise import UnratedModelError
from arena.ratings.table import estimator
from arena.report.figures import gap_histogram, leaderboard, png
from arena.report.page import write_report
from arena.report.tables import leaderboard as leaderboard_text
from arena.report.tables import leaderboard_tables
from arena.schema import VOTES
from arena.votes.read import read_votes

# A model may be called anything: markup, mathematics, a terminal's commands, a line turned around.
HOSTILE = ["<script>x</script>", "a$b_{$c^", "\x1b[2J![](x)\x9b", "\u202egro.live\u2028{{ 7*7 }}"]
SPELT = [r"\x1b[2J![](x)\x9b", r"\u202egro.live\u2028{{ 7*7 }}"]


@pytest.fixture
def votes():
    """Two groups of models, images, ties, and names that are markup and mathematics."""
    rng = np.random.default_rng(0)
    models = [*HOSTILE, "plain & simple", "lone_1", "lone_2"]
    rows = []
    for k in range(300):
        i, j = rng.choice(5, 2, replace=False) if k % 5 else rng.permutation([5, 6])
        outcome = rng.choice(["a", "b", "tie"], p=[0.5, 0.3, 0.2])
        images = [f"{model}-{rng.integers(12)}" for model in (i, j)]
        rows.append((models[i], models[j], outcome, *images))
    columns = ["model_a", "model_b", "outcome", "image_a", "image_b"]
    made = pl.DataFrame(rows, columns, orient="row").with_row_index("vote_id")
    made = made.with_columns(pl.col("vote_id").cast(pl.String), source=pl.lit("<b>votes.csv"))
    absent = {name: pl.lit(None, kind) for name, kind in VOTES.items() if name not in made.columns}
    return made.with_columns(**absent).select(list(VOTES))


@pytest.mark.parametrize("name", ["trueskill", "bradley_terry"])
def test_the_page_is_whole_and_says_what_it_must(votes, tmp_path, name):
    made = estimator(name, **({"draw_probability": "auto"} if name == "trueskill" else {}))
    said = write_report(votes, made.fit(votes), tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;x&lt;/script&gt;" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert all(name in page for name in SPELT)
    assert not any(name in page for name in (HOSTILE[0], *HOSTILE[2:]))
    assert "<b>" not in page
    assert "2 groups of models were never compared" in page
    assert ("Elo, 95%" in page) == (name == "bradley_terry")
    assert f"{name}, as fitted" in said
    assert "joint" in page
    assert "converge" in page
    inlined = {base64.b64decode(code) for code in re.findall(r"base64,([^\"]+)", page)}
    files = {path.read_bytes() for path in (tmp_path / "out").glob("*.png")}
    assert inlined == files
    assert len(files) == 6
    for content in files:
        picture = np.asarray(Image.open(io.BytesIO(content)).convert("L"))
        assert min(picture.shape) > 300
        assert picture.std() > 5
        assert (picture[0] == 255).all()  # nothing is cut off at the top
        assert (picture[:, 0] == 255).all()
    assert re.search(r"<td class=text><i>constant</i>", page)
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
    with pytest.raises(UnratedModelError, match=r"'lone_1', 'lone_2' have no rating"):
        write_report(votes, ratings, tmp_path)
    with pytest.raises(ValueError, match="no usable votes"):
        write_report(votes.head(0), ratings, tmp_path)
    assert not list(tmp_path.glob("*.png"))


def test_without_images_only_the_pairwise_gap_is_shown(votes, tmp_path):
    bare = votes.with_columns(image_a=pl.lit(None, pl.String))
    write_report(bare, estimator("thurstone").fit(bare), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "No joint gap: the joint gap needs image_a and image_b and no vote has both" in page
    assert "<td class=text>joint<" not in page


def test_a_vote_that_lacks_an_image_leaves_the_others_their_joint_gap(votes, tmp_path):
    one = pl.when(pl.int_range(pl.len()) > 0).then("image_b").alias("image_b")
    some = votes.head(60).with_columns(one)
    write_report(some, estimator("thurstone").fit(some), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "; 1 votes lack an image and have no joint gap." in page
    assert "<td class=text>joint<" in page


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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Modèle 模型 🎨", "Modèle 模型 🎨"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x9b2J", r"\x9b2J"),
        ("two\nlines", r"two\nlines"),
        ("\u202eabc\u2066", r"\u202eabc\u2066"),
        ("\ud800", r"\ud800"),
        ("👩\u200d🎨", "👩\u200d🎨"),
    ],
)
def test_what_moves_a_cursor_or_turns_a_line_is_spelt_out(text, shown):
    assert printable(text) == shown
    assert printable(text).encode()


def test_a_dollar_sign_begins_no_formula(votes):
    figure = leaderboard(estimator("thurstone").fit(votes))
    labels = {label.get_text() for label in figure.axes[0].get_yticklabels()}
    others = ["plain & simple", "lone_1", "lone_2"]
    assert labels == {unformatted(name) for name in [*HOSTILE, *others]}
    for label in figure.axes[0].get_yticklabels():
        drawn, is_formula = label._preprocess_math(label.get_text())
        assert not is_formula
        assert "$" not in drawn or drawn == HOSTILE[1]


def test_the_terminal_s_table_has_no_control_character(votes):
    text = leaderboard_text(estimator("bradley_terry").fit(votes))
    assert all(line.isprintable() for line in text.splitlines())
    assert "group 1: 2 models" in text


def genai_arena():
    path = Path(__file__).parents[3] / ".." / "shared" / "data" / "genai_arena"
    if not path.is_dir():
        pytest.skip("no ../shared/data/genai_arena")
    return read_votes([path / "clean_battle_20240220.json"]).votes


def test_places_by_interval_on_genai_arena_s_votes():
    """Counted by hand from the published votes' Elo and intervals (shared/cases)."""
    (_, votes, table), *_ = leaderboard_tables(estimator("bradley_terry").fit(genai_arena()))
    assert votes == 1977
    assert table["place"].to_list() == ["1", "2", "2", "4", "5", "5"]
    assert table["by mean"].to_list() == ["1", "2", "3", "4", "5", "6"]
    elo = [cell.split(" ± ")[0] for cell in table["Elo, 95%"]]
    assert elo == ["1151", "1070", "1035", "969", "906", "868"]


def test_models_in_a_circle_share_the_first_place():
    circle = pl.DataFrame(
        {"model_a": list("ABC") * 9, "model_b": list("BCA") * 9, "outcome": ["a"] * 27}
    )
    assert estimator("bradley_terry").fit(circle).places().to_list() == [1, 1, 1]
