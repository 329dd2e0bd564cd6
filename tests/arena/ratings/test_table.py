"""Ratings as people hold them: printed, read from other places, asked, and compared."""

import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pytest

from arena.gaps.pairwise import pairwise_gaps
from arena.ratings.comparisons import Comparisons
from arena.ratings.leaderboards import agreement
from arena.ratings.table import LEADERBOARD, Ratings, as_ratings, estimator
from arena.ratings.trueskill import TrueSkill

NAMES = ["model_a", "model_b", "outcome"]
ESTIMATORS = ["trueskill", "thurstone", "bradley_terry"]
VOTES = pl.DataFrame(
    [("x", "y", "a"), ("y", "z", "a"), ("z", "x", "b"), ("x", "y", "tie")] * 8, NAMES, orient="row"
)
# Columns and values as lmarena-ai/leaderboard-dataset publishes them (CC BY 4.0): the first row is
# text_style_control's first of 2026-08-03; the others are the three first of arena.ai's
# text-to-image leaderboard of 2026-07-10, whose bounds are rounded.
PUBLISHED = {
    "model_name": ["claude-fable-5", "gpt-image-2 (medium)", "reve-2.1", "muse-image"],
    "organization": ["Anthropic", "OpenAI", "Reve", "Meta"],
    "license": ["Proprietary", "proprietary", "proprietary", "proprietary"],
    "rating": [1508.576862666775, 1385.0, 1302.0, 1280.0],
    "rating_lower": [1502.750545162002, 1380.0, 1290.0, 1272.0],
    "rating_upper": [1514.403180171548, 1390.0, 1314.0, 1288.0],
    "vote_count": [17799, 60382, 2432, 8384],
    "rank": [1, 1, 2, 3],
    "category": ["overall"] * 4,
    "leaderboard_publish_date": ["2026-08-03"] * 4,
}


def leaderboard(*rows):
    return pl.DataFrame(rows, ["model", "mu", "sigma"], orient="row")


@pytest.mark.parametrize("name", ESTIMATORS)
def test_what_was_written_is_read_back(name, tmp_path):
    votes = VOTES.with_columns(vote_id=pl.format("v{}", pl.int_range(pl.len())))
    ratings = estimator(name).fit(votes)
    ratings.write(tmp_path / "ratings.parquet")
    again = Ratings.read(tmp_path / "ratings.parquet")
    assert again.table.equals(ratings.table)
    assert (again.parameters, again.settings) == (ratings.parameters, ratings.settings)
    assert again.ids == ratings.ids
    assert again.estimate_as() == estimator(name)
    if name == "trueskill":
        assert again.covariance is None
        assert len(again.ids) == 32
    else:
        assert np.array_equal(again.covariance, ratings.covariance)
    assert again.win_probability("x", "y") == ratings.win_probability("x", "y")


def test_a_leaderboard_is_printed_and_asked():
    ratings = TrueSkill().fit(VOTES)
    lines = repr(ratings).splitlines()
    assert lines[0].startswith("trueskill: mu 25, ")
    assert lines[2] == "3 models, 32 votes"
    assert [line.split()[2] for line in lines[4:]] == ["x", "y", "z"]
    assert ratings.conservative.to_list() == pytest.approx(
        (ratings.table["mu"] - 3 * ratings.table["sigma"]).to_list()
    )
    a, b = ratings.win_probability("x", "z"), ratings.win_probability("z", "x")
    assert 0.0 < b < 0.5 < a < 1.0 - b
    with pytest.raises(KeyError, match="model 'w' has no rating"):
        ratings.win_probability("x", "w")


