"""Published layouts from the file to the rating, with values that were computed without this code.

The right values stand in shared/cases/README.md.
"""

from pathlib import Path

import polars as pl
import pytest

import arena
from arena.__main__ import main

SHARED = Path(__file__).parents[2] / ".." / "shared"
CASES, DATA = SHARED / "cases" / "votes", SHARED / "data"

pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="no shared cases beside the project")


def elo(*names: str) -> dict[str, float]:
    reading = arena.read_votes([CASES / name for name in names])
    table = arena.BradleyTerry().fit(reading.votes, rankings=reading.rankings).table
    return dict(table.select("model", "elo").iter_rows())


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("hpd_v3/train.json", {"flux": 1053.36, "kolors": 975.19, "sdxl": 971.45}),
        (
            "rapidata/train_0001.parquet",
            {"flux": 1104.73, "midjourney": 1100.42, "dalle-3": 998.99, "sd3": 795.86},
        ),
        ("rapidata/counted.csv", {"flux": 1143.37, "dalle-3": 1032.89, "sd3": 823.74}),
        ("cycle/cycle.csv", {"A": 1042.795, "B": 1002.984, "C": 954.221}),
    ],
)
def test_every_rater_of_a_row_counts_in_the_rating(name, right):
    assert elo(name) == pytest.approx(right, abs=0.02)


def test_whole_floats_are_the_image_ids_that_they_were():
    def mean_gap(second: str) -> float:
        votes = arena.read_votes([CASES / "ids" / "images_1.parquet", CASES / "ids" / second]).votes
        gaps, report = arena.joint_gaps(votes, arena.TrueSkill(draw_probability=0.1).fit(votes))
        assert report.converged
        return float(gaps["gap"].mean())

    assert mean_gap("images_2_float.parquet") == pytest.approx(mean_gap("images_2.parquet"))
    assert mean_gap("images_2_float.parquet") == pytest.approx(13.7337, rel=1e-3)


def test_the_commands_go_from_a_team_s_own_csv_to_gaps(tmp_path, capsys):
    own = tmp_path / "own.csv"
    own.write_text("left_model;right_model;choice\nm;n;left\nn;m;both\nm;n;m\n")
    named = ["--columns", "model_a=left_model,model_b=right_model,outcome=choice"]
    named += ["--outcomes", "both=tie"]
    ratings, gaps = tmp_path / "ratings.parquet", tmp_path / "gaps.parquet"
    assert main(["inspect", str(own), *named]) == 0
    assert "model_a = left_model" in capsys.readouterr().out
    assert main(["fit", str(own), *named, "--out", str(ratings)]) == 0
    assert main(["gaps", str(own), *named, "--ratings", str(ratings), "--out", str(gaps)]) == 0
    table = pl.read_parquet(gaps)
    assert table["winner"].to_list() == ["m", "n", "m"]
    assert table["outcome"].to_list() == ["a", "tie", "a"]
    assert (table["gap"] > 0).all()


def test_nothing_accepted_is_an_error_with_the_commonest_reason(tmp_path, capsys):
    path = tmp_path / "votes.csv"
    path.write_text("model_a,model_b,outcome\nm,n,perhaps\nm,n,never\n")
    for command in (["inspect"], ["fit", "--out", str(tmp_path / "r.parquet")]):
        assert main([command[0], str(path), *command[1:]]) == 1
        assert "2 x outcome not a, b or tie" in capsys.readouterr().err
    assert not (tmp_path / "r.parquet").exists()


def test_what_counts_once_is_said_by_every_command(tmp_path, capsys):
    first, again = tmp_path / "monday.csv", tmp_path / "monday (1).csv"
    for path in (first, again):
        path.write_text("model_a,model_b,outcome\nm,n,a\nn,m,tie\n")
    both = [str(first), str(again)]
    ratings = str(tmp_path / "ratings.parquet")
    for command in (
        ["fit", *both, "--out", ratings],
        ["gaps", *both, "--ratings", ratings, "--out", str(tmp_path / "gaps.parquet")],
    ):
        assert main(command) == 0
        assert "the same content as" in capsys.readouterr().err
    assert pl.read_parquet(tmp_path / "gaps.parquet").height == 2
