"""Gaps as tables: several estimators beside each other, and the joint one through the command."""

import polars as pl
import pytest

from arena.__main__ import main
from arena.gaps.joint import joint_gaps
from arena.gaps.pairwise import pairwise_gaps
from arena.gaps.table import gaps_by
from arena.ratings.table import Ratings
from arena.ratings.trueskill import TrueSkill
from arena.schema import GAPS


@pytest.fixture
def votes():
    rows = [
        ("v0", "p", "q", "a", "p1", "q1"),
        ("v1", "q", "r", "a", "q1", "r1"),
        ("v2", "r", "p", "tie", "r1", "p1"),
        ("v3", "r", "q", "a", "r1", "q2"),
        ("v4", "p", "r", "b", "p1", None),
    ]
    names = ["vote_id", "model_a", "model_b", "outcome", "image_a", "image_b"]
    return pl.DataFrame(rows, schema=names, orient="row")


def test_the_first_estimator_has_the_plain_columns_and_others_their_name(votes):
    ratings = TrueSkill().fit(votes)
    both, report = gaps_by(["pairwise", "joint"], votes, ratings)
    assert both.select(*GAPS).equals(pairwise_gaps(votes, ratings))
    alone, same = joint_gaps(votes[:4], ratings)
    assert both["joint_gap"].to_list() == [*alone["gap"], None]
    assert both["joint_probability"].to_list() == [*alone["probability"], None]
    assert report.settings.rho == same.settings.rho
    other, _ = gaps_by(["joint", "pairwise"], votes, ratings)
    assert other["gap"].equals(both["joint_gap"].alias("gap"))
    assert other["pairwise_gap"].equals(both["gap"].alias("pairwise_gap"))
    assert gaps_by(["pairwise"], votes, ratings)[1] is None


def test_the_command_writes_joint_gaps_and_says_how_they_came_about(votes, tmp_path, capsys):
    files = [str(tmp_path / name) for name in ("votes.parquet", "ratings.parquet", "gaps.parquet")]
    votes[:4].write_parquet(files[0])
    assert main(["fit", files[0], "--out", files[1]]) == 0
    command = ["gaps", files[0], "--ratings", files[1], "--out", files[2], "--estimator", "joint"]
    assert main([*command, "--signed"]) == 0
    said = capsys.readouterr().out
    assert "of a performance's variance" in said
    assert "converged in" in said
    table = pl.read_parquet(files[2])
    assert dict(table.schema) == GAPS
    assert table["vote_id"].to_list() == ["v0", "v1", "v2", "v3"]
    assert main([*command, "--spread", "predictive"]) == 1
    assert "--spread is not for the joint gap" in capsys.readouterr().err


def test_the_command_writes_the_difference_of_mu_with_and_without_its_sign(votes, tmp_path, capsys):
    files = [str(tmp_path / name) for name in ("votes.parquet", "ratings.parquet", "gaps.parquet")]
    votes.write_parquet(files[0])
    assert main(["fit", files[0], "--out", files[1]]) == 0
    command = ["gaps", files[0], "--ratings", files[1], "--out", files[2]]
    command += ["--estimator", "capability"]
    mu = dict(pl.read_parquet(files[1]).select("model", "mu").iter_rows())
    for signed in (True, False):
        assert main([*command, *(["--signed"] if signed else [])]) == 0
        table = pl.read_parquet(files[2])
        assert dict(table.schema) == GAPS
        for row in table.iter_rows(named=True):
            gap = mu[row["winner"]] - mu[row["loser"]]
            if not signed:
                gap = abs(gap) if row["outcome"] == "tie" else max(gap, 0.0)
            assert row["gap"] == pytest.approx(gap, abs=1e-12)
        pairwise = pairwise_gaps(votes, Ratings.read(files[1]))
        # The vote's probability was the same before it was cast.
        assert table["probability"].to_list() == pytest.approx(pairwise["probability"].to_list())
    both, _ = gaps_by(["pairwise", "capability"], votes, Ratings.read(files[1]))
    assert both["capability_gap"].to_list() == table["gap"].to_list()


def test_votes_without_images_have_no_joint_gap(votes, tmp_path, capsys):
    files = [str(tmp_path / name) for name in ("votes.csv", "ratings.parquet", "gaps.parquet")]
    votes.drop("image_a").write_csv(files[0])
    assert main(["fit", files[0], "--out", files[1]]) == 0
    command = ["gaps", files[0], "--ratings", files[1], "--out", files[2], "--estimator", "joint"]
    assert main(command) == 1
    assert "the joint gap needs image_a and image_b and no vote has both" in capsys.readouterr().err


def test_a_joint_gap_that_does_not_converge_ends_the_command_with_a_sentence(
    votes, tmp_path, capsys, monkeypatch
):
    from arena.gaps import table

    files = [str(tmp_path / name) for name in ("votes.csv", "ratings.parquet", "gaps.parquet")]
    votes.write_csv(files[0])
    assert main(["fit", files[0], "--out", files[1]]) == 0
    monkeypatch.setattr(table, "joint_gaps", lambda *given: joint_gaps(*given, sweeps=1))
    command = ["gaps", files[0], "--ratings", files[1], "--out", files[2], "--estimator", "joint"]
    capsys.readouterr()
    assert main(command) == 1
    said = capsys.readouterr()
    assert "did not converge: after 1 sweeps" in said.err
    assert "use --estimator pairwise" in said.err
    assert len(said.err.splitlines()) == 1
    assert not (tmp_path / "gaps.parquet").exists()