@pytest.mark.parametrize("suffix", ["parquet", "csv", "json", "jsonl"])
def test_model_mu_and_sigma_alone_are_a_prior(suffix, tmp_path):
    table = leaderboard(("x", 30.0, 2.0), ("y", 24.0, 1.5))
    path = tmp_path / f"board.{suffix}"
    write = {"parquet": "parquet", "csv": "csv", "json": "json", "jsonl": "ndjson"}[suffix]
    getattr(table, f"write_{write}")(path)
    prior = Ratings.read(path)
    assert prior.estimator == LEADERBOARD
    assert prior.parameters["beta"] == 25.0 / 6.0
    assert prior.parameters["draw_probability"] == 0.10
    votes = pl.DataFrame([("x", "w", "b")], NAMES, orient="row")
    after = TrueSkill().fit(votes, prior=prior).table
    assert after["model"].to_list() == ["w", "x", "y"]
    assert after.filter(model="y").row(0)[1:3] == (24.0, 1.5)
    assert after.filter(model="x")["mu"][0] < 30.0
    assert after.equals(TrueSkill().fit(votes, prior=table.to_pandas()).table)
    assert prior.with_vote("x", "w", "b").table.equals(after)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (pl.DataFrame({"model": ["x"], "score": [1.0]}), "it lacks the columns mu, sigma"),
        (leaderboard(("x", 1.0, 0.0)), "model 'x' has mu 1.0 and sigma 0.0"),
        (leaderboard(("x", None, 1.0)), "model 'x' has mu None"),
        (leaderboard(("x", 1.0, 1.0), (" x", 2.0, 1.0)), "model 'x' is rated twice"),
        (leaderboard(("x", "high", 1.0)), "a column is of another type"),
    ],
)
def test_a_leaderboard_that_is_none_is_refused_with_the_file(table, said, tmp_path):
    table.write_parquet(tmp_path / "board.parquet")
    with pytest.raises(ValueError, match=rf"board\.parquet: .*{said}"):
        Ratings.read(tmp_path / "board.parquet")


@pytest.mark.parametrize("estimator_s", ESTIMATORS)
def test_models_may_be_numbers(estimator_s):
    votes = pl.DataFrame([(1, 2, "a"), (2, 3, "b"), (1, 3, "tie")], NAMES, orient="row")
    ratings = estimator(estimator_s).fit(votes)
    assert set(ratings.table["model"]) == {"1", "2", "3"}
    assert pairwise_gaps(votes, ratings)["winner"].to_list() == ["1", "3", "1"]
    with pytest.raises(ValueError, match="vote 1: outcome '1' is none of a, b, tie"):
        estimator(estimator_s).fit(votes.with_columns(outcome=pl.lit(1)))


