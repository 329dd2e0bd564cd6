"""The arena's commands: examples, exit codes, and one sentence instead of a traceback."""

import os
import shlex
import subprocess
import sys

import pytest

from arena.__main__ import main
from arena.ratings.table import Ratings


@pytest.fixture
def votes(tmp_path):
    path = tmp_path / "votes.csv"
    rows = ["x,y,a", "y,z,b", "z,x,tie", "x,z,a", "y,x,b", "y,z,a"] * 10 + ["p,q,a", "q,p,a"]
    path.write_text("model_a,model_b,outcome\n" + "\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize("command", ["", "fit", "gaps", "inspect", "report", "tune"])
def test_every_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*command.split(), "--help"])
    assert stopped.value.code == 0
    assert f"example:\n  python -m arena {command}" in capsys.readouterr().out


def test_fit_prints_intervals_and_groups_for_every_estimator(votes, tmp_path, capsys):
    out = tmp_path / "ratings.parquet"
    for name in ("trueskill", "thurstone", "bradley_terry"):
        assert main(["fit", str(votes), "--out", str(out), "--estimator", name]) == 0
        text = capsys.readouterr().out
        assert text.count("±") == 5 * (2 if name == "bradley_terry" else 1)
        assert ("Elo, 95%" in text) == (name == "bradley_terry")
        assert "2 groups were never compared" in text
        assert Ratings.read(out).estimator == name


def test_inspect_names_the_groups(votes, capsys):
    assert main(["inspect", str(votes)]) == 0
    text = capsys.readouterr().out
    assert "groups never compared with each other: 2" in text
    assert "  1: p, q" in text


def test_report_writes_a_page_and_says_where(votes, tmp_path, capsys):
    ratings, out = tmp_path / "ratings.parquet", tmp_path / "report"
    assert main(["fit", str(votes), "--out", str(ratings)]) == 0
    assert main(["report", str(votes), "--ratings", str(ratings), "--out", str(out)]) == 0
    assert f"report: {out / 'report.html'}" in capsys.readouterr().out
    assert (out / "report.html").exists()


@pytest.mark.parametrize("name", ["trueskill", "thurstone"])
def test_the_command_that_tune_prints_runs(votes, tmp_path, capsys, name):
    assert main(["tune", str(votes), "--estimator", name]) == 0
    line = shlex.split(capsys.readouterr().out.strip().split("\n")[-1])
    assert line[:4] == ["python", "-m", "arena", "fit"]
    line[line.index("ratings.parquet")] = str(tmp_path / "r.parquet")
    assert main(line[3:]) == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"\x00\xff\xfe garbage \x80", "votes"),
        (b"model_a,outcome\nx,a\n", "no column model_b"),
        (b"[1, 2", "not readable JSON"),
    ],
)
@pytest.mark.parametrize("command", ["inspect", "fit", "tune"])
def test_garbage_ends_in_one_sentence(tmp_path, capsys, command, content, said):
    path = tmp_path / "votes"
    path.write_bytes(content)
    more = ["--out", str(tmp_path / "r.parquet")] if command == "fit" else []
    assert main([command, str(path), *more]) == 1
    error = capsys.readouterr().err
    assert error.startswith("arena: ")
    assert said in error
    assert "Traceback" not in error
    assert not (tmp_path / "r.parquet").exists()


def test_a_wrong_command_line_is_one_sentence(capsys):
    for line in ([], ["fit", "x.csv"], ["fit", "x.csv", "--out", "r", "--estimator", "best"]):
        try:
            code = main(line)
        except SystemExit as stopped:
            code = stopped.code
        assert code == 1
        assert capsys.readouterr().err.count("\n") == 1


def test_the_process_exits_with_the_code(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "arena", "inspect", str(tmp_path / "none.csv")],
        capture_output=True,
        text=True,
        env=os.environ,
        check=False,
    )
    assert run.returncode == 1
    assert "none.csv: cannot be read" in run.stderr
    assert "Traceback" not in run.stderr
