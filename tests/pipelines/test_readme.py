"""What README shows can be typed: its lines run, and its commands know their options."""

import os
import re
import runpy
import shlex
import sys
from pathlib import Path

import duckdb
import pytest

from assets.lake import Lake

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
VOTES = ROOT / "examples" / "data" / "votes.csv"
LINES = re.findall(r"^    \.venv/bin/python (-m .+)$", TEXT, re.M)
# A command without its options: the module, and its first word where it has commands.
COMMANDS = sorted({" ".join(re.match(r"-m ([\w.]+)(?: ([a-z]+)(?= |$))?", each).groups("")).strip()
                   for each in LINES})  # fmt: skip


def typed(monkeypatch, *words):
    """Run `python -m WORDS` here and return its exit status."""
    monkeypatch.setattr(sys, "argv", list(words))
    monkeypatch.setattr(os, "_exit", sys.exit)  # `arena` ends its process so
    for name in [each for each in sys.modules if each == f"{words[0]}.__main__"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    return ended.value.code or 0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_there_and_takes_the_options_that_readme_gives_it(
    command, monkeypatch, capsys
):
    assert typed(monkeypatch, *command.split(), "--help") == 0
    said = capsys.readouterr().out
    shown = [each for each in LINES if each.startswith(f"-m {command}")]
    for flag in {flag for each in shown for flag in re.findall(r"--[a-z-]+", each)}:
        assert flag in said, (command, flag)


def test_an_own_csv_is_rated_by_the_lines_for_it(monkeypatch, capsys, tmp_path):
    inspect, fit = (each for each in LINES if "votes.csv" in each and "--columns" in each)
    words = shlex.split(inspect)[1:]
    place = words.index("--columns")
    told = words[place : place + 4]
    assert fit.count("...") == 2  # the same words as in the line above
    assert typed(monkeypatch, "arena", "inspect", str(VOTES), *told) == 0
    assert "400" in capsys.readouterr().out
    out = tmp_path / "ratings.parquet"
    assert typed(monkeypatch, "arena", "fit", str(VOTES), *told, "--out", str(out)) == 0
    assert out.is_file()


def test_the_library_s_lines_run(capsys):
    code = TEXT.partition("## As a library\n\n")[2].partition("\n\n`pip install")[0]
    code = re.sub(r"^    ", "", code, flags=re.M)
    assert "read_votes" in code
    how = "columns={'model_a': 'left_model', 'outcome': 'choice'}, " \
          "outcomes={'left': 'a', 'right': 'b', 'both': 'tie', 'neither': 'tie'}"  # fmt: skip
    code = code.replace('read_votes("votes.csv")', f"read_votes({str(VOTES)!r}, {how})")
    exec(code.replace('"flux", "sdxl"', '"aurora-3", "sketchy"'), found := {})
    assert found["gaps"].height == 400
    assert "aurora-3" in capsys.readouterr().out


def test_the_warehouse_answers_the_query(finished):
    (query,) = re.findall(r"\.sql\('(.+?)'\)", TEXT)
    with duckdb.connect(str(Lake(finished.lake).warehouse), read_only=True) as warehouse:
        assert len(warehouse.execute(query).fetchall()) == 10


def test_the_makefile_has_the_doors():
    made = (ROOT / "Makefile").read_text()
    doors = set(re.findall(r"^    make (\w+)", TEXT, re.M))
    assert doors == {"demo", "ui", "test"}
    assert all(f"\n{door}:" in made for door in doors)