@pytest.mark.parametrize(
    "text",
    [
        "Model; Mu ;SIGMA\nx;27.5;1\n",
        "sep=,\nmodel,mu,sigma\nx,27.5,1\n",
        "model\tmu\tsigma\nx\t27.5\t1",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_leaderboard_is_read_in_the_dialects_of_votes(text, encoding, tmp_path):
    (tmp_path / "board.csv").write_text(text, encoding=encoding)
    table = Ratings.read(tmp_path / "board.csv").table
    assert table.select("model", "mu", "sigma").rows() == [("x", 27.5, 1.0)]


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"model,mu,sigma\nx,1,1,9\n", b"\x1f\x8b\x08"]
)
def test_a_damaged_leaderboard_is_refused_in_a_sentence(content, tmp_path):
    (tmp_path / "board.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"board\.csv: no table of ratings"):
        Ratings.read(tmp_path / "board.csv")


def test_a_file_that_is_no_table_is_refused(tmp_path):
    (tmp_path / "board.json").write_text("<html>")
    with pytest.raises(ValueError, match=r"board\.json: no table of ratings"):
        Ratings.read(tmp_path / "board.json")


def test_lmarena_s_leaderboard_is_read_on_the_scale_of_mu():
    ratings = as_ratings(pl.DataFrame(PUBLISHED))
    first = ratings.table.row(0, named=True)
    assert first["model"] == "claude-fable-5"
    points = 25.0 / 6.0 * np.sqrt(2.0) / 1.702 / (400.0 / np.log(10.0))
    assert first["mu"] == pytest.approx(25.0 + 508.576862666775 * points)
    assert first["sigma"] == pytest.approx(5.826317504773 / 1.96 * points)
    assert first["votes"] == 17799
    # The map is bradley_terry's own: its Elo, read so, is its mu.
    fitted = estimator("bradley_terry").fit(VOTES).table
    board = fitted.select(model_name="model", rating="elo")
    assert as_ratings(board).table["mu"].to_list() == pytest.approx(fitted["mu"].to_list())
    assert set(as_ratings(board).table["sigma"]) == {25.0 / 3.0}  # no bounds


def test_of_several_categories_and_dates_the_overall_newest_counts():
    old = {**PUBLISHED, "leaderboard_publish_date": ["2026-07-01"] * 4, "rating": [9.0] * 4}
    other = {**PUBLISHED, "category": ["portraits"] * 4, "rating": [8.0] * 4}
    frames = [pl.DataFrame(table) for table in (old, PUBLISHED, other)]
    assert as_ratings(pl.concat(frames)).table.equals(as_ratings(frames[1]).table)


def test_agreement_names_the_models_that_are_surely_the_other_way_round():
    shared = ("a", 30.0, 0.2), ("b", 28.0, 0.2), ("c", 26.0, 0.2)
    reference = leaderboard(*shared, ("only", 1.0, 1.0))
    mine = leaderboard(("a", 30.0, 0.2), ("b", 25.9, 0.2), ("c", 27.9, 0.2), ("own", 1.0, 1.0))
    found = agreement(as_ratings(mine), as_ratings(reference))
    assert found.spearman == pytest.approx(0.5)
    assert found.disagree == ["c", "b"]
    assert (found.only_here, found.only_there) == (["own"], ["only"])
    assert "b: place 3 here, 2 there; surely the other way round with 1 model" in str(found)
    unsure = mine.with_columns(sigma=pl.lit(1.5))
    found = agreement(as_ratings(unsure), as_ratings(reference))
    assert (found.spearman, found.disagree) == (pytest.approx(0.5), [])
    with pytest.raises(ValueError, match="rates none of these models"):
        agreement(as_ratings(mine), as_ratings(leaderboard(("z", 1.0, 1.0))))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_pandas_frames_are_votes_too(name):
    rows = VOTES.with_columns(created_at=pl.int_range(pl.len()).cast(pl.Datetime("us", "UTC")))
    frame = pd.DataFrame(rows.to_dict(as_series=False))
    assert estimator(name).fit(frame).table.equals(estimator(name).fit(rows).table)
    assert estimator(name).fit(VOTES.lazy()).table.equals(estimator(name).fit(VOTES).table)
    with pytest.raises(TypeError, match="a polars or pandas frame is needed, not list"):
        estimator(name).fit([("x", "y", "a")])


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize(
    ("row", "said"),
    [
        (("x", "y", None), "vote 33: outcome is null"),
        (("x", None, "a"), "vote 33: model_b is null"),
        (("x", "y", "draw"), "vote 33: outcome 'draw' is none of a, b, tie"),
    ],
)
def test_nulls_and_unknown_outcomes_are_refused_with_their_row(name, row, said):
    votes = pl.concat([VOTES, pl.DataFrame([row], VOTES.schema, orient="row")])
    for table in (votes, votes.to_pandas()):
        with pytest.raises(ValueError, match=said):
            estimator(name).fit(table)
    with pytest.raises(ValueError, match="the votes have no column outcome"):
        estimator(name).fit(VOTES.drop("outcome"))
    counted = VOTES.with_columns(votes_a=pl.lit(-1))
    with pytest.raises(ValueError, match="votes_a, votes_b and votes_tie are how many raters"):
        estimator(name).fit(counted)


def test_rows_that_sum_raters_are_mixed_evenly_or_counted_by_majority():
    counted = pl.DataFrame(
        [("x", "y", "a", 3, 1), ("x", "z", "tie", None, None)],
        [*NAMES, "votes_a", "votes_b"],
        orient="row",
    )
    each = [("x", "y", o) for o in "aaba"] + [("x", "z", "tie")]
    each = pl.DataFrame(each, NAMES, orient="row")
    assert TrueSkill(counts="each").fit(counted).table.equals(TrueSkill().fit(each).table)
    columns = ["model", "mu", "sigma"]
    most = TrueSkill().fit(counted).table
    assert most.select(columns).equals(TrueSkill().fit(counted.select(NAMES)).table.select(columns))
    assert most["votes"].sum() == 10
    assert Comparisons.of(each).tally is None


def test_the_library_loads_no_plotting_no_torch_and_no_pandas():
    code = (
        "import sys, arena.ratings.trueskill, arena.prediction.tune\n"
        "heavy = {'matplotlib', 'torch', 'pandas', 'dagster', 'mlflow'}\n"
        "print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
    assert said.stderr == ""


def test_a_name_from_a_stranger_moves_no_cursor_in_what_is_printed():
    hostile = "\x1b[2J\u202eevil"
    votes = pl.DataFrame({"model_a": [hostile], "model_b": ["n"], "outcome": ["a"]})
    ratings = TrueSkill().fit(votes)
    other = as_ratings(pl.DataFrame({"model": ["n"], "mu": [25.0], "sigma": [1.0]}))
    for said in (repr(ratings), str(agreement(ratings, other))):
        assert all(line.isprintable() for line in said.splitlines())
        assert r"\x1b[2J\u202eevil" in said


def test_a_long_leaderboard_is_cut_where_it_is_only_looked_at():
    board = leaderboard(*[(f"m{k:02d}", 30.0 - k, 1.0) for k in range(25)])
    lines = repr(as_ratings(board)).splitlines()
    assert lines[-2].split()[2] == "m19"
    assert lines[-1] == "  ... and 5 more"
