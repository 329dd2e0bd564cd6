"""The short examples run as their docstrings say, and what they show is true."""

import csv
import runpy
import sys
from pathlib import Path

import polars as pl
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(monkeypatch, name, *words):
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    runpy.run_module(f"examples.{name}", run_name="__main__")


def test_votes_are_rated_in_six_lines(monkeypatch, capsys):
    run(monkeypatch, "rate_votes")
    said = capsys.readouterr().out
    order = [said.index(name) for name in ("aurora-3", "fjord", "dune-xl", "sketchy")]
    assert order == sorted(order)
    # The winners that the file itself counts.
    with (EXAMPLES / "data" / "votes.csv").open() as file:
        rows = list(csv.DictReader(file))
    pair = {"aurora-3", "dune-xl"}
    met = [row for row in rows if {row["left_model"], row["right_model"]} == pair]
    won = sum(row["left_model" if row["choice"] == "left" else "right_model"] == "aurora-3"
              for row in met if row["choice"] in ("left", "right"))  # fmt: skip
    shown = float(said.partition("beats dune-xl: ")[2].partition("%")[0]) / 100
    assert shown == pytest.approx(won / len(met), abs=0.15)
    code = (EXAMPLES / "rate_votes.py").read_text().partition('"__main__":\n')[2]
    assert len(code.splitlines()) == 6


def test_a_trainer_gets_pairs_with_margins(monkeypatch, capsys, tmp_path):
    run(monkeypatch, "margins_for_a_trainer", tmp_path / "pairs")
    said = capsys.readouterr().out
    table = pl.read_parquet(tmp_path / "pairs" / "data" / "*.parquet")
    votes = pl.read_parquet(EXAMPLES / "miniature/world/votes.parquet")
    newest = votes.sort("created_at").tail(1000)
    assert table.height == newest.filter(pl.col("outcome") != "tie").height
    assert str(table.height) in said.replace(",", "")
    assert {"jpg_0", "jpg_1", "label_0", "caption", "margin"} <= set(table.columns)
    assert table["margin"].mean() == pytest.approx(1.0)  # over the training split's mean gap
    assert table["margin"].min() > 0
